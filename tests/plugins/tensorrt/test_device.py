"""Buffers that grow, the choice of a GPU, and kernels that are kept between processes."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from raggedrt.errors import TargetError
from raggedrt.plugins.runtime.cuda_device import DRIVER_VARIABLE, CudaDevice
from raggedrt.plugins.tensorrt.device import GRANULE, Buffers, Device, choose_device, grown
from raggedrt.plugins.tensorrt.runtime_cache import RuntimeCache, cache_path, with_runtime_cache

pytestmark = pytest.mark.none


class Heap:
    """Addresses that are held."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.made = 0

    def allocate(self, size: int) -> int:
        self.made += 1
        self.held[self.made * 4096] = size
        return self.made * 4096

    def free(self, address: int) -> None:
        del self.held[address]


def test_a_buffer_is_used_again_until_it_is_too_small() -> None:
    heap = Heap()
    buffers = Buffers(heap.allocate, heap.free)
    first = buffers.reserve("x", 1000)
    assert buffers.reserve("x", 1024) == buffers.reserve("x", 0) == first
    assert buffers.reserve("y", 1) != first
    second = buffers.reserve("x", 1025)
    assert second != first
    assert sorted(heap.held.values()) == [512, 1536]
    buffers.clear()
    assert not heap.held


def test_a_buffer_that_cannot_grow_leaves_nothing_behind() -> None:
    heap = Heap()

    def refuse(size: int) -> int:
        if size > 4096:
            raise MemoryError
        return heap.allocate(size)

    buffers = Buffers(refuse, heap.free)
    buffers.reserve("x", 100)
    with pytest.raises(MemoryError):
        buffers.reserve("x", 10000)
    assert not heap.held
    assert buffers.reserve("x", 100)


def test_growing_sizes_need_few_allocations() -> None:
    heap = Heap()
    buffers = Buffers(heap.allocate, heap.free)
    for size in range(0, 2**20, 1000):
        assert heap.held[buffers.reserve("x", size)] >= size
    assert heap.made < 30
    assert grown(0, 0) == GRANULE
    assert grown(2**20, 0) == 2**20


def _device(ordinal: int, capability: int) -> CudaDevice:
    return CudaDevice(ordinal, "GPU", capability, 1, 1, 1)


def test_the_gpu_that_the_engine_is_for_comes_first() -> None:
    devices = [_device(0, 90), _device(1, 89), _device(2, 89)]
    assert choose_device(devices, (86, 89)) == devices[1]
    assert choose_device(devices, (120,)) == devices[0]
    assert choose_device([], (89,)) is None


def test_without_a_driver_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DRIVER_VARIABLE, "/no/such/libcuda.so")
    with pytest.raises(TargetError, match="driver is not installed"):
        Device(0)


class Kernels:
    """TensorRT's cache object: bytes that a GPU's compiler adds to."""

    def __init__(self, *, accepts: bool = True) -> None:
        self.content, self.accepts = b"", accepts

    def deserialize(self, content: bytes) -> bool:
        if self.accepts:
            self.content = content
        return self.accepts

    def serialize(self) -> bytes:
        return self.content


def test_kernels_come_back_in_the_next_process(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "deep" / "kernels.bin"
    first = Kernels()
    kept = RuntimeCache(path, first)
    kept.save()
    assert not path.exists()  # nothing was compiled yet
    first.content = b"kernels"
    kept.save()
    second = Kernels()
    RuntimeCache(path, second)
    assert second.content == b"kernels"
    assert [entry.name for entry in path.parent.iterdir()] == ["kernels.bin"]


def test_a_cache_of_another_driver_is_replaced_and_an_unwritable_one_is_no_error(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "kernels.bin"
    path.write_bytes(b"old")
    made = Kernels(accepts=False)
    kept = RuntimeCache(path, made)
    made.content = b"new"
    kept.save()
    assert path.read_bytes() == b"new"
    (tmp_path / "file").write_text("")
    lost = RuntimeCache(tmp_path / "file" / "kernels.bin", made)
    lost.save()


def test_caches_are_by_engine_and_gpu(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert len({cache_path("a" * 64, 89), cache_path("b" * 64, 89), cache_path("a" * 64, 86)}) == 3
    assert cache_path("a" * 64, 89).is_relative_to(tmp_path)


class Config:
    def __init__(self) -> None:
        self.cache: Any = None

    def create_runtime_cache(self) -> Kernels:
        return Kernels()

    def set_runtime_cache(self, cache: Kernels) -> None:
        self.cache = cache


class Engine:
    """As much of an engine as a cache is asked of."""

    def create_execution_context(self, config: Config | None = None) -> Any:
        return "plain" if config is None else config


class CachingEngine(Engine):
    def create_runtime_config(self) -> Config:
        return Config()


def test_contexts_get_the_cache_where_the_product_has_one(tmp_path: pathlib.Path) -> None:
    assert with_runtime_cache(Engine(), tmp_path / "a") == ("plain", None)
    assert with_runtime_cache(CachingEngine(), None) == ("plain", None)
    context, cache = with_runtime_cache(CachingEngine(), tmp_path / "a")
    assert isinstance(context.cache, Kernels)
    assert cache is not None
