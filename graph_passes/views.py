"""Collapse chains of views on packed tokens: what packing and lowering insert mostly cancels out."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from raggedrt.graph_passes.axes.views import permutation


def collapse_views(model: ir.Model) -> int:
    """Merge Transpose and Reshape chains and drop those that change nothing; returns how many nodes went."""
    graph = model.graph
    before = len(list(graph))
    changed = True
    while changed:
        changed = sum(_collapse(node) for node in list(graph)) > 0
        common_passes.RemoveUnusedNodesPass()(model)
    return before - len(list(graph))


def _collapse(node: ir.Node) -> bool:
    if node.domain or node.op_type not in ("Reshape", "Transpose") or not node.outputs[0].uses():
        return False
    source = node.inputs[0]
    if source is None or node.outputs[0].is_graph_output():
        return False
    producer = source.producer()
    if node.op_type == "Transpose":
        return _collapse_transpose(node, source, producer)
    if _same_shape(source, node.outputs[0]):
        ir.convenience.replace_all_uses_with(node.outputs[0], source)
        return True
    if producer is not None and producer.op_type == "Reshape" and not producer.domain and _explicit_target(node):
        node.replace_input_with(0, producer.inputs[0])
        return True
    return False


def _collapse_transpose(node: ir.Node, source: ir.Value, producer: ir.Node | None) -> bool:
    rank = len(source.shape) if source.shape is not None else len(node.attributes["perm"].as_ints())
    own = permutation(node, rank)
    if own == tuple(range(rank)):
        ir.convenience.replace_all_uses_with(node.outputs[0], source)
        return True
    if producer is None or producer.op_type != "Transpose" or producer.domain or producer.inputs[0] is None:
        return False
    first = permutation(producer, rank)
    node.attributes["perm"] = ir.AttrInt64s("perm", [first[number] for number in own])
    node.replace_input_with(0, producer.inputs[0])
    return True


def _explicit_target(node: ir.Node) -> bool:
    """The target says every dimension itself (no "copy from the input")."""
    target = node.inputs[1]
    if target is None or target.const_value is None:
        return False
    return 0 not in target.const_value.numpy().tolist()


def _same_shape(left: ir.Value, right: ir.Value) -> bool:
    if left.shape is None or right.shape is None or len(left.shape) != len(right.shape):
        return False
    pairs = [(_dim(a), _dim(b)) for a, b in zip(left.shape, right.shape, strict=True)]
    return all(a == b and a is not None for a, b in pairs)


def _dim(dim: int | ir.SymbolicDim) -> int | str | None:
    return dim if isinstance(dim, int) else dim.value
