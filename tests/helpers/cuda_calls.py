"""The call structs of cuda/launch/launch.h for ctypes; sizes are compared with the library's when it is opened."""

from __future__ import annotations

import ctypes

INT, LONG, FLOAT, POINTER, SIZE = ctypes.c_int, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p, ctypes.c_size_t
Field = tuple[str, type]


def _fields(kind: type, *names: str) -> tuple[Field, ...]:
    return tuple((name, kind) for name in names)


class PackingInput(ctypes.Structure):
    """`PackingInput` of cpu/packing_plan.h."""

    _fields_ = (
        ("mask_element", INT),
        ("mask", POINTER),
        ("keep_element", INT),
        ("keep_mask", POINTER),
        ("keep_slots", POINTER),
        *_fields(LONG, "keep_count", "rows", "slots", "capacity"),
    )


class PackingOutput(ctypes.Structure):
    """`PackingOutput` of cpu/packing_plan.h."""

    _fields_ = _fields(POINTER, "token_index", "cu_seqlens", "position", "key_position")


class PackingPlanCall(ctypes.Structure):
    """PackingPlan."""

    _fields_ = (("input", PackingInput), ("output", PackingOutput), ("tokens", LONG), ("token_count", POINTER))


class TokenCopy(ctypes.Structure):
    """PackTokens and UnpackTokens: `TokenCopy` of cpu/token_copy.h."""

    _fields_ = (
        *_fields(POINTER, "source", "target", "token_index", "key_position"),
        *_fields(LONG, "tokens", "slots"),
        ("row_bytes", SIZE),
    )


class MaskTerms(ctypes.Structure):
    """`MaskTerms` of cpu/attention.h."""

    _fields_ = (
        *_fields(LONG, "window_left", "window_right", "dilation"),
        ("global_tokens", POINTER),
        ("global_count", LONG),
    )


class TileList(ctypes.Structure):
    """`TileList` of cpu/attention.h."""

    _fields_ = (
        *_fields(POINTER, "ptr", "col", "tag", "bits", "head_group"),
        *_fields(LONG, "sequences", "groups", "rows", "entries", "bitmaps"),
        ("block_size", INT),
    )


class ScoreTerms(ctypes.Structure):
    """`ScoreTerms` of cpu/attention.h."""

    _fields_ = (
        ("softcap", FLOAT),
        ("bias", POINTER),
        *_fields(LONG, "bias_sequences", "bias_heads", "bias_size"),
        ("distance_bias", POINTER),
        *_fields(LONG, "distance_heads", "distance_count"),
        *_fields(POINTER, "rel_query", "rel_key", "rel_bucket"),
        *_fields(LONG, "rel_size", "bucket_count"),
        *_fields(POINTER, "head_sink", "alibi_slopes"),
    )


class AttentionProblem(ctypes.Structure):
    """`AttentionProblem` of cpu/attention.h."""

    _fields_ = (
        ("element", INT),
        *_fields(POINTER, "query", "key", "value", "cu_seqlens_q", "cu_seqlens_k", "positions_q", "positions_k"),
        *_fields(POINTER, "output", "lse"),
        *_fields(LONG, "sequences", "total_q", "total_k"),
        *_fields(INT, "num_heads", "kv_num_heads", "head_size", "value_head_size"),
        ("scale", FLOAT),
        ("causal", ctypes.c_bool),
        ("mask", MaskTerms),
        ("tiles", TileList),
        ("scores", ScoreTerms),
    )


class AttentionPlanCall(ctypes.Structure):
    """AttentionPlan."""

    _fields_ = (
        ("problem", AttentionProblem),
        *_fields(LONG, "max_seqlen_q", "max_seqlen_k"),
        ("work_list", POINTER),
    )


class AttentionCall(ctypes.Structure):
    """RaggedAttention."""

    _fields_ = (
        ("problem", AttentionProblem),
        *_fields(LONG, "max_seqlen_q", "max_seqlen_k"),
        ("work_list", POINTER),
        ("work_list_size", LONG),
    )


class MergeCall(ctypes.Structure):
    """MergeAttentionStates: `MergeProblem` of cpu/merge_states.h."""

    _fields_ = (
        ("element", INT),
        *_fields(POINTER, "output1", "output2", "lse1", "lse2", "output", "lse"),
        ("tokens", LONG),
        *_fields(INT, "heads", "head_size"),
    )


class BlockMaskInput(ctypes.Structure):
    """`BlockMaskInput` of cpu/block_mask.h."""

    _fields_ = (
        ("rules", POINTER),
        *_fields(LONG, "rule_count", "length", "block_size"),
        ("blocks", POINTER),
        *_fields(LONG, "groups", "block_rows", "block_columns"),
        ("cu_seqlens", POINTER),
        ("sequences", LONG),
    )


class BlockMaskCall(ctypes.Structure):
    """BlockMask."""

    _fields_ = (
        ("input", BlockMaskInput),
        *_fields(POINTER, "tile_ptr", "tile_col", "tile_tag", "tile_bits"),
        *_fields(LONG, "entries", "bitmaps"),
        *_fields(POINTER, "entry_count", "bitmap_count"),
    )


class DeviceLimits(ctypes.Structure):
    """`DeviceLimits` of launch.h."""

    _fields_ = _fields(
        INT, "compute_capability", "multiprocessors", "shared_bytes_per_block", "shared_bytes_per_multiprocessor",
        "threads_per_multiprocessor",
    )  # fmt: skip


CALLS: dict[str, type[ctypes.Structure]] = {
    "packing_plan": PackingPlanCall,
    "pack_tokens": TokenCopy,
    "unpack_tokens": TokenCopy,
    "attention_plan": AttentionPlanCall,
    "attention": AttentionCall,
    "merge": MergeCall,
    "block_mask": BlockMaskCall,
}
"""Call structs by the names of c_api.cc."""
