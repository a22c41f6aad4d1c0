"""Write a model whose weights lie beside it: bytes that lie in a file already are copied by the system, not read.

A copy within the kernel needs no memory, shares blocks where the file system can, and leaves holes of a file as holes.
"""

from __future__ import annotations

import errno
import os
import pathlib

import onnx_ir as ir

KEPT_INSIDE = 256
"""Bytes of the largest tensor that stays in the graph, unless it lies in a file."""
_ALIGNMENT = 4096
_CHUNK = 1 << 26
_UNSUPPORTED = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def write_with_external_data(model: ir.Model, path: pathlib.Path, data_name: str) -> None:
    """Write `model` to `path` and its weights to `data_name` beside it; `model` is as before afterwards."""
    values = [value for value in model.graph.initializers.values() if _goes_outside(value)]
    before = [value.const_value for value in values]
    offset = 0
    try:
        with (path.parent / data_name).open("wb") as handle:
            for value, tensor in zip(values, before, strict=True):
                if tensor is None:
                    continue
                offset = -(-offset // _ALIGNMENT) * _ALIGNMENT
                _write(tensor, handle.fileno(), offset)
                value.const_value = ir.ExternalTensor(
                    data_name, offset, tensor.nbytes, tensor.dtype, shape=_static(tensor), name=value.name or "",
                    base_dir=str(path.parent),
                )  # fmt: skip
                offset += tensor.nbytes
            handle.truncate(offset)
        ir.save(model, path)
    finally:
        for value, tensor in zip(values, before, strict=True):
            value.const_value = tensor


def _goes_outside(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or tensor.dtype is ir.DataType.STRING:
        return False
    return isinstance(tensor, ir.ExternalTensor) or tensor.nbytes > KEPT_INSIDE


def _static(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape([int(dim) for dim in tensor.shape.numpy()])


def _write(tensor: ir.TensorProtocol, target: int, offset: int) -> None:
    if isinstance(tensor, ir.ExternalTensor) and tensor.length:
        start = tensor.offset or 0
        with open(tensor.path, "rb") as source:
            if os.fstat(source.fileno()).st_size < start + tensor.length:  # no hole: it is not there
                raise OSError(errno.EIO, f"the file of external weights ends before '{tensor.name}' does", tensor.path)
            _copy(source.fileno(), start, tensor.length, target, offset)
        return
    data = memoryview(tensor.tobytes())
    while data:
        written = os.pwrite(target, data[:_CHUNK], offset)
        data, offset = data[written:], offset + written


def _copy(source: int, start: int, length: int, target: int, offset: int) -> None:
    """Copy a range, holes left out."""
    end = start + length
    while start < end:
        try:
            data = os.lseek(source, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            data = start
        if data >= end:
            return
        offset, start = offset + data - start, data
        try:
            stop = min(end, os.lseek(source, start, os.SEEK_HOLE))
        except OSError:
            stop = end
        _copy_data(source, start, stop - start, target, offset)
        offset, start = offset + stop - start, stop


def _copy_data(source: int, start: int, length: int, target: int, offset: int) -> None:
    while length:
        try:
            done = os.copy_file_range(source, target, min(length, _CHUNK), start, offset)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            done = os.pwrite(target, os.pread(source, min(length, _CHUNK), start), offset)
        if not done:
            raise OSError(errno.EIO, "the file of external weights ends too early")
        start, offset, length = start + done, offset + done, length - done
