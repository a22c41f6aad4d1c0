"""Calls of one engine, behind TensorRT's Python interface, which is the same in every product."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from raggedrt.errors import InputError, RaggedRTError
from raggedrt.plugins.bundle.manifest import ShapeProfile
from raggedrt.plugins.tensorrt.device import Array, Buffers, Device

TYPE_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "BOOL": "bool",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
}
"""Element types by TensorRT's names."""


class EngineContext:
    """An execution context with its buffers. One call at a time.

    Args:
        trt: the product's module.
        engine: a deserialised engine, or what behaves like one.
        device: where it runs.
        context: an execution context of it.

    Raises:
        InputError: a tensor has an element type that arrays cannot hold.
    """

    def __init__(self, trt: Any, engine: Any, device: Device, context: Any) -> None:
        self._engine, self._device, self._context = engine, device, context
        self._profile: int | None = None
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        self._types = {name: element_type(engine.get_tensor_dtype(name).name, name) for name in names}
        self._on_host = {name for name in names if engine.get_tensor_location(name) == trt.TensorLocation.HOST}
        self.inputs = tuple(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
        self.outputs = tuple(name for name in names if name not in self.inputs)
        self._buffers = Buffers(device.allocate, device.free)
        self._allocators = {name: _allocator(trt, self._buffers) for name in self.outputs if name not in self._on_host}

    def run(self, profile: int, feeds: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        """Outputs in the order of `names`, as arrays of their own.

        Raises:
            RaggedRTError: the engine refuses or fails, or the GPU has no memory left.
        """
        with self._device.current():
            try:
                held = self._bind_inputs(profile, feeds)
                found = self._bind_outputs()
                self._require(self._context.execute_async_v3(self._device.stream), "execution")
                self._device.wait()
                held.clear()
                return [self._fetch(name, found[name]) for name in names]
            except BaseException:
                self._profile = None  # what was set is not known any more
                raise

    def close(self) -> None:
        """Give memory back; the context is unusable then."""
        with self._device.current():
            self._context = self._engine = None
            self._buffers.clear()

    def _bind_inputs(self, profile: int, feeds: Mapping[str, Array]) -> list[Array]:
        """Shapes and addresses of all inputs; returns arrays that have to stay until the call is done."""
        if profile != self._profile:
            self._require(
                self._context.set_optimization_profile_async(profile, self._device.stream), f"profile {profile}"
            )
            self._profile = profile
        held = []
        for name in self.inputs:
            if name not in feeds:
                raise RaggedRTError(f"the engine needs the input {name!r}, which its manifest does not list")
            array = np.asarray(feeds[name], self._types[name], order="C")
            held.append(array)
            self._require(self._context.set_input_shape(name, tuple(array.shape)), f"shape {array.shape} of {name!r}")
            if name in self._on_host:
                address = array.ctypes.data
            else:
                address = self._buffers.reserve(name, array.nbytes)
                self._device.upload(address, array)
            self._require(self._context.set_tensor_address(name, address), f"address of {name!r}")
        return held

    def _bind_outputs(self) -> dict[str, tuple[int, ...] | Array]:
        """Memory for all outputs. By name the shape, None while only the engine will know it; arrays of the host."""
        lacking = self._context.infer_shapes()
        if lacking:
            raise RaggedRTError(f"the engine does not know the shapes of {', '.join(lacking)}")
        found: dict[str, Any] = {}
        for name in self.outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            if name in self._on_host:
                found[name] = np.empty(shape, self._types[name])
                self._require(self._context.set_tensor_address(name, found[name].ctypes.data), f"address of {name!r}")
            elif min(shape, default=0) < 0:
                found[name] = None
                allocator = self._allocators[name]
                self._require(self._context.set_output_allocator(name, allocator), f"allocator of {name!r}")
            else:
                found[name] = shape
                address = self._buffers.reserve(name, math.prod(shape) * self._types[name].itemsize)
                self._require(self._context.set_tensor_address(name, address), f"address of {name!r}")
        return found

    def _fetch(self, name: str, found: Any) -> Array:
        if isinstance(found, np.ndarray):
            return found
        shape = found if found is not None else self._allocators[name].shape
        if shape is None:
            raise RaggedRTError(f"the engine did not tell the shape of {name!r}")
        array = np.empty(shape, self._types[name])
        self._device.download(array, self._buffers.reserve(name, 0))
        return array

    def _require(self, done: Any, what: str) -> None:
        if not done:
            raise RaggedRTError(f"TensorRT refuses {what}")


def element_type(name: str, tensor: str) -> np.dtype[Any]:
    """The numpy (or ml_dtypes) dtype of TensorRT's name of one.

    Raises:
        InputError: arrays cannot hold it.
    """
    if name not in TYPE_NAMES:
        known = ", ".join(TYPE_NAMES)
        raise InputError(f"the engine's {tensor!r} has the element type {name}, and arrays hold {known}")
    return np.dtype(getattr(ml_dtypes, TYPE_NAMES[name], TYPE_NAMES[name]))


def check_engine(
    engine: Any, context: EngineContext, inputs: Sequence[str], outputs: Sequence[str], profiles: Sequence[ShapeProfile]
) -> str | None:
    """What an engine says of itself against what its record says; None: they agree."""
    for what, real, listed in (("inputs", context.inputs, inputs), ("outputs", context.outputs, outputs)):
        if set(real) != set(listed):
            return f"it has the {what} {', '.join(sorted(real))}, and the manifest lists {', '.join(sorted(listed))}"
    if engine.num_optimization_profiles != len(profiles):
        return f"it has {engine.num_optimization_profiles} profiles, and the manifest lists {len(profiles)}"
    for number, profile in enumerate(profiles):
        for name in inputs:
            real_bounds = tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(name, number))
            bounds = tuple(getattr(profile, bound).get(name) for bound in ("minimum", "optimum", "maximum"))
            if real_bounds != bounds:
                return f"profile {number} admits {real_bounds} for {name!r}, and the manifest says {bounds}"
    return None


def _allocator(trt: Any, buffers: Buffers) -> Any:
    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        """Memory for an output whose size only the engine knows."""

        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.shape: tuple[int, ...] | None = None

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            return buffers.reserve(name, size)

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return buffers.reserve(name, size)

        def notify_shape(self, name: str, shape: Sequence[int]) -> None:
            self.shape = tuple(shape)

    return Allocator()
