"""Softmax nodes that no attention was found around: what becomes of their results."""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.graph_passes.axes.rule import describe_node

_THROUGH = ("Cast", "Identity", "Dropout", "Where", "Slice", "Reshape", "Mul", "Squeeze", "Unsqueeze", "Transpose")


def why_no_attention(softmax: ir.Node) -> str:
    """What becomes of a Softmax's result, for one that no attention site was found around."""
    value, steps = softmax.outputs[0], 0
    while True:
        if value.is_graph_output():
            return "its result is an output of the graph"
        uses = [usage for usage in value.uses() if usage.node.op_type != "IsNaN"]
        product = next((usage for usage in uses if usage.node.op_type in ("MatMul", "Gemm", "Einsum")), None)
        if product is not None:
            return _why_no_product(product.node, product.idx)
        if len(uses) != 1 or uses[0].node.op_type not in _THROUGH or steps > 6:
            ops = ", ".join(sorted({usage.node.op_type for usage in uses})) or "nothing"
            return f"its result is read by {ops}, not multiplied with values"
        value, steps = uses[0].node.outputs[0], steps + 1


def _why_no_product(product: ir.Node, position: int) -> str:
    other = product.inputs[1 - position] if len(product.inputs) > 1 and position < 2 else None
    name = f"{product.name or product.outputs[0].name} ({product.op_type})"
    if other is not None and other.const_value is not None:
        return f"{name} multiplies its result with constant weights, as routing and gating do"
    if position == 1:
        return f"{name} takes its result as the right operand; attention is known as weights x values"
    return f"{name} multiplies it with values, but no product of queries and keys was found before it"


def why_none(graph: ir.Graph) -> str:
    """Why no attention was found in a graph, by its first Softmax."""
    softmax = next((node for node in graph if node.op_type == "Softmax" and not node.domain), None)
    if softmax is None:
        return "no attention was found"
    return (
        f"no attention was found; of {describe_node(softmax)}: {why_no_attention(softmax)}. Attention in bands or "
        "chunks is not read; give `raggedrt convert` the model itself, or export it with dense attention under a mask"
    )
