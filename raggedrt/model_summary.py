"""What a model file is made of, as far as a bug report needs it: no weights, no paths beyond the file's own name."""

from __future__ import annotations

import collections
import importlib.metadata
import math
import platform
from collections.abc import Iterable, Iterator
from typing import Any

import onnx
import onnx_ir as ir

from raggedrt.graph_passes.axes.rules import RULES
from raggedrt.version import __version__

PACKAGES = ("onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu", "torch", "transformers")
DEEPEST = 32
"""Subgraphs within subgraphs that are counted."""


def environment() -> dict[str, str]:
    """Versions of what reads the model; packages that are not installed are left out."""
    versions = {"raggedrt": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**versions, "system": f"{platform.system()} {platform.machine()}"}


def model_summary(proto: onnx.ModelProto) -> dict[str, Any]:
    """Facts of a parsed file, valid or not.

    Returns:
        `ir_version`, `producer`, `opsets` (by domain), `inputs` and `outputs` (`name`, `dtype`, `shape`), `functions`,
        `op_types` (nodes by op, those of functions and subgraphs included), `without_rule` (those of the main graph
        that packing has no transfer rule for), `weights` (`tensors`, `bytes`, `dtypes`, `external_bytes`).
    """
    scopes: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph, *proto.functions]
    names = collections.Counter(_op_name(node) for scope in scopes for node in _nodes(scope, 0))
    local = {(function.domain, function.name) for function in proto.functions}
    unruled = collections.Counter(
        _op_name(node)
        for node in proto.graph.node
        if (_domain(node), node.op_type) not in RULES
        and node.op_type not in ("Constant", "ConstantOfShape", "Shape", "Size")
        and (node.domain, node.op_type) not in local
    )
    return {
        "ir_version": proto.ir_version,
        "producer": " ".join(part for part in (proto.producer_name, proto.producer_version) if part) or None,
        "opsets": {item.domain or "ai.onnx": item.version for item in proto.opset_import},
        "inputs": [_value(value) for value in proto.graph.input],
        "outputs": [_value(value) for value in proto.graph.output],
        "functions": sorted({f"{function.domain}.{function.name}" for function in proto.functions}),
        "op_types": dict(names.most_common()),
        "without_rule": dict(unruled.most_common()),
        "weights": _weights(proto.graph.initializer),
    }


def _nodes(scope: onnx.GraphProto | onnx.FunctionProto, depth: int) -> Iterator[onnx.NodeProto]:
    for node in scope.node:
        yield node
        for attribute in node.attribute if depth < DEEPEST else ():
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph, depth + 1)


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


def _op_name(node: onnx.NodeProto) -> str:
    return f"{_domain(node)}.{node.op_type}" if _domain(node) else node.op_type


def _value(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    shape: list[int | str] | None = None
    if tensor.HasField("shape"):
        shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    return {"name": value.name, "dtype": _type_name(tensor.elem_type), "shape": shape}


def _type_name(number: int) -> str:
    types = onnx.TensorProto.DataType
    return types.Name(number).lower() if number in types.values() else f"type {number}"


def _weights(tensors: Iterable[onnx.TensorProto]) -> dict[str, Any]:
    sizes: collections.Counter[str] = collections.Counter()
    count, external = 0, 0
    for tensor in tensors:
        size = _bytes(tensor)
        count += 1
        sizes[_type_name(tensor.data_type)] += size
        external += size if tensor.data_location == onnx.TensorProto.EXTERNAL else 0
    return {"tensors": count, "bytes": sizes.total(), "dtypes": dict(sizes), "external_bytes": external}


def _bytes(tensor: onnx.TensorProto) -> int:
    """From the declared shape: the data itself is not looked at."""
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (ValueError, TypeError):  # an unknown type, strings
        return 0
    return math.prod(max(size, 0) for size in tensor.dims) * bits // 8
