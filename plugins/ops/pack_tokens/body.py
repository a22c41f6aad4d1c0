"""Function body of PackTokens."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from raggedrt.plugins.body_builder import BodyBuilder


def build(b: BodyBuilder) -> Sequence[ir.Value]:
    """The op's output as standard ops: a gather in which row B*S, appended, is the zero row."""
    x, index = b.input("x"), b.cast(b.input("token_index"), ir.DataType.INT64)
    slots = b.product(b.dim(x, 0), b.dim(x, 1))
    features = b.dims(x, 2)
    rows = b.reshape(x, slots, features)  # [B*S, ...]
    zero = b.fill(b.concat(b.constant([1]), features), 0, b.form.element_type)
    source = b.op("Where", b.op("Less", index, b.constant([0])), slots, index)
    return (b.op("Gather", b.concat(rows, zero), source, axis=0),)
