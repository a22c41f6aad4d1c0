"""Function body of UnpackTokens."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from raggedrt.plugins.body_builder import BodyBuilder


def build(b: BodyBuilder) -> Sequence[ir.Value]:
    """The op's output as standard ops: slot numbers are inverted, then a gather whose row T is the zero row.

    Scattering indices instead of rows works for every element type. Slot B*S takes what is written nowhere.
    """
    packed, like = b.input("packed"), b.input("like")
    index = b.cast(b.input("token_index"), ir.DataType.INT64)
    slots = b.product(b.dim(like, 0), b.dim(like, 1))
    tokens = b.dim(packed, 0)
    skipped = b.op("Less", index, b.constant([0]))
    if "key_position" in b.form.inputs:
        skipped = b.op("Or", skipped, b.op("Less", b.input("key_position"), b.constant([0], ir.DataType.INT32)))
    target = b.op("Where", skipped, slots, index)  # [T]
    nowhere = b.op("Expand", tokens, b.op("Add", slots, b.constant([1])))  # [B*S + 1], all T
    source = b.slice(b.op("ScatterElements", nowhere, target, b.range(tokens), axis=0), 0, slots)
    features = b.dims(packed, 1)
    zero = b.fill(b.concat(b.constant([1]), features), 0, b.form.element_type)
    rows = b.op("Gather", b.concat(packed, zero), source, axis=0)  # [B*S, ...]
    return (b.reshape(rows, b.dims(like, 0, 2), features),)
