"""Why a graph is not understood: where the meaning of axes is lost."""

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
