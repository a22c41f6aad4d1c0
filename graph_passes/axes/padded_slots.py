"""What padded slots hold in the original graph, where one number describes them all.

`x * attention_mask` is zero there, `(1 - attention_mask) * -1e4` is -1e4: such a tensor can leave the packed layout
exactly, whatever reads it next. One row per op; an op without a row loses the knowledge (safe).
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from raggedrt.graph_passes.axes.atoms import Kind, has
from raggedrt.graph_passes.axes.contents import int_attribute

if typing.TYPE_CHECKING:
    from raggedrt.graph_passes.axes.analysis import AxisAnalysis

_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Add": np.add,
    "And": np.logical_and,
    "Cast": lambda x: x,
    "Ceil": np.ceil,
    "Div": np.divide,
    "Equal": np.equal,
    "Exp": np.exp,
    "Floor": np.floor,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Identity": lambda x: x,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Max": lambda *x: np.max(x),
    "Min": lambda *x: np.min(x),
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "Pow": np.power,
    "Relu": lambda x: np.maximum(x, 0),
    "Sign": np.sign,
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Tanh": np.tanh,
}
LOW_AT_MOST = -1e4
"""As with attention masks: next to numbers of a network its exponential is zero and it is no maximum."""
_VIEWS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Expand")
_INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)


def infer(node: ir.Node, analysis: AxisAnalysis) -> float | None:
    """The number at every padded slot of the first output, or None."""
    if node.domain != "" or not node.inputs:
        return None
    operands = [analysis.padded_of(value) for value in node.inputs]
    if node.op_type == "ConstantOfShape":
        filled = node.attributes.get("value")
        return 0.0 if filled is None else float(filled.as_tensor().numpy().reshape(-1)[0])
    if node.op_type in _VIEWS:
        return operands[0]
    if node.op_type == "Exp" and analysis.low_of(node.inputs[0]) is not None:
        return 0.0
    if node.op_type == "Softmax" and analysis.low_of(node.inputs[0]) is not None:
        return 0.0 if along_tokens(node, analysis) else None
    if node.op_type == "Mul" and 0.0 in operands:
        return 0.0
    if node.op_type == "MatMul":
        return 0.0 if operands[0] == 0.0 and not has(analysis.axes_of(node.inputs[1]), Kind.TOKEN) else None
    if node.op_type in ("Concat", "Split"):
        return operands[0] if len(set(operands)) == 1 and not along_tokens(node, analysis) else None
    if node.op_type == "Div" and operands[0] == 0.0 and operands[1] != 0.0:
        return 0.0  # a divisor that is zero at run time would be a row without tokens
    if node.op_type == "And" and 0.0 in operands:
        return 0.0
    if node.op_type == "Where":
        return None if operands[0] is None else operands[1] if operands[0] else operands[2]
    operation = _ELEMENTWISE.get(node.op_type)
    numbers = [number for number in operands if number is not None]
    if operation is None or len(numbers) != len(operands):
        return None
    if node.op_type == "Div" and _dtype(node) in _INTEGERS:
        return None
    with np.errstate(all="ignore"):
        number = float(operation(*numbers))
    if node.op_type == "Cast" and _cast_target(node) is ir.DataType.BOOL:
        number = float(bool(number))
    elif node.op_type == "Cast" and _cast_target(node) in _INTEGERS:
        number = float(np.trunc(number)) if np.isfinite(number) else float("nan")
    return None if np.isnan(number) else number


def infer_low(node: ir.Node, analysis: AxisAnalysis) -> float | None:
    """The low number that stays in padded slots of the first output, or None."""
    if node.domain != "" or not node.inputs:
        return None
    lows = [analysis.low_of(value) for value in node.inputs]
    numbers = [analysis.padded_of(value) for value in node.inputs]
    if node.op_type in (*_VIEWS, "Identity"):
        return lows[0]
    if node.op_type == "Cast":
        return lows[0] if _cast_target(node).is_floating_point() else None
    if node.op_type == "Add":
        return next((low for low in lows if low is not None), None)
    if node.op_type == "Sub":
        return lows[0] if len(lows) == 2 and lows[1] is None else None
    if node.op_type == "Where":
        return None if numbers[0] is None else lows[1] if numbers[0] else lows[2]
    if node.op_type in ("Mul", "Div") and len(lows) == 2 and lows[0] is not None:
        factor = numbers[1] if node.op_type == "Mul" or not numbers[1] else 1.0 / numbers[1]
        product = None if factor is None else lows[0] * factor
        return product if product is not None and product <= LOW_AT_MOST else None
    return None


def along_tokens(node: ir.Node, analysis: AxisAnalysis) -> bool:
    """Whether an op with an `axis` that keeps its shape works along the slots of each row, and along nothing else."""
    axes = analysis.axes_of(node.inputs[0])
    if axes is None:
        return False
    axis = axes[int_attribute(node, "axis", -1) % len(axes)]
    return [atom.kind for atom in axis] == [Kind.TOKEN]


def _cast_target(node: ir.Node) -> ir.DataType:
    return ir.DataType(node.attributes["to"].as_int())


def _dtype(node: ir.Node) -> ir.DataType | None:
    value = node.inputs[0]
    return None if value is None else value.dtype
