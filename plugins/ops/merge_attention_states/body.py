"""Function body of MergeAttentionStates."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from raggedrt.plugins.body_builder import BodyBuilder

_FLOAT = ir.DataType.FLOAT


def build(b: BodyBuilder) -> Sequence[ir.Value]:
    """The op's outputs as standard ops, in float32."""
    lse1, lse2 = b.input("lse1"), b.input("lse2")  # [N, T]
    top = b.op("Max", lse1, lse2)
    seen = b.op("Greater", top, b.real(-float("inf")))
    top = b.op("Where", seen, top, b.real(0))  # inf - inf would be NaN
    weight1, weight2 = (b.op("Exp", b.op("Sub", lse, top)) for lse in (lse1, lse2))
    total = b.op("Where", seen, b.op("Add", weight1, weight2), b.real(1))
    lse = b.op("Where", seen, b.op("Add", top, b.op("Log", total)), b.real(-float("inf")))
    weighted = [
        _times(b, b.input(name), b.op("Div", weight, total))
        for name, weight in (("output1", weight1), ("output2", weight2))
    ]
    output = b.reshape(b.op("Add", *weighted), b.dims(b.input("output1"), 0))
    return b.cast(output, b.form.element_type), lse


def _times(b: BodyBuilder, output: ir.Value, weight: ir.Value) -> ir.Value:
    """Output [T, N*H] as [T, N, H] times weight [N, T]."""
    heads = b.dim(weight, 0)
    split = b.reshape(b.cast(output, _FLOAT), b.dim(output, 0), heads, b.op("Div", b.dim(output, 1), heads))
    return b.op("Mul", split, b.unsqueeze(b.op("Transpose", weight, perm=[1, 0]), 2))
