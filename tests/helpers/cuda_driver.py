"""The CUDA driver through ctypes, real or emulated: contexts, memory, streams. What a runtime would do around an op."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from raggedrt.plugins.ops.arrays import Array

REAL_DRIVER = "libcuda.so.1"
MESSAGE_BYTES = 8192
NON_BLOCKING = 1
"""A stream that does not wait for the default one."""


class DriverError(RuntimeError):
    """A driver function did not return success."""


class Driver:
    """One driver library, with the primary context of device 0 current on the calling thread."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.library = ctypes.CDLL(str(path))
        self.call("cuInit", 0)
        self.make_current(0)

    def call(self, function: str, *arguments: object) -> None:
        """Call a function of the driver.

        Raises:
            DriverError: it fails.
        """
        result = getattr(self.library, function)(*arguments)
        if result != 0:
            name = ctypes.c_char_p()
            self.library.cuGetErrorName(result, ctypes.byref(name))
            raise DriverError(f"{function}: {(name.value or str(result).encode()).decode()}")

    def make_current(self, ordinal: int) -> None:
        """Make the primary context of a device current on this thread."""
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), ordinal)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def allocate(self, size: int) -> int:
        """Address of new device memory of at least one byte."""
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self.call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: Array) -> None:
        """Copy an array to the device."""
        source = np.ascontiguousarray(array)
        if source.nbytes:
            pointer = ctypes.c_void_p(source.ctypes.data)
            self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), pointer, ctypes.c_size_t(source.nbytes))

    def download(self, address: int, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> Array:
        """Copy an array from the device."""
        target = np.empty(shape, dtype)
        if target.nbytes:
            pointer = ctypes.c_void_p(target.ctypes.data)
            self.call("cuMemcpyDtoH_v2", pointer, ctypes.c_uint64(address), ctypes.c_size_t(target.nbytes))
        return target

    @contextmanager
    def stream(self) -> Iterator[int]:
        """A stream of its own."""
        handle = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(handle), NON_BLOCKING)
        try:
            yield handle.value or 0
        finally:
            self.call("cuStreamDestroy_v2", handle)

    def synchronize(self, stream: int = 0) -> None:
        """Wait for everything on a stream."""
        self.call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def take_error(self) -> str:
        """What is known of the last kernel that failed, beyond the driver's word."""
        return ""


class EmulatedDriver(Driver):
    """The emulated driver with its controls (cuda/emulator/driver.h); there is one in a process."""

    def __init__(self, path: Path, kernels: Path) -> None:
        os.environ["RAGGEDRT_EMULATED_KERNELS"] = str(kernels)  # read at the driver's first call
        super().__init__(path)
        self.library.raggedrt_emulated_driver_allocated.restype = ctypes.c_size_t

    def seed(self, seed: int) -> None:
        """Schedules of kernels and streams from now on; 0: in order, at once."""
        self.library.raggedrt_emulated_driver_seed(ctypes.c_uint64(seed))

    def fail(self, function: str | None, result: int = 0, *, skipped: int = 0) -> None:
        """Let a function fail once, after `skipped` calls; None: no function any more."""
        name = function.encode() if function else None
        self.library.raggedrt_emulated_driver_fail(name, skipped, result)

    def calls(self, function: str) -> int:
        """How often a function was called."""
        return int(self.library.raggedrt_emulated_driver_calls(function.encode()))

    def allocated(self) -> int:
        """Bytes of device memory that are allocated."""
        return int(self.library.raggedrt_emulated_driver_allocated())

    def take_error(self) -> str:
        """What the emulator found wrong with the first kernel that failed; the error is gone then."""
        text = ctypes.create_string_buffer(MESSAGE_BYTES)
        self.library.raggedrt_emulated_driver_error(text, ctypes.c_size_t(MESSAGE_BYTES))
        return text.value.decode()
