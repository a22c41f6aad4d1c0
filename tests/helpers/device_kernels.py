"""Runs device kernels on a GPU, on copies of NumPy arrays: NVRTC compiles them, the driver launches them."""

from __future__ import annotations

import ctypes
import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from helpers.emulator import Grid, Memory, Variant
from raggedrt.plugins.native.build import SOURCE_FOLDER

POISON = 0x7FA1  # as the emulator's
MAX_DYNAMIC_SHARED_SIZE = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, MINOR


@functools.cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def call(name: str, *arguments: object) -> None:
    """Calls a function of the driver; raises where it fails."""
    status = getattr(_driver(), name)(*arguments)
    if status != 0:
        words = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(words))
        raise RuntimeError(f"{name} failed: {(words.value or b'').decode()} ({status})")


@functools.cache
def capability() -> int:
    """Compute capability of GPU 0, as 90; makes its context current."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    parts = [ctypes.c_int(), ctypes.c_int()]
    for part, attribute in zip(parts, COMPUTE_CAPABILITY, strict=True):
        call("cuDeviceGetAttribute", ctypes.byref(part), attribute, device)
    return 10 * parts[0].value + parts[1].value


def cubin(variant: Variant, arch: int) -> bytes:
    """Machine code of a kernel, without a GPU."""
    from cuda.core import Program, ProgramOptions

    macros: list[str | tuple[str, str]] = [("RAGGEDRT_ENTRY", variant.entry), *variant.macros.items()]
    options = ProgramOptions(
        std="c++17", arch=f"sm_{arch}", include_path=[str(SOURCE_FOLDER)], define_macro=macros
    )  # fmt: skip
    source = pathlib.Path(variant.source).read_text(encoding="utf-8")
    return bytes(Program(source, "c++", options).compile("cubin").code)


class DeviceKernels:
    """Kernels for GPU 0."""

    def __init__(self, variants: Iterable[Variant]) -> None:
        self._functions: dict[str, ctypes.c_void_p] = {}
        arch = capability()
        for variant in variants:
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            code = cubin(variant, arch)
            call("cuModuleLoadData", ctypes.byref(module), code)
            call("cuModuleGetFunction", ctypes.byref(function), module, variant.entry.encode())
            self._functions[variant.entry] = function

    def run(
        self,
        entry: str,
        params: Callable[[Mapping[str, int]], ctypes.Structure],
        arrays: Mapping[str, tuple[np.ndarray, Memory]],
        grid: Grid,
    ) -> None:
        """Runs a grid and copies back what it may have written.

        Args:
            entry: the kernel.
            params: makes its argument from the addresses of the arrays.
            arrays: its memory.
            grid: blocks, threads and shared memory.
        """
        addresses = {name: _allocate(array, kind) for name, (array, kind) in arrays.items()}
        argument = params({name: address.value or 0 for name, address in addresses.items()})
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
        function = self._functions[entry]
        call("cuFuncSetAttribute", function, MAX_DYNAMIC_SHARED_SIZE, ctypes.c_int(grid.shared_bytes))
        sizes = [ctypes.c_uint(size) for size in (grid.x, grid.y, 1, grid.threads, 1, 1, grid.shared_bytes)]
        call("cuLaunchKernel", function, *sizes, None, pointers, None)
        call("cuCtxSynchronize")
        for name, (array, kind) in arrays.items():
            if kind is not Memory.INPUT:
                call(
                    "cuMemcpyDtoH_v2",
                    ctypes.c_void_p(array.ctypes.data),
                    addresses[name],
                    ctypes.c_size_t(array.nbytes),
                )
            call("cuMemFree_v2", addresses[name])


def _allocate(array: np.ndarray, kind: Memory) -> ctypes.c_uint64:
    address = ctypes.c_uint64()
    call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(array.nbytes))
    if kind is Memory.UNINITIALIZED:
        call("cuMemsetD16_v2", address, ctypes.c_ushort(POISON), ctypes.c_size_t(array.nbytes // 2))
    else:
        call("cuMemcpyHtoD_v2", address, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))
    return address
