"""EPContext models as execution providers write them."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper


def context_node(
    name: str = "TensorrtExecutionProvider_TRTKernel_graph_main_7_0_0", **attributes: object
) -> onnx.NodeProto:
    """One compiled part; attributes as given."""
    return helper.make_node("EPContext", ["x"], ["y"], name=name, domain="com.microsoft", **attributes)


def context_model(path: pathlib.Path, nodes: Sequence[onnx.NodeProto]) -> pathlib.Path:
    """An ONNX file of these nodes."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", 8]) for name in ("x", "y")]
    graph = helper.make_graph(list(nodes), "compiled", tensors[:1], tensors[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path
