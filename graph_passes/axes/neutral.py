"""What may stand in padded slots of an op's operand without changing what it yields for a row with tokens.

With padded I/O this asks that the original's padded slots are just as neutral: hidden by a very low number, or
multiplied by zeros. With ragged I/O a sequence has no other slots, so any neutral number will do.
"""

from __future__ import annotations

import math
import typing

import numpy as np
import onnx_ir as ir

from raggedrt.graph_passes.axes.atoms import Kind, has
from raggedrt.graph_passes.axes.padded_slots import along_tokens

if typing.TYPE_CHECKING:
    from raggedrt.graph_passes.axes.analysis import AxisAnalysis

_HIDDEN_BY_LOW = ("Softmax", "LogSoftmax", "ReduceMax", "ReduceLogSumExp", "ArgMax")
_ALONE: dict[str, float] = {
    **dict.fromkeys(_HIDDEN_BY_LOW, -math.inf),
    **dict.fromkeys(("ReduceMin", "ArgMin"), math.inf),
    **dict.fromkeys(("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2"), 0.0),
    "ReduceProd": 1.0,
}
"""Neutral numbers where rows have no padding of their own (infinite ones become the type's last number)."""


def neutral_number(node: ir.Node, value: ir.Value, analysis: AxisAnalysis, *, alone: bool) -> float | None:
    """A number for the padded slots of `value`, an operand of `node`; None where there is none.

    Args:
        node: works along the token axis.
        value: its operand.
        analysis: of the graph.
        alone: each row is a sequence by itself (ragged I/O).
    """
    if node.domain or value.dtype is None:
        return None
    if node.op_type != "MatMul" and not _row_by_row(node, analysis):
        return None
    low = analysis.low_of(value)
    if low is not None and node.op_type in _HIDDEN_BY_LOW and node.inputs[0] is value:
        return low
    if node.op_type == "MatMul":
        return 0.0 if _meets_zeros(node, value, analysis) else None
    if not alone or node.inputs[0] is not value or node.op_type not in _ALONE:
        return None
    number = _ALONE[node.op_type]
    return number if math.isfinite(number) else math.copysign(_last_number(value.dtype), number)


def _row_by_row(node: ir.Node, analysis: AxisAnalysis) -> bool:
    """Rows do not meet each other."""
    if node.op_type in ("Softmax", "LogSoftmax"):
        return along_tokens(node, analysis)
    return has(analysis.axes_of(node.outputs[0]), Kind.BATCH)


def _meets_zeros(node: ir.Node, value: ir.Value, analysis: AxisAnalysis) -> bool:
    """A product over tokens: [B, 1, S] x [B, S, H], whose other operand is zero at padded slots."""
    left, right = (analysis.axes_of(operand) for operand in node.inputs[:2])
    if left is None or right is None or len(right) < 2:
        return False
    if not has(left[-1:], Kind.TOKEN) or not has(right[-2:-1], Kind.TOKEN):
        return False
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    return analysis.padded_of(other) == 0.0


def _last_number(dtype: ir.DataType) -> float:
    if dtype is ir.DataType.BOOL:
        return 1.0
    if not dtype.is_floating_point():
        return float(np.iinfo(dtype.numpy()).max >> 1)  # a float holds it exactly
    return {ir.DataType.FLOAT16: 65504.0, ir.DataType.DOUBLE: 1e300}.get(dtype, 3e38)
