"""Take `com.microsoft.FusedMatMul` apart (ORT's extended optimisations write it): Transpose, MatMul and a factor.

    FusedMatMul(a, b; transA, transB, alpha)  ->  MatMul(a^T, b^T) * alpha

Attention is recognised by its products, which this op hides.
"""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.graph_passes.respell import respell

_BATCHED = ("transBatchA", "transBatchB")


def take_fused_products_apart(graph: ir.Graph) -> int:
    """Replace every FusedMatMul of known ranks; returns how many."""
    return respell(graph, {("com.microsoft", "FusedMatMul")}, _product)


def _product(node: ir.Node, tape: Tape) -> ir.Value | None:
    stem = f"{node.outputs[0].name}_product"
    if any(int_attribute(node, name, 0) for name in _BATCHED):
        return None
    operands = []
    for value, name in zip(node.inputs[:2], ("transA", "transB"), strict=True):
        operand = value if value is None or not int_attribute(node, name, 0) else _transposed(value, tape, stem)
        if operand is None:
            return None
        operands.append(operand)
    result = tape.op("MatMul", operands, stem=stem)
    alpha = node.attributes.get_float("alpha", 1.0)
    dtype = operands[0].dtype
    if alpha == 1.0 or alpha is None:
        return result
    return None if dtype is None else tape.op("Mul", [result, tape.number(alpha, dtype)], stem=stem)


def _transposed(value: ir.Value, tape: Tape, stem: str) -> ir.Value | None:
    if value.shape is None or len(value.shape) < 2:
        return None
    rank = len(value.shape)
    order = [*range(rank - 2), rank - 1, rank - 2]
    return tape.op("Transpose", [value], {"perm": order}, stem=stem)
