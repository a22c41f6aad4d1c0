"""The launcher of the device kernels through ctypes, on a real or an emulated driver."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from helpers.cuda_calls import CALLS, AttentionCall, AttentionProblem, DeviceLimits
from helpers.cuda_driver import Driver, DriverError
from raggedrt.plugins.native.launcher import build_launcher
from raggedrt.plugins.ops.arrays import Array

MESSAGE_BYTES = 4096


class LaunchError(RuntimeError):
    """The launcher refused a call, or the driver failed; the message is the launcher's."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """How the launcher would compute an attention."""

    entry: str
    by_rows: bool
    splits: int
    items: int
    grid: tuple[int, int]
    counts_work: bool


class Launcher:
    """A launcher of its own: a copy of the library, because one keeps its driver, devices and packs."""

    def __init__(self, folder: Path, driver_path: str | os.PathLike[str], packs: Path) -> None:
        copy = folder / "launcher.so"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(build_launcher(), copy)
        self.library = ctypes.CDLL(str(copy))
        self.driver_path = str(driver_path)
        self.library.raggedrt_cuda_set_pack_folder(str(packs).encode())
        self.library.raggedrt_cuda_work_list_size.restype = ctypes.c_int64
        for name, structure in CALLS.items():
            size = getattr(self.library, f"raggedrt_cuda_{name}_size")
            size.restype = ctypes.c_size_t
            assert size() == ctypes.sizeof(structure), f"{structure.__name__} is not the launcher's"

    def __call__(self, function: str, *arguments: object) -> None:
        """Call a function of c_api.cc.

        Raises:
            LaunchError: it reports why it did not work.
        """
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        before = os.environ.get("RAGGEDRT_CUDA_DRIVER")
        os.environ["RAGGEDRT_CUDA_DRIVER"] = self.driver_path  # read when the driver is opened
        try:
            call = getattr(self.library, f"raggedrt_cuda_{function}")
            failed = call(*arguments, message, ctypes.c_size_t(MESSAGE_BYTES))
        finally:
            if before is None:
                del os.environ["RAGGEDRT_CUDA_DRIVER"]
            else:
                os.environ["RAGGEDRT_CUDA_DRIVER"] = before
        if failed:
            raise LaunchError(message.value.decode())

    def device(self) -> tuple[str, DeviceLimits]:
        """Name and limits of the current device."""
        name, numbers = ctypes.create_string_buffer(256), (ctypes.c_int * 6)()
        self("device", name, ctypes.c_size_t(len(name)), numbers)
        return name.value.decode(), DeviceLimits(*list(numbers)[1:])

    def choose(self, pack: Path, limits: DeviceLimits, call: AttentionCall) -> Choice:
        """The choice for a call with this pack, which needs no device."""
        entry, numbers = ctypes.create_string_buffer(128), (ctypes.c_int64 * 6)()
        self("choose_attention", str(pack).encode(), ctypes.byref(limits), ctypes.byref(call), entry, numbers)
        by_rows, splits, items, x, y, counts = numbers
        return Choice(entry.value.decode(), bool(by_rows), splits, items, (x, y), bool(counts))

    def work_list_size(self, problem: AttentionProblem) -> int:
        """Number of int32 in a work list."""
        return int(self.library.raggedrt_cuda_work_list_size(ctypes.byref(problem)))

    def workspace_bytes(self, op: str, call: ctypes.Structure) -> int:
        """Device memory that a launch wants."""
        size = ctypes.c_size_t()
        self(f"{op}_workspace", ctypes.byref(call), ctypes.byref(size))
        return size.value


class DeviceMemory:
    """Tensors of one call on the device, freed together."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.addresses: list[int] = []
        self.outputs: dict[str, tuple[int, tuple[int, ...], np.dtype[np.generic]]] = {}
        self.host: list[object] = []

    def put(self, array: Array | None) -> int | None:
        """Address of a copy; null where there is no array or nothing in it."""
        if array is None or array.size == 0:
            return None
        address = self.make(array.nbytes)
        self.driver.upload(address, array)
        return address

    def make(self, size: int) -> int:
        """Address of memory that holds nothing yet."""
        address = self.driver.allocate(size)
        self.addresses.append(address)
        return address

    def output(self, name: str, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> int | None:
        """Address of an output; null where it is empty."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape)) * kind.itemsize
        address = self.make(size) if size else 0
        self.outputs[name] = (address, shape, kind)
        return address or None

    def on_host(self, values: Array) -> int | None:
        """Address of host memory that lives as long as this object."""
        kept = np.ascontiguousarray(values)
        self.host.append(kept)
        return kept.ctypes.data if kept.size else None

    def results(self) -> dict[str, Array]:
        """All outputs."""
        return {
            name: self.driver.download(address, shape, dtype) if address else np.empty(shape, dtype)
            for name, (address, shape, dtype) in self.outputs.items()
        }

    def free(self) -> None:
        """Give everything back."""
        for address in self.addresses:
            self.driver.free(address)
        self.addresses.clear()


@contextmanager
def device_memory(driver: Driver) -> Iterator[DeviceMemory]:
    """Memory of one call."""
    memory = DeviceMemory(driver)
    try:
        yield memory
    except (LaunchError, DriverError) as error:
        # An error of a kernel stays with the context: it is taken, with its words, before memory is given back.
        raise type(error)(f"{error} {driver.take_error()}".strip()) from error
    finally:
        memory.free()


def run_call(launcher: Launcher, memory: DeviceMemory, op: str, call: ctypes.Structure, stream: int = 0) -> None:
    """Launch a call with the workspace that it wants, on a stream."""
    wanted = launcher.workspace_bytes(op, call)
    workspace = memory.make(wanted) if wanted else None
    launcher(f"{op}_launch", ctypes.byref(call), ctypes.c_void_p(workspace), ctypes.c_void_p(stream))


def outputs_of(memory: DeviceMemory, stream: int = 0) -> Mapping[str, Array]:
    """Outputs, once the stream is done."""
    memory.driver.synchronize(stream)
    return memory.results()
