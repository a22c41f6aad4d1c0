"""RaggedAttention: softmax(q k^T * scale + mask) v over sequences packed end to end, with sparse masks."""

from __future__ import annotations

from raggedrt.plugins.contract.op_definition import (
    FLOAT32,
    FLOATS,
    INT32,
    AttributeSpec,
    ElementType,
    OpDefinition,
    TensorSpec,
)

CARRIERS = (ElementType.FLOAT, ElementType.INT32, ElementType.INT64, ElementType.BOOL)

OP = OpDefinition(
    name="RaggedAttention",
    doc="""Attention within each sequence of a packed batch.

Head n reads key/value head n // (num_heads / kv_num_heads).

Key j is visible to query i of the same sequence if its position is not negative and the mask allows it: `causal` means
position_k <= position_q, a window means -window_left <= position_k - position_q <= window_right (-1: unbounded).
Without positions both are indices within the sequence; causal with different lengths is then aligned at the end.
A bias by position or distance, like every mask, needs the positions of both sides or of neither. Scores are scaled,
then capped, then biased. Softmax in fp32. A query with no visible key gives output 0 and lse -inf.

A tile list (`tile_ptr`, `tile_col`, `tile_tag`, `tile_bits`, all or none, with block_size s) masks by original
positions, on top of the attributes. The query at position p lies in tile row r = p // s. Entries tile_ptr[b, g, r] to
tile_ptr[b, g, r + 1] - 1 are the tiles that it may see: tile column tile_col[e] (ascending) is seen whole where
tile_tag[e] is -1, else as bitmap tile_tag[e] tells: element i = (p % s) * s + key position % s is bit i % 32 of word
i // 32. What has no entry, and every position past the rows, is hidden. One sequence in tile_ptr is shared by all; head
n reads group head_group[n], without head_group group n, or the only one.

Disentangled terms (DeBERTa) are biases: with d = key position - query position, clipped to -(P-1) … P-1, and bucket
c = rel_bucket[d + P - 1], head n adds rel_query[query, n, c] (content to position: q times the projected position
embeddings, divided by their scale) and rel_key[key, n, c] (position to content: the same of k). Either may be
absent.""",
    inputs=(
        TensorSpec("query", "T", FLOATS, ("Tq", "N*H")),
        TensorSpec("key", "T", FLOATS, ("Tk", "Nkv*H")),
        TensorSpec("value", "T", FLOATS, ("Tk", "Nkv*Hv")),
        TensorSpec("cu_seqlens_q", "I", INT32, ("B+1",)),
        TensorSpec("cu_seqlens_k", "I", INT32, ("B+1",)),
        TensorSpec("max_seqlen_q", "Cq", CARRIERS, ("Mq",), doc="only its length is read: no sequence is longer"),
        TensorSpec("max_seqlen_k", "Ck", CARRIERS, ("Mk",), doc="only its length is read"),
        TensorSpec("positions_q", "I", INT32, ("Tq",), optional=True, doc="original slots"),
        TensorSpec("positions_k", "I", INT32, ("Tk",), optional=True, doc="original slots; negative: never visible"),
        TensorSpec("tile_ptr", "I", INT32, ("B|1", "G", "R+1"), optional=True, doc="first entry of each tile row"),
        TensorSpec("tile_col", "I", INT32, ("E",), optional=True, doc="tile column of each entry"),
        TensorSpec("tile_tag", "I", INT32, ("E",), optional=True, doc="-1: full, else the bitmap's index"),
        TensorSpec("tile_bits", "I", INT32, ("P'", "W"), optional=True, doc="bitmaps, 32 elements per word"),
        TensorSpec("head_group", "I", INT32, ("N",), optional=True, doc="group of tile_ptr that each head reads"),
        TensorSpec("bias", "T", FLOATS, ("1|B", "1|N", "S", "S"), optional=True, doc="in original positions"),
        TensorSpec("distance_bias", "T", FLOATS, ("1|N", "2P-1"), optional=True, doc="distance 0 in the middle"),
        TensorSpec("rel_query", "T", FLOATS, ("Tq", "N", "C"), optional=True, doc="what each bucket adds to a query"),
        TensorSpec("rel_key", "T", FLOATS, ("Tk", "N", "C"), optional=True, doc="what each bucket adds to a key"),
        TensorSpec("rel_bucket", "I", INT32, ("2P-1",), optional=True, doc="bucket by distance, 0 in the middle"),
        TensorSpec("head_sink", "F", FLOAT32, ("N",), optional=True, doc="logit that only the denominator counts"),
        TensorSpec("alibi_slopes", "F", FLOAT32, ("N",), optional=True, doc="scores lose slope * |distance|"),
        TensorSpec("work_list", "I", INT32, ("L",), optional=True, doc="of AttentionPlan; changes no value"),
    ),
    outputs=(
        TensorSpec("output", "T", FLOATS, ("Tq", "N*Hv")),
        TensorSpec("lse", "F", FLOAT32, ("N", "Tq"), optional=True, doc="log of the softmax denominator"),
    ),
    attributes=(
        AttributeSpec("num_heads", None, "query heads N"),
        AttributeSpec("kv_num_heads", 0, "key/value heads; 0: num_heads"),
        AttributeSpec("scale", 0.0, "factor on q k^T; 0: 1/sqrt(H)"),
        AttributeSpec("softcap", 0.0, "c > 0: scores become c * tanh(scores / c)"),
        AttributeSpec("causal", 0),
        AttributeSpec("window_left", -1, "keys further back are masked; -1: unbounded"),
        AttributeSpec("window_right", -1, "keys further ahead are masked; -1: unbounded"),
        AttributeSpec(
            "global_tokens", (), "positions exempt from window and dilation, as query and as key; not from causal"
        ),
        AttributeSpec("dilation", 1, "keys at other distances than its multiples are masked"),
        AttributeSpec("block_size", 0, "rows and columns of a mask tile, a multiple of 8; 0: no tile list"),
    ),
)
