"""One `Shape` per dimension of the inputs, so that what every attention body derives from it is derived once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def share_dims(graph: ir.Graph) -> int:
    """Let single dimensions be read from the inputs that have them, static ones be constants; returns how many."""
    owners: dict[str, tuple[ir.Value, int]] = {}
    for value in graph.inputs:
        for axis, owned in enumerate(value.shape or ()):
            if isinstance(owned, ir.SymbolicDim) and owned.value is not None:
                owners.setdefault(owned.value, (value, axis))
    reads = {node: size for node in graph if (size := _single_dim(node)) is not None}
    found = {node: size for node, size in reads.items() if isinstance(size, int) or size in owners}
    shared = {size: _constant(size) if isinstance(size, int) else _shape(*owners[size]) for size in found.values()}
    for size, made in shared.items():
        made.outputs[0].name = f"dim_{size}"
        graph.insert_before(graph[0], made)
    for node, size in found.items():
        ir.convenience.replace_all_uses_with(node.outputs[0], shared[size].outputs[0])
        graph.remove(node, safe=True)
    return len(found)


def _single_dim(node: ir.Node) -> int | str | None:
    """The one dimension that a `Shape` node reads, as far as it is known."""
    if node.op_type != "Shape" or node.domain not in ("", "ai.onnx") or node.outputs[0].is_graph_output():
        return None
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None:
        return None
    start = node.attributes["start"].as_int() if "start" in node.attributes else 0
    end = node.attributes["end"].as_int() if "end" in node.attributes else len(shape)
    dims = list(shape)[start:end]
    if len(dims) != 1:
        return None
    return dims[0] if isinstance(dims[0], int) else dims[0].value


def _shape(value: ir.Value, axis: int) -> ir.Node:
    return ir.node("Shape", [value], {"start": axis, "end": axis + 1})


def _constant(dim: int) -> ir.Node:
    return ir.Node("", "Constant", [], [ir.AttrTensor("value", ir.tensor(np.array([dim], np.int64)))])
