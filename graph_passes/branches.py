"""`If` whose condition is known from shapes alone: the branch that is taken stands in its place.

TorchScript keeps comparisons of lengths (`query.size(-2) != key.size(-2)`), which say the same for every input.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from raggedrt.graph_passes.axes.analysis import AxisAnalysis


def take_known_branches(graph: ir.Graph, analysis: AxisAnalysis) -> int:
    """Put the branch that is taken in the place of every `If` of the main graph whose condition is a known number.

    Returns:
        How many were replaced.
    """
    taken = 0
    for node in list(graph):
        if node.op_type != "If" or node.domain:
            continue
        content = analysis.content_of(node.inputs[0])
        known = None if content is None or len(content.elements) != 1 else content.elements[0]
        if known is not None and known.static is not None and not known.plus:
            _inline(graph, node, "then_branch" if known.static else "else_branch")
            taken += 1
    if taken:
        common_passes.NameFixPass()(ir.Model(graph, ir_version=10))  # branches may use the same names
    return taken


def _inline(graph: ir.Graph, node: ir.Node, name: str) -> None:
    branch = node.attributes[name].as_graph()
    results = list(branch.outputs)
    for value in list(branch.initializers.values()):
        branch.initializers.pop(str(value.name))
        value.name = f"{node.outputs[0].name}_{value.name}"
        while value.name in graph.initializers:
            value.name += "_"
        graph.register_initializer(value)
    branch.outputs.clear()
    inner = list(branch)
    branch.remove(inner)
    graph.insert_before(node, inner)
    for old, new in zip(list(node.outputs), results, strict=True):
        if old.is_graph_output():
            new = _named_like(old, new, node)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _named_like(old: ir.Value, new: ir.Value, node: ir.Node) -> ir.Value:
    """An output of the model keeps its name; what the branch gives may be a value of the graph around it."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    same = ir.Node("", "Identity", [new], num_outputs=1)
    graph.insert_before(node, same)
    result = same.outputs[0]
    result.type, result.shape = old.type, old.shape
    result.name, old.name = old.name, None
    return result
