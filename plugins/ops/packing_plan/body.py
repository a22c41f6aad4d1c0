"""Function body of PackingPlan."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from raggedrt.plugins.body_builder import BodyBuilder

_INT32 = ir.DataType.INT32
_INT64 = ir.DataType.INT64


def build(b: BodyBuilder) -> Sequence[ir.Value]:
    """The op's outputs as standard ops."""
    mask = b.input("attention_mask")
    valid = b.cast(mask, ir.DataType.BOOL)  # [B, S]
    kept = _kept(b, valid)
    lengths = b.reduce("ReduceSum", b.cast(kept, _INT32), 1, keepdims=False)  # [B]
    cu_seqlens = b.concat(b.constant([0], _INT32), b.op("CumSum", lengths, b.constant(0)))
    places = b.op("NonZero", kept)  # [2, T], row-major
    row, slot = (b.op("Gather", places, b.constant(axis), axis=0) for axis in (0, 1))
    index = b.op("Add", b.op("Mul", row, b.dim(mask, 1)), slot)  # [T]
    slots = b.product(b.dim(mask, 0), b.dim(mask, 1))
    is_valid = b.op("Gather", b.reshape(valid, slots), index, axis=0)
    key_position = b.op("Where", is_valid, slot, b.constant([-1]))
    tokens = [b.cast(value, _INT32) for value in (index, slot, key_position)]
    capacity = b.form.integer("capacity")
    if capacity:
        missing = _missing_rows(b, b.dim(index, 0), capacity)
        tokens = [b.concat(value, b.fill(missing, f, _INT32)) for value, f in zip(tokens, (0, 0, -1), strict=True)]
    token_index, position, key_position = tokens
    return token_index, cu_seqlens, position, key_position


def _kept(b: BodyBuilder, valid: ir.Value) -> ir.Value:
    """Slots that are valid or kept for a reader: bool [B, S]."""
    kept = valid
    if "keep_mask" in b.form.inputs:
        kept = b.op("Or", kept, b.cast(b.input("keep_mask"), ir.DataType.BOOL))
    width = b.dim(valid, 1)
    for slot in b.form.integers("keep_slots"):
        place = b.op("Add", width, b.constant([slot])) if slot < 0 else b.constant([slot])
        kept = b.op("Or", kept, b.op("Equal", b.range(width), place))
    return kept


def _missing_rows(b: BodyBuilder, count: ir.Value, capacity: int) -> ir.Value:
    """Rows to add to `count` to reach a positive multiple of `capacity`: int64 [1]."""
    step = b.constant([capacity])
    blocks = b.op("Div", b.op("Add", count, b.constant([capacity - 1])), step)
    return b.op("Sub", b.op("Mul", b.op("Max", blocks, b.constant([1])), step), count)
