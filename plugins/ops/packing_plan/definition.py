"""PackingPlan: which slots of a padded batch are kept, in which order, and where each sequence begins."""

from __future__ import annotations

from raggedrt.plugins.contract.op_definition import INT32, MASKS, AttributeSpec, OpDefinition, TensorSpec

OP = OpDefinition(
    name="PackingPlan",
    doc="""Lists the kept slots of a padded batch in row-major order.

A slot is valid where `attention_mask` is non-zero. `keep_slots` (slot numbers, negative ones count from the end) and
`keep_mask` keep further slots because something reads them; such a slot is a query but never a visible key, so its
`key_position` is -1. With `capacity` n > 0 the token axis is rounded up to a multiple of n (at least n); rows past
`cu_seqlens[B]` are never read and hold token_index 0, position 0 and key_position -1.""",
    inputs=(
        TensorSpec("attention_mask", "M", MASKS, ("B", "S")),
        TensorSpec("keep_mask", "K", MASKS, ("B", "S"), optional=True, doc="further slots to keep (non-zero)"),
    ),
    outputs=(
        TensorSpec("token_index", "I", INT32, ("T",), doc="row * S + slot of each kept token"),
        TensorSpec("cu_seqlens", "I", INT32, ("B+1",), doc="start of each sequence, then the token count"),
        TensorSpec("position", "I", INT32, ("T",), doc="original slot of each kept token"),
        TensorSpec("key_position", "I", INT32, ("T",), doc="position, or -1 where the slot is kept but not valid"),
    ),
    attributes=(
        AttributeSpec("keep_slots", (), "slots of every row that are kept even where the mask is zero"),
        AttributeSpec("capacity", 0, "round the token count up to a multiple of this; 0: exact"),
    ),
)
