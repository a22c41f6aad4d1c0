"""Runs device kernels in the emulator on NumPy arrays."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import dataclasses
import enum
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from raggedrt.plugins.native import emulated

MESSAGE_BYTES = 1 << 16


class EmulationError(AssertionError):
    """What the emulator found wrong with a kernel."""


class Memory(enum.IntEnum):
    """`raggedrt_emulator_memory` of emulator/api.h."""

    INPUT = 0
    IN_OUT = 1
    UNINITIALIZED = 2


@dataclasses.dataclass(frozen=True)
class Change:
    """A barrier, fence, commit or wait to leave out or, where that is possible, to weaken."""

    file: str
    """End of its path."""
    line: int
    weaken: bool = False


CHANGED: contextvars.ContextVar[Change | None] = contextvars.ContextVar("CHANGED", default=None)
"""What launches change in a kernel."""


class _Launch(ctypes.Structure):
    _fields_ = (
        ("kernel", ctypes.c_void_p),
        ("params", ctypes.c_void_p),
        ("grid_x", ctypes.c_int32),
        ("grid_y", ctypes.c_int32),
        ("block_threads", ctypes.c_int32),
        ("shared_bytes", ctypes.c_int32),
        ("seed", ctypes.c_uint64),
        ("seconds", ctypes.c_double),
        ("profile", ctypes.c_int32),
        ("changed_line", ctypes.c_int32),
        ("changed_file", ctypes.c_char_p),
        ("change", ctypes.c_int),
    )


class _Kernel(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("call", ctypes.c_void_p),
        ("param_bytes", ctypes.c_uint32),
        ("max_threads", ctypes.c_uint32),
    )


@dataclasses.dataclass(frozen=True)
class Variant:
    """A kernel to compile; see `emulated.KernelVariant`."""

    source: str
    entry: str
    macros: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Grid:
    """How a kernel is launched."""

    x: int = 1
    y: int = 1
    threads: int = 32
    shared_bytes: int = 0


@functools.cache
def runtime() -> ctypes.CDLL:
    """The emulator's library, with the types of its functions."""
    library = ctypes.CDLL(str(emulated.build_runtime()))
    library.raggedrt_emulator_counter_names.restype = ctypes.c_char_p
    library.raggedrt_emulator_register.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_int)
    library.raggedrt_emulator_unregister.argtypes = (ctypes.c_void_p,)
    library.raggedrt_emulator_unwritten.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    library.raggedrt_emulator_unwritten.restype = ctypes.c_size_t
    return library


@functools.cache
def counter_names() -> tuple[str, ...]:
    """Names of what a launch counts."""
    return tuple(runtime().raggedrt_emulator_counter_names().decode().split())


def aligned(shape: int | tuple[int, ...], dtype: np.typing.DTypeLike, fill: object = 0) -> np.ndarray:
    """A new array that begins 256-byte aligned, as GPU memory does, and never where a page of the host begins."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + 512, dtype=np.uint8)
    start = -raw.ctypes.data % 256
    array = raw[start : start + size].view(dtype).reshape(shape)
    array[...] = fill
    return array


@contextlib.contextmanager
def registered(arrays: Mapping[str, tuple[np.ndarray, Memory]]) -> Iterator[None]:
    """Makes arrays the GPU's global memory; arrays without elements are left out."""
    done: list[int] = []
    try:
        for name, (array, kind) in arrays.items():
            if array.size == 0:
                continue
            if runtime().raggedrt_emulator_register(array.ctypes.data, array.nbytes, name.encode(), int(kind)):
                raise ValueError(f"{name} overlaps memory that is registered already")
            done.append(array.ctypes.data)
        yield
    finally:
        for address in done:
            runtime().raggedrt_emulator_unregister(address)


def unwritten_bytes(array: np.ndarray) -> int:
    """How many bytes of a registered array nobody has written."""
    return int(runtime().raggedrt_emulator_unwritten(array.ctypes.data, array.nbytes))


class Kernels:
    """Kernels compiled into one library."""

    def __init__(self, variants: Iterable[Variant], *, overlay: pathlib.Path | None = None) -> None:
        runtime()
        self._library = ctypes.CDLL(str(emulated.build(variants, overlay=overlay)))

    def run(
        self,
        entry: str,
        params: ctypes.Structure,
        grid: Grid,
        *,
        seed: int = 0,
        profile: bool = False,
        seconds: float = 60.0,
    ) -> dict[str, int]:
        """Runs a grid; the counters by name.

        Args:
            entry: the kernel.
            params: its argument.
            grid: blocks, threads and shared memory.
            seed: of the schedule; 0 is the plain order.
            profile: also count bank conflicts and memory sectors of plain accesses.
            seconds: how long an endless loop may take.

        Raises:
            EmulationError: the kernel broke a rule.
        """
        kernel = _Kernel.in_dll(self._library, f"{entry}_emulated")
        if kernel.param_bytes != ctypes.sizeof(params):
            raise ValueError(f"{entry} takes {kernel.param_bytes} bytes, got {ctypes.sizeof(params)}")
        change = CHANGED.get() or Change("", 0)
        launch = _Launch(
            kernel=ctypes.addressof(kernel),
            params=ctypes.addressof(params),
            grid_x=grid.x,
            grid_y=grid.y,
            block_threads=grid.threads,
            shared_bytes=grid.shared_bytes,
            seed=seed,
            seconds=seconds,
            profile=profile,
            changed_line=change.line,
            changed_file=change.file.encode(),
            change=int(change.weaken),
        )
        counters = (ctypes.c_uint64 * len(counter_names()))()
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        if runtime().raggedrt_emulator_run(ctypes.byref(launch), counters, message, MESSAGE_BYTES):
            raise EmulationError(message.value.decode())
        return dict(zip(counter_names(), counters, strict=True))
