"""A bfloat16 model as the same graph in float32: what ONNX Runtime's CPU provider can run, with the same weights.

ONNX Runtime's CPU provider has no bfloat16 kernels for most ops. Weights keep their bfloat16 values; only roundings
between nodes fall away, so the wide graph is closer to exact arithmetic than the model and has its structure.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from raggedrt.export.numerics import Arrays
from raggedrt.export.rounding import keep_roundings, rounded_products

NARROW, WIDE = ir.DataType.BFLOAT16, ir.DataType.FLOAT
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
"""Integer attributes that name an element type."""


@contextlib.contextmanager
def wide_file(path: str | os.PathLike[str]) -> Iterator[tuple[pathlib.Path, bool]]:
    """A file that the CPU provider runs, and whether it was widened: a copy while the block lasts, or `path` itself.

    A float16 model rounds products where a GPU does and the CPU provider would not.
    """
    model = _load(path)
    narrow = model is not None and is_narrow(model)
    products = [] if model is None or narrow else rounded_products(model)
    if model is None or not (narrow or products):
        yield pathlib.Path(path), False
        return
    with tempfile.TemporaryDirectory(prefix="raggedrt-wide-") as folder:
        copy = pathlib.Path(folder) / "model.onnx"
        if narrow:
            widen(model)
        keep_roundings(products)
        ir.save(model, copy, external_data=f"{copy.name}.data")
        yield copy, narrow


def _load(path: str | os.PathLike[str]) -> ir.Model | None:
    try:
        return ir.load(path)
    except Exception:  # noqa: BLE001 - whoever opens the file next says what is wrong with it
        return None


def is_narrow(model: ir.Model) -> bool:
    """Whether anything in the graph is bfloat16."""
    for graph in model.graphs():
        values = [*graph.inputs, *graph.initializers.values()]
        if any(value.dtype is NARROW for value in values):
            return True
        for node in graph:
            if any(output.dtype is NARROW for output in node.outputs) or any(
                map(_names_narrow, node.attributes.values())
            ):
                return True
    return False


def widen(model: ir.Model) -> None:
    """Make every bfloat16 value, weight and attribute of the model float32, in place."""
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.initializers.values()):
            _widen_value(value)
        for weight in graph.initializers.values():
            if weight.const_value is not None and weight.const_value.dtype is NARROW:
                weight.const_value = _wide_tensor(weight.const_value)
        _widen_nodes(graph)
    for function in model.functions.values():
        _widen_nodes(function)


def wide_feeds(feeds: Arrays) -> dict[str, np.ndarray]:
    """Feeds for the wide graph."""
    return {
        name: array.astype(np.float32) if array.dtype.name == "bfloat16" else array for name, array in feeds.items()
    }


def _widen_nodes(graph: ir.Graph | ir.Function) -> None:
    for node in graph:
        for output in node.outputs:
            _widen_value(output)
        for name, attribute in list(node.attributes.items()):
            if _names_narrow(attribute):
                node.attributes[name] = _wide_attribute(attribute)


def _widen_value(value: ir.Value) -> None:
    if value.dtype is NARROW:
        value.type = ir.TensorType(WIDE)


def _names_narrow(attribute: ir.Attr) -> bool:
    if attribute.type is ir.AttributeType.TENSOR:
        return attribute.as_tensor().dtype is NARROW
    return (
        attribute.type is ir.AttributeType.INT
        and attribute.name in TYPE_ATTRIBUTES
        and not attribute.is_ref()
        and attribute.as_int() == NARROW
    )


def _wide_attribute(attribute: ir.Attr) -> ir.Attr:
    if attribute.type is ir.AttributeType.TENSOR:
        return ir.AttrTensor(attribute.name, _wide_tensor(attribute.as_tensor()))
    return ir.AttrInt64(attribute.name, WIDE)


def _wide_tensor(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)
