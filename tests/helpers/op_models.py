"""One-node models of the ops' test cases, with function bodies, and running them in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from raggedrt.plugins.bodies import attach_function_bodies
from raggedrt.plugins.contract.op_definition import DOMAIN, OPSET_VERSION, OpDefinition
from raggedrt.plugins.node import definition_of, make_node
from raggedrt.plugins.ops.case import Case

Array = npt.NDArray[Any]
_DYNAMIC_AXES = {"B", "B+1", "S", "T", "Tq", "Tk", "Mq", "Mk", "R'", "R+1", "E", "P"}
_SHARED = (("cu_seqlens_q", "cu_seqlens_k"), ("max_seqlen_q", "max_seqlen_k"))
"""One graph input where the case gives equal arrays, as in self-attention."""


def case_model(
    op_name: str, case: Case, inputs: dict[str, Array], opset: int, *, engine: bool = False, exact: bool = False
) -> onnx.ModelProto:
    """A model of one node called `node`; token and batch axes are dynamic, outputs have the definition's names.

    bfloat16 tensors enter and leave it as float32 and are cast, because numpy arrays of it cannot be fed.
    """
    op = definition_of(op_name)
    graph_inputs = {name: _graph_input(op, name, array) for name, array in inputs.items()}
    nodes: list[ir.Node] = []
    values = {name: _cast(value, inputs[name], nodes) for name, value in graph_inputs.items()}
    for first, second in _SHARED:
        if first in inputs and np.array_equal(inputs[first], inputs[second]):
            values[second] = values[first]
            del graph_inputs[second]
    node = make_node(op_name, values, case.attributes, outputs=case.outputs, name="node")
    nodes.append(node)
    outputs = [_graph_output(output, nodes) for output in node.outputs]
    imports = {"": opset, DOMAIN: OPSET_VERSION}
    graph = ir.Graph(list(graph_inputs.values()), outputs, nodes=nodes, opset_imports=imports, name=case.name)
    model = ir.Model(graph, ir_version=10)
    attach_function_bodies(model, engine=engine, exact=exact)
    return ir.to_proto(model)


def run_case(session: Any, inputs: dict[str, Array], expected: dict[str, Array]) -> dict[str, Array]:
    """Outputs of an `onnxruntime.InferenceSession` of a case model, in the types of `expected`."""
    feed = {value.name: _plain(inputs[value.name]) for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    results = dict(zip(names, session.run(names, feed), strict=True))
    return {name: _narrow(result, expected[name].dtype) for name, result in results.items()}


def _is_bfloat16(dtype: np.dtype[Any]) -> bool:
    return bool(dtype == ir.DataType.BFLOAT16.numpy())


def _plain(array: Array) -> Array:
    return array.astype(np.float32) if _is_bfloat16(array.dtype) else array


def _narrow(result: Array, dtype: np.dtype[Any]) -> Array:
    return result.astype(dtype) if _is_bfloat16(dtype) and result.dtype == np.float32 else result


def _graph_input(op: OpDefinition, name: str, array: Array) -> ir.Value:
    axes = op.inputs[op.input_index(name)].axes
    dims = [
        f"{name}_{place}" if place < len(axes) and axes[place] in _DYNAMIC_AXES else size
        for place, size in enumerate(array.shape)
    ]
    return ir.val(name, dtype=ir.DataType.from_numpy(_plain(array[:0] if array.ndim else array).dtype), shape=dims)


def _cast(value: ir.Value, array: Array, nodes: list[ir.Node]) -> ir.Value:
    if not _is_bfloat16(array.dtype):
        return value
    node = ir.node("Cast", [value], {"to": int(ir.DataType.BFLOAT16)})
    node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.BFLOAT16, value.shape
    nodes.append(node)
    return node.outputs[0]


def _graph_output(output: ir.Value, nodes: list[ir.Node]) -> ir.Value:
    name = str(output.name).removeprefix("node_")
    if output.dtype != ir.DataType.BFLOAT16:
        output.name = name
        return output
    node = ir.node("Cast", [output], {"to": int(ir.DataType.FLOAT)})
    node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, output.shape
    node.outputs[0].name = name
    nodes.append(node)
    return node.outputs[0]
