"""What the emulator counts, which roofline claims rest on: instructions, bytes, bank conflicts, memory sectors."""

from __future__ import annotations

import ctypes
import pathlib

import numpy as np
import pytest

from helpers.emulator import Grid, Kernels, Memory, Variant, aligned, registered

pytestmark = pytest.mark.emulated

SOURCE = pathlib.Path(__file__).parent / "intrinsics.cu"
PRODUCTS, COPIES, STRIDES = 4, 5, 11


class Params(ctypes.Structure):
    _fields_ = (
        ("words", ctypes.c_void_p),
        ("results", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("program", ctypes.c_int),
        ("operand", ctypes.c_int),
    )


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return Kernels([Variant(str(SOURCE), "intrinsics_half", {"RAGGEDRT_ELEMENT": "half"})])


def count(kernels: Kernels, program: int, grid: Grid, *, operand: int = 0, seed: int = 0) -> dict[str, int]:
    words, results, counts = (aligned(4096, np.uint32) for _ in range(3))
    arrays = {"words": (words, Memory.INPUT), "results": (results, Memory.IN_OUT), "counts": (counts, Memory.IN_OUT)}
    params = Params(words.ctypes.data, results.ctypes.data, counts.ctypes.data, program, operand)
    with registered(arrays):
        return kernels.run("intrinsics_half", params, grid, seed=seed, profile=True)


@pytest.mark.parametrize("seed", range(4))
def test_products(kernels: Kernels, seed: int) -> None:
    counted = count(kernels, PRODUCTS, Grid(), seed=seed)
    assert (counted["mma"], counted["blocks"]) == (1, 1)
    assert counted["global_load_bytes"] == 32 * 10 * 4
    assert counted["global_store_bytes"] == 32 * 4 * 4


@pytest.mark.parametrize("seed", range(4))
def test_copies(kernels: Kernels, seed: int) -> None:
    """Copies that only write zeros read nothing."""
    counted = count(kernels, COPIES, Grid(threads=64, shared_bytes=28 * 64), seed=seed)
    assert counted["copy_async"] == 3 * 64
    assert counted["copy_async_bytes"] == 28 * 32
    assert (counted["copy_async_commits"], counted["copy_async_waits"], counted["sync_block"]) == (128, 128, 2)


# Stride in words -> passes over the banks of a load of 4 bytes per lane, beyond one, and of the four matrices of
# load_matrix, beyond four; 32-byte sectors of a global load.
STRIDES_EXPECTED = {1: (0, 0, 4), 2: (1, 4, 8), 3: (0, 0, 12), 4: (3, 12, 16), 8: (7, 28, 32), 5: (0, 0, 20)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stride", STRIDES_EXPECTED)
def test_strides(kernels: Kernels, stride: int, seed: int) -> None:
    shared_bytes = 16 * 32 * stride
    counted = count(kernels, STRIDES, Grid(shared_bytes=shared_bytes), operand=stride, seed=seed)
    passes, matrix_passes, sectors = STRIDES_EXPECTED[stride]
    assert counted["shared_conflicts"] == passes
    assert counted["shared_requests"] == shared_bytes // 4 // 32 + 1
    assert (counted["load_matrix"], counted["load_matrix_conflicts"]) == (4, matrix_passes)
    assert (counted["global_requests"], counted["global_sectors"]) == (2, sectors + 4)
