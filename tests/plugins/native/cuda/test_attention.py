"""Attention on tensor cores against the reference: every mask and score term, around the edges of its tiles."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from helpers.attention_cases import around_tiles, declared
from helpers.cuda_launcher import device_memory
from helpers.cuda_ops import run_op
from helpers.cuda_setup import device_driver, device_launcher
from helpers.device_attention import How, emulated, mask_class, numpy_type, run_attention, score_class
from helpers.emulator import Kernels
from helpers.tolerances import ATTENTION, Tolerance, assert_close
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.kernel_packs.variants import Variant, attention_variant
from raggedrt.plugins.ops.arrays import NUMPY_TYPES, Array
from raggedrt.plugins.ops.case import Case
from raggedrt.plugins.ops.ragged_attention.cases import Problem
from raggedrt.plugins.ops.ragged_attention.reference import reference

HALF, BFLOAT16 = ElementType.FLOAT16, ElementType.BFLOAT16
# Every way to divide a tile: warps of 16 or 32 rows, one warp, half key tiles, three stages.
TILES = {
    "16_rows": {"warps": 4, "row_blocks": 1, "key_tile": 64, "stages": 2},
    "16_rows_of_32_keys": {"warps": 4, "row_blocks": 1, "key_tile": 32, "stages": 2},
    "32_rows": {"warps": 2, "row_blocks": 2, "key_tile": 64, "stages": 2},
    "32_rows_of_32_keys": {"warps": 2, "row_blocks": 2, "key_tile": 32, "stages": 2},
    "128_rows": {"warps": 4, "row_blocks": 2, "key_tile": 64, "stages": 2},
    "128_rows_of_32_keys": {"warps": 4, "row_blocks": 2, "key_tile": 32, "stages": 2},
    "one_warp": {"warps": 1, "row_blocks": 1, "key_tile": 64, "stages": 3},
}
# What is run beyond head size 32: every size with warps of 16 and of 32 rows, every class of masks and scores in some.
DENSE, MASKED = ("lengths_dense", "cross_dense"), ("lengths_causal", "holes_window", "kept_global")
SIZES = [
    (64, HALF, "16_rows", (*DENSE, *MASKED)), (64, BFLOAT16, "32_rows", (*DENSE, "blocks_24_left")),
    (80, BFLOAT16, "16_rows", (*DENSE, "bias_left")), (80, HALF, "32_rows", DENSE),
    (96, HALF, "16_rows", ("blocks_64", "blocks_8_holes")), (96, BFLOAT16, "32_rows_of_32_keys", DENSE),
    (128, BFLOAT16, "16_rows", MASKED), (128, HALF, "32_rows_of_32_keys", DENSE),
    (128, HALF, "16_rows_of_32_keys", ("blocks_16_left", "sink_bias_blocks")),
    (32, HALF, "128_rows", (*DENSE, *MASKED)), (128, BFLOAT16, "128_rows_of_32_keys", DENSE),
    (32, BFLOAT16, "16_rows", (*DENSE, *MASKED)), (64, HALF, "one_warp", ("blocks_8", "blocks_16_holes")),
]  # fmt: skip


def variant(element: ElementType, head_size: int, classes: tuple[int, int], tile: str) -> Variant:
    return attention_variant(element, head_size, *classes, min_blocks=1, **TILES[tile])


@functools.cache
def kernels(chosen: Variant) -> Kernels:
    return emulated([chosen])


def scaled(tolerance: Tolerance, inputs: dict[str, Array]) -> Tolerance:
    """Large scores lose absolute accuracy before the softmax: the error of a float32 score grows with its size."""
    magnitude = float(np.abs(inputs["query"].astype(np.float64)).std())
    return tolerance if magnitude < 2 else Tolerance(tolerance.atol * magnitude**2, tolerance.rtol)


def check(case: Case, element: ElementType, tile: str, how: How, inputs: dict[str, Array] | None = None) -> None:
    dtype = NUMPY_TYPES[element]
    inputs = case.inputs(dtype, how.seed) if inputs is None else inputs
    if not len(inputs["query"]):
        return  # nothing is launched
    head_size = inputs["query"].shape[1] // int(case.attributes["num_heads"])
    classes = (mask_class(inputs, case.attributes), score_class(inputs, case.attributes))
    chosen = variant(element, head_size, classes, tile)
    assert numpy_type(chosen) == dtype
    found = run_attention(kernels(chosen), chosen, inputs, case.attributes, how)
    compare(case, inputs, found.output, found.lse)


def compare(case: Case, inputs: dict[str, Array], output: Array, lse: Array | None) -> None:
    expected = reference(inputs, case.attributes, compute=np.float64)
    assert_close(output, expected["output"], scaled(ATTENTION[output.dtype], inputs), f"{case.name} output")
    if lse is not None:
        assert_close(lse, expected["lse"], scaled(ATTENTION[output.dtype], inputs), f"{case.name} lse")


def names(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


@pytest.mark.emulated
@pytest.mark.parametrize("case", declared(32), ids=names(declared(32)))
def test_declared_cases(case: Case) -> None:
    check(case, HALF, "16_rows", How(seed=1))
    check(case, HALF, "16_rows", How(seed=2, counter=True))


@pytest.mark.emulated
@pytest.mark.parametrize("case", around_tiles(32), ids=names(around_tiles(32)))
def test_around_tile_edges(case: Case) -> None:
    check(case, HALF, "16_rows", How(seed=3, counter=True))


@pytest.mark.emulated
@pytest.mark.parametrize(
    ("head_size", "element", "tile", "named"), SIZES, ids=[f"{s[0]}-{s[1].name}-{s[2]}" for s in SIZES]
)
def test_every_head_size_and_way_to_tile(
    head_size: int, element: ElementType, tile: str, named: tuple[str, ...]
) -> None:
    for case in around_tiles(head_size):
        if case.name in named:
            check(case, element, tile, How(seed=4, blocks=2))


@pytest.mark.emulated
@pytest.mark.parametrize("tile", ["16_rows", "32_rows_of_32_keys"])
@pytest.mark.parametrize("name", ["cross_dense", "kept_causal", "left_global", "blocks_8_holes", "blocks_64_few"])
def test_split_keys(name: str, tile: str) -> None:
    case = next(case for case in around_tiles(32) if case.name == name)
    for splits in (2, 5):
        check(case, HALF, tile, How(seed=splits, splits=splits, counter=True))


@pytest.mark.emulated
@pytest.mark.parametrize("name", ["lengths_dense", "lengths_causal", "holes_window", "blocks_24", "blocks_16_holes"])
def test_neighbours_do_not_leak(name: str) -> None:
    """Infinities and NaN in one sequence, and in rows that fill a capacity, change nothing in the others."""
    case = next(case for case in around_tiles(32) if case.name == name)
    clean = case.inputs(np.dtype(np.float16))
    for victim in range(len(clean["cu_seqlens_q"]) - 1):
        check_alone(case, clean, victim)


def check_alone(case: Case, clean: dict[str, Array], victim: int) -> None:
    """Everything but one sequence is spoilt: its rows are as they were."""
    inputs = {name: value.copy() for name, value in clean.items()}
    rows_q, rows_k = (slice(*clean[f"cu_seqlens_{side}"][victim : victim + 2]) for side in "qk")
    for name, rows in (("query", rows_q), ("key", rows_k), ("value", rows_k)):
        spoilt = np.where(np.arange(inputs[name].size).reshape(inputs[name].shape) % 3, np.nan, np.inf)
        spoilt[rows] = clean[name][rows]
        inputs[name] = spoilt.astype(np.float16)
    classes = (mask_class(inputs, case.attributes), score_class(inputs, case.attributes))
    chosen = variant(HALF, 32, classes, "16_rows")
    found = run_attention(kernels(chosen), chosen, inputs, case.attributes, How(seed=victim))
    expected = reference(clean, case.attributes, compute=np.float64)
    assert_close(found.output[rows_q], expected["output"][rows_q], ATTENTION[np.dtype(np.float16)])
    assert found.lse is not None
    assert_close(found.lse[:, rows_q], expected["lse"][:, rows_q], ATTENTION[np.dtype(np.float16)])


@pytest.mark.emulated
@pytest.mark.parametrize("name", ["lengths_dense", "lengths_causal", "right_window"])
@pytest.mark.parametrize("last", [10**6, -7], ids=["past_the_end", "negative"])
def test_offsets_that_do_not_fit_read_nothing_outside(name: str, last: int) -> None:
    """The host cannot see them; sequences whose offsets fit are as they would be."""
    case = next(case for case in around_tiles(32) if case.name == name)
    clean = case.inputs(np.dtype(np.float16))
    chosen = variant(HALF, 32, (mask_class(clean, case.attributes), 0), "16_rows")
    broken = {**clean, **{f"cu_seqlens_{side}": clean[f"cu_seqlens_{side}"].copy() for side in "qk"}}
    for side in "qk":
        broken[f"cu_seqlens_{side}"][-1] = last
    found = run_attention(kernels(chosen), chosen, broken, case.attributes, How(), items_of=clean)
    expected = reference(clean, case.attributes, compute=np.float64)["output"]
    whole = clean["cu_seqlens_q"][-2]
    assert_close(found.output[:whole], expected[:whole], ATTENTION[np.dtype(np.float16)])


@pytest.mark.emulated
def test_one_block_or_many_compute_the_same_bits() -> None:
    case = next(case for case in around_tiles(32) if case.name == "lengths_causal")
    inputs = case.inputs(np.dtype(np.float16))
    chosen = variant(HALF, 32, (1, 0), "16_rows")
    runs = [
        run_attention(kernels(chosen), chosen, inputs, case.attributes, How(seed, blocks, counter=counter))
        for seed, blocks, counter in ((1, 1, False), (2, 7, True), (3, 40, True))
    ]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.output, runs[0].output)
        np.testing.assert_array_equal(run.lse, runs[0].lse)


@pytest.mark.emulated
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tile", TILES)
def test_everything_in_every_way(tile: str, seed: int) -> None:
    for case in around_tiles(32):
        if tile.startswith("128") and "block_size" in case.attributes:
            continue  # such a tile joins items, which a tile list keeps apart
        check(case, BFLOAT16 if seed == 1 else HALF, tile, How(seed + 10, splits=1 + 2 * (seed == 2)))


@pytest.mark.cuda
@pytest.mark.parametrize("element", [HALF, BFLOAT16], ids=lambda element: element.name)
@pytest.mark.parametrize("head_size", [32, 64, 80, 96, 128])
def test_on_a_device(head_size: int, element: ElementType) -> None:
    for case in [*declared(head_size), *around_tiles(head_size)]:
        inputs = case.inputs(NUMPY_TYPES[element])
        with device_memory(device_driver()) as memory:
            found = run_op(device_launcher(), memory, "RaggedAttention", inputs, case.attributes)
        compare(case, inputs, found["output"], found["lse"])


@pytest.mark.cuda
def test_long_rows_on_a_device() -> None:
    case = Case("long", declared(64)[0].group, Problem(lengths=(4100, 3, 900), heads=2, kv_heads=1, head_size=64))
    for attributes in ({}, {"causal": 1}, {"window_left": 256, "window_right": 256}):
        wanted = Case(case.name, case.group, case.generate, {"num_heads": 2, "kv_num_heads": 1, **attributes})
        inputs = wanted.inputs(np.dtype(np.float16))
        with device_memory(device_driver()) as memory:
            found = run_op(device_launcher(), memory, "RaggedAttention", inputs, wanted.attributes)
        compare(wanted, inputs, found["output"], found.get("lse"))
