"""What the CUDA driver says of this machine: its version and devices. Makes no context and takes no device memory."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
from collections.abc import Iterable, Iterator

from raggedrt.errors import TargetError

DRIVER_VARIABLE = "RAGGEDRT_CUDA_DRIVER"
"""Path of another driver library, as the op library reads it too."""
DRIVER_NAME = "libcuda.so.1"
OLDEST_DRIVER = (13, 0)
"""CUDA version that the driver must serve: that of the cubins in kernel packs."""
_NO_DEVICE = 100
LEGACY_STREAM = 1
"""The default stream of a device, as the driver and DLPack number it."""
_MULTIPROCESSORS, _MAJOR, _MINOR, _L2_BYTES = 16, 75, 76, 38


@dataclasses.dataclass(frozen=True)
class CudaDevice:
    """One device. `capability` is 10 * major + minor; `memory` and `l2_cache` are bytes."""

    ordinal: int
    name: str
    capability: int
    multiprocessors: int
    memory: int
    l2_cache: int

    def __str__(self) -> str:
        return f"{self.name} (sm_{self.capability}, {self.memory / 2**30:.0f} GiB)"


@dataclasses.dataclass(frozen=True)
class CudaState:
    """The driver's CUDA version (None: no driver), its devices, and why there is none that can be used."""

    version: tuple[int, int] | None
    devices: tuple[CudaDevice, ...]
    problem: str | None


class _Driver:
    """The few functions asked for; every result is checked."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def call(self, function: str, *arguments: object) -> int:
        return int(getattr(self._library, function)(*arguments))

    def require(self, function: str, *arguments: object) -> None:
        status = self.call(function, *arguments)
        if status:
            raise OSError(f"{function} failed with CUDA error {status}")

    def number(self, function: str, *arguments: object) -> int:
        value = ctypes.c_int()
        self.require(function, ctypes.byref(value), *arguments)
        return value.value

    def device(self, ordinal: int) -> CudaDevice:
        handle = self.number("cuDeviceGet", ordinal)
        name = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", name, len(name), handle)
        memory = ctypes.c_size_t()
        self.call("cuDeviceTotalMem_v2", ctypes.byref(memory), handle)
        facts = [self.number("cuDeviceGetAttribute", which, handle) for which in (_MAJOR, _MINOR, _MULTIPROCESSORS)]
        l2_cache = self.number("cuDeviceGetAttribute", _L2_BYTES, handle)
        return CudaDevice(
            ordinal, name.value.decode(errors="replace"), 10 * facts[0] + facts[1], facts[2], memory.value, l2_cache
        )


def cuda_state() -> CudaState:
    """Ask the driver; never raises."""
    name = os.environ.get(DRIVER_VARIABLE) or DRIVER_NAME
    try:
        driver = _Driver(ctypes.CDLL(name))
    except OSError:
        return CudaState(None, (), f"the NVIDIA driver is not installed ({name} cannot be loaded)")
    try:
        status = driver.call("cuInit", 0)
        number = driver.number("cuDriverGetVersion")
        version = number // 1000, number % 1000 // 10
        if status == _NO_DEVICE:
            return CudaState(version, (), "the NVIDIA driver finds no GPU")
        if status:
            return CudaState(version, (), f"the NVIDIA driver does not start (cuInit gives CUDA error {status})")
        devices = tuple(driver.device(ordinal) for ordinal in range(driver.number("cuDeviceGetCount")))
    except (OSError, AttributeError) as error:
        return CudaState(None, (), f"{name} is not a CUDA driver that can be used: {error}")
    if not devices:
        return CudaState(version, (), "the NVIDIA driver finds no GPU (CUDA_VISIBLE_DEVICES may hide it)")
    if version < OLDEST_DRIVER:
        needed = "{}.{}".format(*OLDEST_DRIVER)
        return CudaState(
            version, devices, f"the NVIDIA driver serves CUDA {version[0]}.{version[1]}, expected {needed} or later"
        )
    return CudaState(version, devices, None)


def require_cuda_device(what: str) -> CudaState:
    """The state of a machine that can run `what` on a GPU.

    Raises:
        TargetError: there is no driver, no device, or the driver is too old.
    """
    state = cuda_state()
    if state.problem is not None:
        raise TargetError(
            f"no CUDA device: {state.problem}, and {what} runs on an NVIDIA GPU. Use a machine with a GPU and a driver "
            f"for CUDA {OLDEST_DRIVER[0]} (raggedrt doctor shows what is found), convert with --target ort-cpu, or in "
            "Python give providers=['CPUExecutionProvider'] to run the same graph on the CPU."
        )
    return state


def wait_for_stream(ordinal: int, stream: int) -> None:
    """Wait on the host until a stream of a device has done everything that is enqueued on it.

    Raises:
        TargetError: the driver refuses.
    """
    with _on_device(ordinal) as driver:
        driver.require("cuStreamSynchronize", ctypes.c_void_p(stream))


def copy_memory(ordinal: int, copies: Iterable[tuple[int, int, int]]) -> None:
    """Copy between host and device or within a device, and wait: (target address, source address, bytes) each.

    Raises:
        TargetError: the driver refuses.
    """
    with _on_device(ordinal) as driver:
        for target, source, count in copies:
            driver.require("cuMemcpy", ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(count))
        driver.require("cuStreamSynchronize", ctypes.c_void_p(LEGACY_STREAM))


@contextlib.contextmanager
def _on_device(ordinal: int) -> Iterator[_Driver]:
    """The driver, with the primary context of a device current on this thread."""
    try:
        driver = _Driver(ctypes.CDLL(os.environ.get(DRIVER_VARIABLE) or DRIVER_NAME))
        context, previous = ctypes.c_void_p(), ctypes.c_void_p()
        handle = driver.number("cuDeviceGet", ordinal)
        driver.require("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        try:
            driver.require("cuCtxPushCurrent_v2", context)
            try:
                yield driver
            finally:
                driver.call("cuCtxPopCurrent_v2", ctypes.byref(previous))
        finally:
            driver.call("cuDevicePrimaryCtxRelease_v2", handle)
    except OSError as error:
        raise TargetError(f"CUDA device {ordinal} cannot be used: {error}.") from error
