"""Every barrier of the kernels around attention is needed: without it the emulator, or the result, tells."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from helpers.data_kernels import SKIPPED
from helpers.data_runs import Lengths, attend_rows, plan, tile_list, write_list
from helpers.emulator import EmulationError
from raggedrt.plugins.contract.mask_rules import causal, columns, encode, window
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.native.build import SOURCE_FOLDER
from raggedrt.plugins.ops.case import padding_mask
from raggedrt.plugins.ops.ragged_attention.cases import Problem

pytestmark = pytest.mark.emulated

KERNELS = SOURCE_FOLDER / "cuda" / "kernels"
BARRIER = re.compile(r"\b(sync_block|sync_warp|named_barrier|fence_device)\(")
SEEDS = range(1, 6)


def packing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan({"attention_mask": padding_mask(rng, "holes", 9, 300)}, {}, blocks=2, seed=seed)
    plan({"attention_mask": padding_mask(rng, "holes", 1100, 1)}, {}, blocks=1, seed=seed)


def work(seed: int) -> None:
    write_list(Lengths((300, 64, 1, 0, 128), causal=True), blocks=2, lanes=2, seed=seed)


def tiles(seed: int) -> None:
    rules = encode([[window(3, 11, dilation=3), columns(-4, -1)], [causal()]])
    inputs = {"max_seqlen": np.zeros(300), "cu_seqlens": np.cumsum([0, 300, 299, 1, 30, 0, 158, 283]).astype(np.int32)}
    tile_list(inputs, {"block_size": 8, "rules": rules}, seed=seed, table_size=16)


def rows(seed: int) -> None:
    problem = Problem(
        lengths=(70, 3, 0, 1, 1, 5), lengths_k=(70, 3, 2, 0, 0, 5), heads=3, kv_heads=1, head_size=128
    )  # fmt: skip
    inputs = problem(np.random.default_rng(seed), np.dtype(np.float16))
    attend_rows(inputs, {"num_heads": 3, "kv_num_heads": 1}, ElementType.FLOAT16, seed=seed)


RUNS: dict[str, tuple[Callable[[int], None], ...]] = {
    "scan.cuh": (packing, tiles),
    "packing_plan.cuh": (packing,),
    "work_list.cuh": (work,),
    "tile_list.cuh": (tiles,),
    "row_attention.cuh": (rows,),
}


def _lines(name: str) -> Iterator[int]:
    for number, line in enumerate((KERNELS / name).read_text().splitlines(), 1):
        if BARRIER.search(line.split("//")[0]):
            yield number


BARRIERS = [(name, number) for name in RUNS for number in _lines(name)]


def _run_all(runs: tuple[Callable[[int], None], ...]) -> None:
    for seed in SEEDS:
        for run in runs:
            run(seed)


def test_no_other_file_has_a_barrier() -> None:
    ours = ("scan", "packing", "token_copy", "merge", "work_list", "tile_", "row_")
    names = [path.name for path in KERNELS.glob("*.cu*") if path.name.startswith(ours)]
    assert {name for name in names if list(_lines(name))} == set(RUNS)


@pytest.mark.parametrize(("file", "line"), BARRIERS)
def test_a_missing_barrier_is_found(file: str, line: int) -> None:
    token = SKIPPED.set((f"kernels/{file}", line))
    try:
        with pytest.raises(EmulationError):
            _run_all(RUNS[file])
    finally:
        SKIPPED.reset(token)


@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_found_where_no_barrier_is_missing(name: str) -> None:
    for run in RUNS[name]:
        run(SEEDS[0])
