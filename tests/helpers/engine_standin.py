"""What behaves like a TensorRT engine towards its caller: ONNX Runtime computes, on memory of the emulated driver."""

from __future__ import annotations

import ctypes
import enum
import math
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime

from helpers.cuda_driver import Driver
from raggedrt.plugins.ops.arrays import Array

Bounds = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
_NAMES = {"float32": "FLOAT", "float16": "HALF", "int32": "INT32", "int64": "INT64", "bool": "BOOL"}


class _Location(enum.Enum):
    DEVICE, HOST = 0, 1


class _Mode(enum.Enum):
    INPUT, OUTPUT = 0, 1


class _Allocator:
    pass


TRT = types.SimpleNamespace(TensorLocation=_Location, TensorIOMode=_Mode, IOutputAllocator=_Allocator)


class Engine:
    """An engine of an ONNX model; `on_host`: inputs that live there; `unknown`: outputs without a shape beforehand."""

    def __init__(
        self,
        model: onnx.ModelProto,
        profiles: Sequence[dict[str, Bounds]],
        *,
        on_host: Sequence[str] = (),
        unknown: Sequence[str] = (),
    ) -> None:
        self.model, self.profiles, self.on_host, self.unknown = model, profiles, on_host, unknown
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in model.graph.input}
        self.values = {**self.inputs, **{value.name: value for value in model.graph.output}}
        self.num_io_tensors, self.num_optimization_profiles = len(self.values), len(profiles)

    def get_tensor_name(self, number: int) -> str:
        return list(self.values)[number]

    def dtype(self, name: str) -> np.dtype[Any]:
        return onnx.helper.tensor_dtype_to_np_dtype(self.values[name].type.tensor_type.elem_type)

    def get_tensor_dtype(self, name: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(name=_NAMES[self.dtype(name).name])

    def get_tensor_location(self, name: str) -> _Location:
        return _Location.HOST if name in self.on_host else _Location.DEVICE

    def get_tensor_mode(self, name: str) -> _Mode:
        return _Mode.INPUT if name in self.inputs else _Mode.OUTPUT

    def get_tensor_profile_shape(self, name: str, number: int) -> list[tuple[int, ...]]:
        return list(self.profiles[number][name])


class Context:
    """An execution context; it refuses what TensorRT refuses, and forgets shapes when the profile changes."""

    def __init__(self, engine: Engine, driver: Driver) -> None:
        self.engine, self.driver = engine, driver
        self.profile: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        self.fail = False
        self.log: list[str] = []

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        assert stream
        self.log.append(f"profile {number}")
        self.profile = number
        self.shapes.clear()
        return number < len(self.engine.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None, "no profile was chosen"
        low, _, high = self.engine.profiles[self.profile][name]
        self.shapes[name] = shape
        return len(shape) == len(low) and all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address != 0

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        self.allocators[name] = allocator
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.inputs if name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sizes: dict[str, int] = {}
        for given, shape in self.shapes.items():
            dims = self.engine.values[given].type.tensor_type.shape.dim
            sizes |= {dim.dim_param: size for dim, size in zip(dims, shape, strict=True) if dim.dim_param}
        if name in self.engine.unknown:
            return (-1,) * len(self.engine.values[name].type.tensor_type.shape.dim)
        return tuple(
            sizes.get(dim.dim_param, dim.dim_value) for dim in self.engine.values[name].type.tensor_type.shape.dim
        )

    def execute_async_v3(self, stream: int) -> bool:
        assert stream
        assert not self.infer_shapes()
        if self.fail:
            return False
        self.driver.synchronize(stream)
        feeds = {name: self._read(name, shape) for name, shape in self.shapes.items()}
        names = [name for name in self.engine.values if name not in self.engine.inputs]
        for name, array in zip(names, self.engine.session.run(names, feeds), strict=True):
            if name in self.engine.unknown:
                allocator = self.allocators[name]
                self.addresses[name] = allocator.reallocate_output_async(name, 0, array.nbytes, 256, stream)
                allocator.notify_shape(name, array.shape)
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(array).ctypes.data, array.nbytes)
        self.log.append("run")
        return True

    def _read(self, name: str, shape: tuple[int, ...]) -> Array:
        dtype = self.engine.dtype(name)
        content = ctypes.string_at(self.addresses[name], math.prod(shape) * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(shape)
