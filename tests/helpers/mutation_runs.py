"""Small uses of each kernel source, for mutation tests: together they reach every barrier, commit and wait."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from helpers.data_runs import Lengths, attend_rows, plan, tile_list, write_list
from helpers.device_attention import How, emulated, run_attention
from helpers.emulator import Kernels
from helpers.mutations import Run
from raggedrt.plugins.contract.mask_rules import causal, columns, encode, window
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.kernel_packs.variants import Variant, attention_variant
from raggedrt.plugins.ops.arrays import Attributes
from raggedrt.plugins.ops.case import padding_mask
from raggedrt.plugins.ops.ragged_attention.cases import Problem

HEAD_SIZE = 32


def _variant(mask: int, scores: int, warps: int, stages: int) -> Variant:
    return attention_variant(
        ElementType.FLOAT16, HEAD_SIZE, mask, scores, warps=warps, row_blocks=1, key_tile=32, stages=stages,
        min_blocks=1,
    )  # fmt: skip


DENSE = (_variant(0, 0, 4, 2), _variant(0, 0, 2, 3))
MASKED = (_variant(1, 0, 2, 2), _variant(1, 1, 2, 3))
LISTED = (_variant(2, 0, 2, 3),)


@functools.cache
def _kernels() -> Kernels:
    return emulated((*DENSE, *MASKED, *LISTED))


def _attend(variants: Sequence[Variant], problem: Problem, attributes: Attributes, seed: int) -> None:
    inputs = problem(np.random.default_rng(seed), np.dtype(np.float16))
    named = {"num_heads": problem.heads, "kv_num_heads": problem.kv_heads, **attributes}
    for variant in variants:
        for how in (How(seed, blocks=2), How(seed, blocks=1, counter=True)):
            run = run_attention(_kernels(), variant, inputs, named, how)
            assert np.isfinite(run.output.astype(np.float32)).all()


def dense(seed: int) -> None:
    """Several key tiles, one, none; tails of queries and of keys."""
    problem = Problem(lengths=(100, 7, 32, 1), lengths_k=(130, 7, 0, 96), heads=2, kv_heads=1, head_size=HEAD_SIZE)
    _attend(DENSE, problem, {}, seed)


def masked(seed: int) -> None:
    """Causality and windows that hide whole tiles, the first ones, too."""
    problem = Problem(lengths=(150, 7, 33), heads=2, kv_heads=1, head_size=HEAD_SIZE)
    _attend(MASKED, problem, {"causal": 1}, seed)
    _attend(MASKED, problem, {"window_left": 9, "window_right": 5}, seed)


def listed(seed: int) -> None:
    """Tiles at random."""
    problem = Problem(batch=2, width=40, heads=2, kv_heads=1, head_size=HEAD_SIZE, tiles=(2, 1))
    _attend(LISTED, problem, {"block_size": 8}, seed)


def packing(seed: int) -> None:
    """More slots than a block has threads, and more rows than the scan has."""
    rng = np.random.default_rng(seed)
    plan({"attention_mask": padding_mask(rng, "holes", 9, 300)}, {}, blocks=2, seed=seed)
    plan({"attention_mask": padding_mask(rng, "holes", 1100, 1)}, {}, blocks=1, seed=seed)


def work(seed: int) -> None:
    """Items of several classes of cost; enough sequences for several warps."""
    write_list(Lengths((300, 64, 1, 0, 128) * 20, causal=True), blocks=2, lanes=2, seed=seed)


def tiles(seed: int) -> None:
    """Tiles with bitmaps of their own, and shared ones."""
    rules = encode([[window(3, 11, dilation=3), columns(-4, -1)], [causal()]])
    inputs = {"max_seqlen": np.zeros(300), "cu_seqlens": np.cumsum([0, 300, 299, 1, 30, 0, 158, 283]).astype(np.int32)}
    tile_list(inputs, {"block_size": 8, "rules": rules}, seed=seed, table_size=16)


def rows(seed: int) -> None:
    """Rows with many keys, few, and none."""
    problem = Problem(lengths=(70, 3, 0, 1, 1, 5), lengths_k=(70, 3, 2, 0, 0, 5), heads=3, kv_heads=1, head_size=128)
    inputs = problem(np.random.default_rng(seed), np.dtype(np.float16))
    attend_rows(inputs, {"num_heads": 3, "kv_num_heads": 1}, ElementType.FLOAT16, seed=seed)


RUNS: Mapping[str, tuple[Run, ...]] = {
    "attention.cu": (dense, masked, listed),
    "attention_write.cuh": (dense,),
    "packing_plan.cuh": (packing,),
    "row_attention.cuh": (rows,),
    "scan.cuh": (packing, tiles),
    "tile_list.cuh": (tiles,),
    "work_list.cuh": (work,),
}
