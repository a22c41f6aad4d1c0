"""The CUDA driver through ctypes: the machine's own, or the emulated one."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np

from raggedrt.plugins.ops.arrays import Array

REAL_DRIVER = "libcuda.so.1"
MESSAGE_BYTES = 8192


class DriverError(RuntimeError):
    """A driver function failed."""


class Driver:
    """Memory and streams of device 0, whose primary context becomes current."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.library = ctypes.CDLL(str(path))
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self("cuInit", 0)
        self("cuDeviceGet", ctypes.byref(device), 0)
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self("cuCtxSetCurrent", context)

    def __call__(self, name: str, *arguments: object) -> None:
        """Call a function of the driver.

        Raises:
            DriverError: it fails.
        """
        status = getattr(self.library, name)(*arguments)
        if status != 0:
            words = ctypes.c_char_p()
            self.library.cuGetErrorString(status, ctypes.byref(words))
            raise DriverError(f"{name} failed: {(words.value or b'').decode()} ({status})")

    def allocate(self, size: int) -> int:
        """Address of device memory that holds nothing yet."""
        address = ctypes.c_uint64()
        self("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: Array) -> None:
        """Copy an array to the device."""
        kept = np.ascontiguousarray(array)
        self(
            "cuMemcpyHtoD_v2", ctypes.c_uint64(address), ctypes.c_void_p(kept.ctypes.data), ctypes.c_size_t(kept.nbytes)
        )

    def download(self, address: int, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> Array:
        """A copy of device memory."""
        array = np.empty(shape, dtype)
        self(
            "cuMemcpyDtoH_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
        )
        return array

    def synchronize(self, stream: int = 0) -> None:
        """Wait for what was launched on a stream."""
        self("cuStreamSynchronize", ctypes.c_void_p(stream))

    def take_error(self) -> str:
        """What else is known of the last failure."""
        return ""


class EmulatedDriver(Driver):
    """The emulated driver, with kernels of one library; there is one in a process."""

    def __init__(self, path: Path, kernels: Path) -> None:
        os.environ["RAGGEDRT_EMULATED_KERNELS"] = str(kernels)  # read at the driver's first call
        super().__init__(path)
        self.library.raggedrt_emulated_driver_allocated.restype = ctypes.c_size_t

    def seed(self, seed: int) -> None:
        """How kernels and streams are scheduled from now on."""
        self.library.raggedrt_emulated_driver_seed(ctypes.c_uint64(seed))

    def fail(self, function: str, result: int, skipped: int = 0) -> None:
        """Let a function fail once, after `skipped` calls that go well."""
        self.library.raggedrt_emulated_driver_fail(function.encode(), skipped, result)

    def calls(self, function: str) -> int:
        """How often a function was called."""
        return int(self.library.raggedrt_emulated_driver_calls(function.encode()))

    def allocated(self) -> int:
        """Bytes of device memory that are allocated."""
        return int(self.library.raggedrt_emulated_driver_allocated())

    def take_error(self) -> str:
        """What the emulator found wrong with the first kernel that failed."""
        text = ctypes.create_string_buffer(MESSAGE_BYTES)
        self.library.raggedrt_emulated_driver_error(text, ctypes.c_size_t(MESSAGE_BYTES))
        return text.value.decode()
