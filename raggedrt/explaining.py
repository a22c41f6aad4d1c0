"""Why a graph is not understood: where the meaning of axes is lost, and which Softmax nodes are no attention."""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.graph_passes.axes.rule import describe_node
from raggedrt.graph_passes.axes.rules import rule_for
from raggedrt.graph_passes.graph_inputs import describe_inputs
from raggedrt.graph_passes.sites.find import understand
from raggedrt.plugins.contract.op_definition import DOMAIN

MOST_NODES = 8
"""Nodes that are named; what follows them is not understood for the same reason."""


def axes_lost(graph: ir.Graph) -> list[dict[str, str]]:
    """The first nodes whose inputs are understood and whose outputs are not: `node` and `reason`."""
    if any(node.domain == DOMAIN for node in graph):
        return []  # packed: what is left is understood
    analysis = understand(graph, describe_inputs(graph)).analysis
    found = []
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        known = all(analysis.axes_of(value) is not None for value in inputs)
        if not inputs or not known or all(analysis.axes_of(value) is not None for value in node.outputs[:1]):
            continue
        op = node.op_type if not node.domain else f"{node.domain}.{node.op_type}"
        reason = (
            f"{op} has no transfer rule" if rule_for(node) is None else f"the rule for {op} does not cover its form"
        )
        found.append({"node": describe_node(node), "reason": reason})
    return found[:MOST_NODES]


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
