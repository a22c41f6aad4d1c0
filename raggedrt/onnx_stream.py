"""Write a model into one ONNX file without ever holding its weights twice.

Serialising through protobuf needs the weights as a message and once more as bytes. Here the message holds everything
but the large weights, which follow tensor by tensor, in protobuf's own wire format.
"""

from __future__ import annotations

import pathlib
from typing import IO

import onnx
import onnx_ir as ir

STREAMED_BYTES = 4096
"""Weights from this size on are written one by one."""
_STREAMED_TYPES = (
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
    ir.DataType.DOUBLE,
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.BOOL,
)
_LENGTH_DELIMITED = 2


def write_single_file(model: ir.Model, path: pathlib.Path) -> None:
    """Write `model` to `path`, weights inside; `model` is as before afterwards."""
    initializers = model.graph.initializers
    large = {
        name: value
        for name, value in initializers.items()
        if value.const_value is not None
        and value.const_value.dtype in _STREAMED_TYPES
        and value.const_value.nbytes >= STREAMED_BYTES
    }
    order = list(initializers)
    for name in large:
        del initializers[name]
    try:
        proto = ir.to_proto(model)
    finally:
        rest = {name: initializers.pop(name) for name in list(initializers)}
        for name in order:
            initializers.add(large.get(name) or rest[name])
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    tensors = [value.const_value for value in large.values() if value.const_value is not None]
    heads = [_tensor_head(tensor) for tensor in tensors]
    sizes = [len(head) + tensor.nbytes for head, tensor in zip(heads, tensors, strict=True)]
    tag = _tag(onnx.GraphProto, "initializer")
    total = len(graph) + sum(len(tag) + len(_varint(size)) + size for size in sizes)
    with path.open("wb") as handle:
        handle.write(proto.SerializeToString() + _tag(onnx.ModelProto, "graph") + _varint(total) + graph)
        for head, tensor, size in zip(heads, tensors, sizes, strict=True):
            handle.write(tag + _varint(size) + head)
            _write_data(tensor, handle)


def _tensor_head(tensor: ir.TensorProtocol) -> bytes:
    """A TensorProto up to where its raw data begins."""
    head = onnx.TensorProto(name=tensor.name or "", data_type=int(tensor.dtype), dims=list(tensor.shape.numpy()))
    return head.SerializeToString() + _tag(onnx.TensorProto, "raw_data") + _varint(tensor.nbytes)


def _write_data(tensor: ir.TensorProtocol, handle: IO[bytes]) -> None:
    data = tensor.tobytes()
    if len(data) != tensor.nbytes:
        raise ValueError(f"tensor {tensor.name!r} has {len(data)} bytes where {tensor.nbytes} were announced")
    handle.write(data)


def _tag(message: type[onnx.ModelProto] | type[onnx.GraphProto] | type[onnx.TensorProto], field: str) -> bytes:
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED)


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])
