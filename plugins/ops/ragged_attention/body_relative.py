"""Disentangled attention terms (DeBERTa) as standard ops (part of RaggedAttention's body)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from raggedrt.plugins.body_builder import BodyBuilder
from raggedrt.plugins.ops.ragged_attention.body_slots import Slots

_FLOAT, _INT64 = ir.DataType.FLOAT, ir.DataType.INT64


def disentangled_terms(b: BodyBuilder, queries: Slots, keys: Slots, distance: ir.Value) -> list[ir.Value]:
    """What is added to the scores: float32 [N, B, Mq, Mk] per term.

    Args:
        b: The body.
        queries: Padded slots of the queries.
        keys: Padded slots of the keys.
        distance: Key minus query position, int64 [1 or B, Mq, Mk].
    """
    buckets = b.cast(b.input("rel_bucket"), _INT64)
    size = b.dim(buckets, 0)
    place = b.op("Add", distance, b.op("Div", size, b.constant([2])))
    place = b.op("Max", b.op("Min", place, b.op("Sub", size, b.constant([1]))), b.constant([0]))
    bucket = b.op("Gather", buckets, place, axis=0)  # [1 or B, Mq, Mk]
    sides = (("rel_query", queries, 2), ("rel_key", keys, 1))
    return [_term(b, name, slots, axis, bucket) for name, slots, axis in sides if name in b.form.inputs]


def _term(b: BodyBuilder, name: str, slots: Slots, axis: int, bucket: ir.Value) -> ir.Value:
    """One input [T, N, C] looked up by token (along the other axis than `axis`), head and bucket."""
    heads = b.form.integer("num_heads")
    table = b.cast(b.input(name), _FLOAT)
    width = b.dim(table, 2)
    flat = b.reshape(table, b.product(b.dim(table, 0), b.constant([heads]), width))
    token = slots.token
    if slots.zero_row:  # hidden slots read the row of zeros behind the last token
        flat = b.concat(flat, b.fill(b.op("Mul", b.constant([heads]), width), 0, _FLOAT))
    head = b.constant(np.arange(heads).reshape(heads, 1, 1))
    row = b.op("Add", b.op("Mul", token, b.constant(heads)), head)  # [N, B, M]
    start = b.unsqueeze(b.op("Mul", row, width), 3 if axis == 2 else 2)
    return b.op("Gather", flat, b.op("Add", start, bucket), axis=0)
