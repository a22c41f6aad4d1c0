"""Memory and a stream of one GPU, through the CUDA driver: what an engine needs around it."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy.typing as npt

from raggedrt.errors import RaggedRTError, TargetError
from raggedrt.plugins.runtime.cuda_device import DRIVER_NAME, DRIVER_VARIABLE, CudaDevice

Array = npt.NDArray[Any]
NON_BLOCKING = 1
"""A stream that does not wait for the default one."""
NO_MEMORY = 2
GRANULE = 512
"""Bytes that buffers are rounded up to; TensorRT wants 256 aligned."""


class Device:
    """One GPU with a stream. Its primary context is the one that TensorRT uses, and is never given back.

    Args:
        ordinal: of the GPU, as the driver counts.

    Raises:
        TargetError: there is no driver or no such GPU.
    """

    def __init__(self, ordinal: int) -> None:
        name = os.environ.get(DRIVER_VARIABLE) or DRIVER_NAME
        try:
            self._driver = ctypes.CDLL(name)
        except OSError as error:
            raise TargetError(f"the NVIDIA driver is not installed ({error})") from error
        self._context = ctypes.c_void_p()
        handle, stream = ctypes.c_int(), ctypes.c_void_p()
        try:
            self._call("cuInit", 0)
            self._call("cuDeviceGet", ctypes.byref(handle), ordinal)
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), handle)
            with self.current():
                self._call("cuStreamCreate", ctypes.byref(stream), NON_BLOCKING)
        except RaggedRTError as error:
            raise TargetError(f"GPU {ordinal} cannot be used: {error}") from error
        self.stream: int = stream.value or 0

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """With this GPU as the calling thread's, whatever it was before."""
        before = ctypes.c_void_p()
        self._call("cuCtxGetCurrent", ctypes.byref(before))
        self._call("cuCtxSetCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxSetCurrent", before)

    def allocate(self, size: int) -> int:
        """The address of so many new bytes; the GPU has to be current here and below.

        Raises:
            RaggedRTError: there is no room for them.
        """
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back, when nothing uses it any more."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: Array) -> None:
        """Enqueue a copy of a contiguous array, which has to stay until `wait` returns."""
        if array.nbytes:
            source, count = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
            self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), source, count, ctypes.c_void_p(self.stream))

    def download(self, array: Array, address: int) -> None:
        """Fill a contiguous array."""
        if array.nbytes:
            target, count = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
            self._call("cuMemcpyDtoH_v2", target, ctypes.c_uint64(address), count)

    def wait(self) -> None:
        """Until everything on the stream is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def close(self) -> None:
        """Destroy the stream."""
        stream, self.stream = self.stream, 0
        if stream:
            with self.current():
                self._call("cuStreamDestroy_v2", ctypes.c_void_p(stream))

    def _call(self, function: str, *arguments: object) -> None:
        status = int(getattr(self._driver, function)(*arguments))
        if status == NO_MEMORY:
            raise RaggedRTError(
                "the GPU has no memory left for this batch; feed fewer tokens at a time, or free memory of the GPU"
            )
        if status:
            raise RaggedRTError(f"{function} failed with CUDA error {status}")


class Buffers:
    """Device memory by name, which is used again and grows where it is too small.

    Args:
        allocate: gives the address of so many bytes.
        free: takes an address back.
    """

    def __init__(self, allocate: Callable[[int], int], free: Callable[[int], None]) -> None:
        self._allocate, self._free = allocate, free
        self._held: dict[str, tuple[int, int]] = {}

    def reserve(self, name: str, size: int) -> int:
        """The address of at least `size` bytes, whose content means nothing; what it held before is gone if it grew."""
        address, capacity = self._held.get(name, (0, 0))
        if size > capacity or not address:
            if address:
                del self._held[name]
                self._free(address)
            capacity = grown(size, capacity)
            address = self._allocate(capacity)
            self._held[name] = address, capacity
        return address

    def clear(self) -> None:
        """Give all of it back."""
        while self._held:
            _, (address, _) = self._held.popitem()
            self._free(address)


def grown(size: int, capacity: int) -> int:
    """Bytes to allocate for `size`, where `capacity` were too few: some more, so that it does not grow at each call."""
    wanted = max(size, capacity + capacity // 2 if size > capacity else capacity, 1)
    return -(-wanted // GRANULE) * GRANULE


def choose_device(devices: Sequence[CudaDevice], capabilities: Sequence[int]) -> CudaDevice | None:
    """The first GPU of one of these compute capabilities, else the first one; None: there is no GPU."""
    fitting = [device for device in devices if device.capability in capabilities]
    return next(iter([*fitting, *devices]), None)
