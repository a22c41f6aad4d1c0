"""Drives TensorRT plugins as TensorRT would, through a host program and ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import pathlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import ml_dtypes
import numpy as np
import onnx_ir as ir

from raggedrt.plugins.native.cache import cache_folder
from raggedrt.plugins.native.compiler import find_compiler
from raggedrt.plugins.native.plugin_library import build_plugin_library, find_cuda_headers, find_tensorrt_headers
from raggedrt.plugins.ops.arrays import Array

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "plugins" / "native" / "tensorrt"
MESSAGE_BYTES = 4096
MOST_AXES = 8
ROOM = 1 << 20
INT32, FLOAT32 = 5, 1
"""Values of TensorRT's PluginFieldType."""
DATA_TYPES: dict[np.dtype[np.generic], int] = {
    np.dtype(np.float32): 0,
    np.dtype(np.float16): 1,
    np.dtype(np.int32): 3,
    np.dtype(np.bool_): 4,
    np.dtype(ml_dtypes.bfloat16): 7,
    np.dtype(np.int64): 8,
}
"""Values of TensorRT's DataType."""
_NUMPY_TYPES = {number: dtype for dtype, number in DATA_TYPES.items()}


class Field(ctypes.Structure):
    """host.h's HostField."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    )


class Tensor(ctypes.Structure):
    """host.h's HostTensor."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("dims", ctypes.c_int64 * MOST_AXES),
        ("max_dims", ctypes.c_int64 * MOST_AXES),
        ("data", ctypes.c_void_p),
        ("result", ctypes.c_void_p),
        ("room", ctypes.c_int64),
    )


class PluginError(RuntimeError):
    """A plugin refused something, or broke a rule of TensorRT's; the message is its own."""


@functools.cache
def host_library() -> ctypes.CDLL:
    """The host program, compiled with the headers that the plugins are compiled with."""
    headers, cuda = find_tensorrt_headers(), find_cuda_headers()
    flags = ("-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")
    digest = hashlib.sha256(repr((flags, str(headers))).encode())
    for path in sorted(FOLDER.glob("*.*")):
        digest.update(path.read_bytes())
    library = cache_folder() / "tests" / f"plugin_host_{digest.hexdigest()[:32]}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        command = [find_compiler(), *flags, "-isystem", str(headers), "-isystem", str(cuda), str(FOLDER / "host.cc")]
        made = library.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-ldl", "-o", str(made)], check=True)
        made.replace(library)
    return ctypes.CDLL(str(library))


def drive(
    creator: str,
    attributes: Mapping[str, object],
    inputs: Sequence[Array],
    outputs: int,
    *,
    largest: Sequence[Sequence[int]] | None = None,
    library: pathlib.Path | None = None,
    building: bool = False,
) -> list[Array]:
    """Build a plugin and run it once; with 0 outputs it is only built.

    Args:
        creator: name of the plugin.
        attributes: integers, floats or lists of integers, as a node in plugin form has them.
        inputs: of the node, without gaps.
        outputs: how many to bring back.
        largest: shapes of the inputs at the end of the profile; theirs when None.
        library: with the plugins; a copy has a driver and packs of its own.
        building: run the network's own plugin, as a builder does that times it.

    Raises:
        PluginError: something was refused.
    """
    fields, kept = _fields(attributes)
    arrays = [np.ascontiguousarray(array) for array in inputs]
    shapes = largest or [array.shape for array in arrays]
    tensors = (Tensor * max(1, len(arrays)))(
        *(_tensor(array, shape) for array, shape in zip(arrays, shapes, strict=True))
    )
    rooms = [np.zeros(ROOM, np.uint8) for _ in range(outputs)]
    results = (Tensor * max(1, outputs))(*(Tensor(result=room.ctypes.data, room=ROOM) for room in rooms))
    message = ctypes.create_string_buffer(MESSAGE_BYTES)
    failed = host_library().host_drive(
        str(library or build_plugin_library()).encode(), creator.encode(), fields, len(fields), tensors, len(arrays),
        results, outputs, int(building), message, ctypes.c_size_t(MESSAGE_BYTES),
    )  # fmt: skip
    del kept
    if failed:
        raise PluginError(message.value.decode())
    return [_array(result, room) for result, room in zip(results, rooms, strict=False)]


def plugin_attributes(node: ir.Node) -> dict[str, object]:
    """What a node in plugin form hands to a creator as fields."""
    return {
        attribute.name: attribute.value
        for attribute in node.attributes.values()
        if attribute.name not in ("plugin_namespace", "plugin_version")
    }


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set variables that libraries read when they open drivers and packs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _fields(attributes: Mapping[str, object]) -> tuple[ctypes.Array[Field], list[Array]]:
    rows, kept = [], []
    for name, value in attributes.items():
        numbers = np.atleast_1d(np.asarray(value, np.float32 if isinstance(value, float) else np.int32))
        kept.append(numbers)
        kind = FLOAT32 if isinstance(value, float) else INT32
        rows.append(Field(name.encode(), numbers.ctypes.data if numbers.size else None, kind, numbers.size))
    return (Field * len(rows))(*rows), kept


def _tensor(array: Array, largest: Sequence[int]) -> Tensor:
    dims = (ctypes.c_int64 * MOST_AXES)(*array.shape)
    largest_dims = (ctypes.c_int64 * MOST_AXES)(*largest)
    return Tensor(DATA_TYPES[array.dtype], array.ndim, dims, largest_dims, array.ctypes.data if array.size else None)


def _array(result: Tensor, room: Array) -> Array:
    shape = tuple(result.dims[: result.rank])
    dtype = _NUMPY_TYPES[result.type]
    return room[: int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape).copy()
