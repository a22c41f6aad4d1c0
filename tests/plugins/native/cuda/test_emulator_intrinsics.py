"""Every intrinsic against its documented meaning: in the emulator under many schedules, and on a GPU."""

from __future__ import annotations

import ctypes
import pathlib
from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np
import pytest

from helpers.device_kernels import DeviceKernels, cubin
from helpers.emulator import Grid, Kernels, Memory, Variant, aligned, registered
from raggedrt.plugins.kernel_packs.variants import CAPABILITIES

SOURCE = pathlib.Path(__file__).parent / "intrinsics.cu"
PROGRAMS = (
    "places",
    "shuffles",
    "votes",
    "matrices",
    "products",
    "copies",
    "atomics",
    "arithmetic",
    "conversions",
    "sizes",
    "last_block",
    "strides",
)
ELEMENTS = {"half": np.float16, "bfloat16": ml_dtypes.bfloat16}
SEEDS = range(12)


class Params(ctypes.Structure):
    _fields_ = (
        ("words", ctypes.c_void_p),
        ("results", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("program", ctypes.c_int),
        ("operand", ctypes.c_int),
    )


VARIANTS = [Variant(str(SOURCE), f"intrinsics_{name}", {"RAGGEDRT_ELEMENT": name}) for name in ELEMENTS]
Addresses = Mapping[str, int]
Launch = Callable[[str, Callable[[Addresses], Params], dict[str, tuple[np.ndarray, Memory]], Grid, int], None]


def in_emulator() -> Launch:
    kernels = Kernels(VARIANTS)

    def launch(
        entry: str,
        params: Callable[[Addresses], Params],
        arrays: dict[str, tuple[np.ndarray, Memory]],
        grid: Grid,
        seed: int,
    ) -> None:
        with registered(arrays):
            kernels.run(
                entry, params({name: array.ctypes.data for name, (array, _) in arrays.items()}), grid, seed=seed
            )

    return launch


def on_gpu() -> Launch:
    kernels = DeviceKernels(VARIANTS)
    return lambda entry, params, arrays, grid, seed: kernels.run(entry, params, arrays, grid)


@pytest.fixture(
    scope="module",
    params=[pytest.param(in_emulator, marks=pytest.mark.emulated), pytest.param(on_gpu, marks=pytest.mark.cuda)],
)
def launch(request: pytest.FixtureRequest) -> Launch:
    made: Launch = request.param()
    return made


def run(
    launch: Launch,
    program: str,
    words: np.ndarray,
    results: int,
    grid: Grid,
    *,
    seed: int,
    operand: int = 0,
    element: str = "half",
    counts: np.ndarray | None = None,
) -> np.ndarray:
    """What the program writes to `results` 32-bit words; poison where it writes nothing."""
    given = aligned(words.size, np.uint32)
    given[:] = words.reshape(-1).view(np.uint32)
    out = aligned(results, np.uint32)
    counted = aligned(64, np.uint32) if counts is None else counts
    arrays = {
        "words": (given, Memory.INPUT),
        "results": (out, Memory.UNINITIALIZED),
        "counts": (counted, Memory.IN_OUT),
    }
    number = PROGRAMS.index(program)
    launch(
        f"intrinsics_{element}", lambda at: Params(**at, program=number, operand=operand), arrays, grid, seed
    )  # fmt: skip
    return out


def random_words(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 32, count, dtype=np.uint32)


@pytest.mark.parametrize("seed", SEEDS)
def test_places(launch: Launch, seed: int) -> None:
    grid = Grid(3, 2, 96, 640)
    out = run(launch, "places", random_words(1), 8 * 6 * 96, grid, seed=seed).reshape(2, 3, 96, 8)
    y, x, thread = np.meshgrid(np.arange(2), np.arange(3), np.arange(96), indexing="ij")
    same = np.ones_like(x)
    expected = [thread, thread % 32, thread // 32, x, y, 3 * same, 2 * same, 640 * same]
    np.testing.assert_array_equal(out, np.stack(expected, -1))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("operand", [0, 1, 2, 5, 16, 31])
def test_shuffles(launch: Launch, seed: int, operand: int) -> None:
    words = random_words(32)
    out = run(launch, "shuffles", words, 6 * 32, Grid(), seed=seed, operand=operand).reshape(6, 32)
    lane = np.arange(32)
    up = np.where(lane >= operand, lane - operand, lane)
    down = np.where(lane + operand < 32, lane + operand, lane)
    sources = [(lane + operand) % 32, lane ^ operand, up, down, lane ^ operand, lane ^ operand]
    np.testing.assert_array_equal(out, words[np.stack(sources)])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["none", "all", "mixed"])
def test_votes(launch: Launch, seed: int, kind: str) -> None:
    bits = {"none": np.zeros(128), "all": np.ones(128), "mixed": np.arange(128) % 3 == 0}[kind].astype(np.uint32)
    out = run(launch, "votes", bits, 3 * 128, Grid(threads=128), seed=seed).reshape(128, 3)
    masks = (bits.reshape(4, 32).astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(-1).repeat(32)
    np.testing.assert_array_equal(out[:, 0], masks)
    assert (out[:, 1] == bits.all()).all()
    assert (out[:, 2] == bits.any()).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("transposed", [False, True])
def test_load_matrix(launch: Launch, seed: int, transposed: bool) -> None:
    words = random_words(128)
    matrices = words.view(np.uint16).reshape(4, 8, 8)
    seen = matrices.transpose(0, 2, 1) if transposed else matrices
    expected = np.ascontiguousarray(seen).view(np.uint32).reshape(4, 32)  # lane l: row l/4, columns 2(l%4), +1
    grid = Grid(shared_bytes=512)
    out = run(launch, "matrices", words, 256, grid, seed=seed, operand=int(transposed)).reshape(32, 8)
    np.testing.assert_array_equal(out[:, :4], expected.T)
    np.testing.assert_array_equal(out[:, 4:6], expected[:2].T)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("element", ELEMENTS)
def test_mma(launch: Launch, seed: int, element: str) -> None:
    random = np.random.default_rng(seed)
    a, b = (random.standard_normal(shape).astype(ELEMENTS[element]) for shape in ((16, 16), (16, 8)))
    c = random.standard_normal((16, 8)).astype(np.float32)
    words = np.zeros((32, 10), np.uint32)
    place = np.zeros((32, 4, 2), np.int64)  # of c in its matrix
    for lane in range(32):
        g, t = divmod(lane, 4)
        for r in range(4):
            row, column = g + 8 * (r & 1), 2 * t + 8 * (r >> 1)
            words[lane, r : r + 1] = a[row, column : column + 2].view(np.uint32)
        for r in range(2):
            words[lane, 4 + r : 5 + r] = b[2 * t + 8 * r : 2 * t + 8 * r + 2, g].copy().view(np.uint32)
        for i in range(4):
            place[lane, i] = g + 8 * (i >> 1), 2 * t + (i & 1)
            words[lane, 6 + i] = c[tuple(place[lane, i])].view(np.uint32)
    out = run(launch, "products", words, 128, Grid(), seed=seed, element=element).view(np.float32).reshape(32, 4)
    expected = a.astype(np.float64) @ b.astype(np.float64) + c
    np.testing.assert_allclose(out, expected[place[..., 0], place[..., 1]], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_copy_async(launch: Launch, seed: int) -> None:
    words = random_words(512)
    out = run(launch, "copies", words, 7 * 128, Grid(threads=128, shared_bytes=7 * 512), seed=seed)
    valid = np.arange(128)[:, None] % 2 == 0
    parts = [np.where(valid, words[: n * 128].reshape(128, n), 0).reshape(-1) for n in (4, 2, 1)]
    np.testing.assert_array_equal(out, np.concatenate(parts))


@pytest.mark.parametrize("seed", SEEDS)
def test_atomics(launch: Launch, seed: int) -> None:
    words = random_words(256)
    counts = aligned(64, np.uint32)
    counts[2] = 0xFFFFFFFF
    grid = Grid(x=4, threads=64, shared_bytes=16)
    out = run(launch, "atomics", words, 256, grid, seed=seed, counts=counts)
    np.testing.assert_array_equal(np.sort(out), np.sort(words))
    assert counts[0] == words.sum(dtype=np.uint32)
    assert (counts[1], counts[2]) == (words.max(), words.min())
    assert counts[3:4].view(np.float32)[0] == 128.0
    assert counts[4:6].view(np.uint64)[0] == words.astype(np.uint64).sum() << np.uint64(20)
    assert (counts[7], counts[63]) == (0, 5)
    for block, part in enumerate(words.reshape(4, 64)):
        expected = [part.sum(dtype=np.uint32), part.max(), part.min(), 7]
        np.testing.assert_array_equal(counts[8 + 4 * block : 12 + 4 * block], expected)


def test_arithmetic(launch: Launch) -> None:
    x = np.random.default_rng(0).standard_normal(256).astype(np.float32) * 3
    x[:8] = [0.0, 1.0, -1.0, 0.3, -0.29, 1e-4, 50.0, -50.0]
    out = run(launch, "arithmetic", x, 12 * 256, Grid(threads=256), seed=1).reshape(256, 12)
    floats = out.view(np.float32)
    exact = x.astype(np.float64)
    with np.errstate(divide="ignore"):
        inverse = 1 / exact
    for column, expected in ((0, np.exp2(exact)), (1, np.log2(np.maximum(exact, np.float32(1e-6)))), (3, inverse)):
        np.testing.assert_allclose(floats[:, column], expected, rtol=2.0**-21, atol=2.0**-21)
    np.testing.assert_allclose(floats[:, 2], np.tanh(exact), rtol=0, atol=3e-7)
    np.testing.assert_allclose(floats[:, 4], exact * exact - 1, rtol=1e-6, atol=1e-7)
    bits = x.view(np.uint32)
    np.testing.assert_array_equal(out[:, 5], [int(value).bit_count() for value in bits])
    lowest = [(int(value) & -int(value)).bit_length() - 1 for value in bits]
    np.testing.assert_array_equal(out[:, 6].view(np.int32), lowest)
    np.testing.assert_array_equal(out[:, 7], [32 - int(value).bit_length() for value in bits])
    np.testing.assert_array_equal(floats[:, 8], np.minimum(x, np.float32(0.5)))
    np.testing.assert_array_equal(out[:, 9].view(np.int32), np.maximum(x.view(np.int32), -5))
    assert not floats[:, 10].any()
    np.testing.assert_array_equal(out[:, 11], np.minimum(bits, 9))


@pytest.mark.parametrize("element", ELEMENTS)
def test_conversions(launch: Launch, element: str) -> None:
    kind = ELEMENTS[element]
    words = random_words(1024)
    words[:512] = (
        (np.random.default_rng(1).standard_normal(512) * 10.0 ** np.arange(-8, 8).repeat(32))
        .astype(np.float32)
        .view(np.uint32)
    )
    words[:6] = np.array([0.0, -0.0, 65519.9, 65520.0, 2.0**-24, 2.0**-25], np.float32).view(np.uint32)
    words[6:8] = np.array([np.inf, -np.inf], np.float32).view(np.uint32)
    out = run(launch, "conversions", words, 6 * 1024, Grid(threads=1024), seed=2, element=element).reshape(1024, 6)
    floats = words.view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        converted = floats.astype(kind)
    real = ~np.isnan(floats)
    np.testing.assert_array_equal(out[real, 0], converted.view(np.uint16)[real])
    np.testing.assert_array_equal(out[:, 1].view(np.float32), converted.astype(np.float32))
    pairs = words.view(np.uint16).view(kind).astype(np.float32).reshape(1024, 2)
    np.testing.assert_array_equal(out[:, 2:4].view(np.float32), pairs)
    both = np.stack([converted.view(np.uint16), (-converted).view(np.uint16)], -1).view(np.uint32)[:, 0]
    np.testing.assert_array_equal(out[real, 4], both[real])
    np.testing.assert_array_equal(out[:, 5], words)


@pytest.mark.parametrize("seed", SEEDS)
def test_access_sizes(launch: Launch, seed: int) -> None:
    words = random_words(4 * 64)
    out = run(launch, "sizes", words, 8 * 64, Grid(threads=64, shared_bytes=1024), seed=seed)
    np.testing.assert_array_equal(out, np.concatenate([words, words]))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_last_block_sees_all(launch: Launch, seed: int) -> None:
    words = random_words(5 * 64)
    counts = aligned(64, np.uint32)
    run(launch, "last_block", words, words.size, Grid(x=5, threads=64, shared_bytes=4), seed=seed, counts=counts)
    assert counts[1] == words.sum(dtype=np.uint32)


@pytest.mark.none
@pytest.mark.parametrize("arch", CAPABILITIES)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.entry)
def test_nvrtc_takes_every_intrinsic(variant: Variant, arch: int) -> None:
    pytest.importorskip("cuda.core", reason="cuda-core is not installed (pip install 'raggedrt[cuda-build]')")
    assert cubin(variant, arch).startswith(b"\x7fELF")
