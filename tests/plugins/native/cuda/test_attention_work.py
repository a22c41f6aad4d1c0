"""How much the tensor-core kernels compute: the share that is useful, and instructions and bytes per tile."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.attention_cases import declared
from helpers.attention_work import A100, clocks, dense_work, useful_share
from helpers.device_attention import How, emulated, run_attention
from helpers.emulator import Kernels
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.kernel_packs.variants import VARIANTS, Variant, attention_variant
from raggedrt.plugins.ops.ragged_attention.cases import Problem

DENSE = [variant for variant in VARIANTS if variant.family == "attention" and variant.mask_class == 0]
ROWS_16 = attention_variant(ElementType.FLOAT16, 32, 0, 0, warps=4, row_blocks=1, key_tile=64, stages=2, min_blocks=1)
ROWS_32 = attention_variant(ElementType.FLOAT16, 64, 0, 0, warps=2, row_blocks=2, key_tile=64, stages=2, min_blocks=1)
LENGTHS = (70, 1, 16, 130, 0, 64, 128)
UNIFORM = range(1, 513)
"""Every length of U[1, 512] once: shares of sums are those of the distribution."""


@pytest.mark.none
@pytest.mark.parametrize("variant", DENSE, ids=lambda variant: variant.entry)
def test_most_tensor_core_work_is_useful(variant: Variant) -> None:
    assert useful_share(UNIFORM, variant) >= 0.84
    assert useful_share(range(1, 1025), variant) >= 0.91


@pytest.mark.none
def test_shares_of_known_lengths() -> None:
    assert useful_share([64], ROWS_16) == 1.0
    assert useful_share([1], ROWS_16) == 1 / 256
    assert useful_share([17], ROWS_16) == 17 * 17 / (32 * 32)
    assert useful_share([65], ROWS_32) == 65 * 65 / (96 * 80)


@pytest.mark.none
@pytest.mark.parametrize(("head_size", "key_tile", "largest"), [(64, 64, 0.9), (96, 32, 1.01), (128, 32, 1.01)])
def test_warps_of_32_rows_do_not_wait_for_shared_memory(head_size: int, key_tile: int, largest: float) -> None:
    """Clocks of an A100 for long rows; warps of 16 rows read each key and value twice as often."""
    work = {
        rows: dense_work([4096], attention_variant(
            ElementType.FLOAT16, head_size, 0, 0, warps=warps, row_blocks=blocks, key_tile=tile, stages=2, min_blocks=1
        ))
        for rows, warps, blocks, tile in ((32, 2, 2, key_tile), (16, 4, 1, 64))
    }  # fmt: skip
    bound = {rows: clocks(each, head_size, A100) for rows, each in work.items()}
    assert bound[32]["shared"] <= largest * bound[32]["mma"]
    assert bound[32]["exp2"] <= 0.6 * bound[32]["mma"]
    assert bound[16]["shared"] >= 1.2 * bound[16]["mma"]


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return emulated([ROWS_16, ROWS_32])


@pytest.mark.emulated
@pytest.mark.parametrize("variant", [ROWS_16, ROWS_32], ids=["16_rows", "32_rows"])
def test_kernels_do_what_the_closed_forms_say(variant: Variant, kernels: Kernels) -> None:
    problem = Problem(lengths=LENGTHS, heads=2, kv_heads=1, head_size=variant.head_size)
    inputs = problem(np.random.default_rng(0), np.dtype(np.float16))
    counted = run_attention(kernels, variant, inputs, {"num_heads": 2, "kv_num_heads": 1}, How()).counters
    work = dense_work(LENGTHS, variant)
    assert counted["mma"] == 2 * work.mma
    assert counted["load_matrix"] == 2 * work.load_matrix
    assert counted["copy_async_bytes"] == 2 * work.copied_bytes
    assert counted["exp2"] == 2 * work.exp2
    assert counted["load_matrix_conflicts"] == 0


@pytest.mark.emulated
@pytest.mark.parametrize("head_size", [32, 64, 80, 96, 128])
def test_shared_memory_without_bank_conflicts(head_size: int) -> None:
    variant = attention_variant(
        ElementType.FLOAT16, head_size, 0, 0, warps=4, row_blocks=1, key_tile=64, stages=2, min_blocks=1
    )
    problem = Problem(lengths=(130, 64), heads=1, kv_heads=1, head_size=head_size)
    inputs = problem(np.random.default_rng(0), np.dtype(np.float16))
    run = run_attention(emulated([variant]), variant, inputs, {"num_heads": 1}, How(profile=True))
    assert run.counters["load_matrix_conflicts"] == 0
    assert run.counters["shared_conflicts"] <= 0.05 * run.counters["shared_requests"]


@pytest.mark.emulated
def test_causal_tiles_on_the_diagonal_are_computed_in_part(kernels: Kernels) -> None:
    """Above the diagonal a warp skips keys by 16: of a 64 x 64 tile 10 of 16 squares are left."""
    variant = attention_variant(
        ElementType.FLOAT16, 32, 1, 0, warps=4, row_blocks=1, key_tile=64, stages=2, min_blocks=1
    )
    inputs = Problem(lengths=(128,), heads=1, kv_heads=1, head_size=32)(np.random.default_rng(0), np.dtype(np.float16))
    run = run_attention(emulated([variant]), variant, inputs, {"num_heads": 1, "causal": 1}, How())
    squares = 10 + 16 + 10
    assert run.counters["mma"] == squares * 2 * 4
    assert run.counters["copy_async_bytes"] == 64 * (128 + 2 * (64 + 128))


@pytest.mark.none
def test_the_declared_cases_are_widened() -> None:
    assert all(case.generate.head_size == 64 for case in declared(64) if isinstance(case.generate, Problem))
