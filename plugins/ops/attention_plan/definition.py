"""AttentionPlan: how the work of an attention is divided, made once for all layers with the same lengths and mask."""

from __future__ import annotations

from raggedrt.plugins.contract.op_definition import (
    DATA,
    INT32,
    AttributeSpec,
    ElementType,
    OpDefinition,
    TensorSpec,
)

CARRIERS = (ElementType.FLOAT, ElementType.INT32, ElementType.INT64, ElementType.BOOL)
NOTHING_LISTED = 4
"""Length of a work list that lists nothing."""

OP = OpDefinition(
    name="AttentionPlan",
    doc="""Makes the `work_list` of every RaggedAttention with these lengths, positions, mask attributes and tile_ptr.

A work list changes no value, only how soon it is there. What stands in it is between the ops of one back end: back
ends that divide work in another way, and function bodies, give four zeros, and any RaggedAttention takes those for no
list at all.

With CUDA the first number tells how many items are used; after three more numbers an item is four: sequence, first
query within the sequence, number of queries, split of the keys. Items with more keys to visit come first; with a tile
list the queries of an item lie in one tile row. What is known of each 64 key positions may follow the items.""",
    inputs=(
        TensorSpec("cu_seqlens_q", "I", INT32, ("B+1",)),
        TensorSpec("cu_seqlens_k", "I", INT32, ("B+1",)),
        TensorSpec("max_seqlen_q", "Cq", CARRIERS, ("Mq",), doc="only its length is read: no sequence is longer"),
        TensorSpec("max_seqlen_k", "Ck", CARRIERS, ("Mk",), doc="only its length is read"),
        TensorSpec("tokens_q", "Dq", DATA, ("Tq", "..."), doc="only its first length is read, such as of the queries"),
        TensorSpec("tokens_k", "Dk", DATA, ("Tk", "..."), doc="only its first length is read"),
        TensorSpec("positions_q", "I", INT32, ("Tq",), optional=True),
        TensorSpec("positions_k", "I", INT32, ("Tk",), optional=True),
        TensorSpec("tile_ptr", "I", INT32, ("B|1", "G", "R+1"), optional=True),
    ),
    outputs=(TensorSpec("work_list", "I", INT32, ("L",)),),
    attributes=(
        AttributeSpec("causal", 0),
        AttributeSpec("window_left", -1),
        AttributeSpec("window_right", -1),
        AttributeSpec("global_tokens", ()),
        AttributeSpec("dilation", 1),
        AttributeSpec("block_size", 0, "of the tile list; 0: none"),
    ),
)
