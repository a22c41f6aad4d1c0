"""Merging of attention states and of splits in the emulator."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from helpers.data_kernels import (
    DATA_THREADS,
    Array,
    CombineParams,
    Emulated,
    MergeParams,
    fields,
    variant_of,
)
from helpers.emulator import Grid
from helpers.tolerances import ATTENTION, assert_close
from raggedrt.plugins.ops.case import Case, Group
from raggedrt.plugins.ops.catalog import CASES, REFERENCES

pytestmark = pytest.mark.emulated

TYPES = {"half": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
SMALL = [case for case in CASES["MergeAttentionStates"] if case.group is not Group.PERFORMANCE]
GRID = Grid(2, threads=DATA_THREADS)
MERGE = REFERENCES["MergeAttentionStates"]


def merge(inputs: dict[str, Array], element: str, *, seed: int = 0) -> dict[str, Array]:
    heads, tokens = inputs["lse1"].shape
    call = Emulated(seed)
    tensors = {name: call.input(name, array) for name, array in inputs.items()}
    output = call.output("output", inputs["output1"].shape, TYPES[element])
    lse = call.output("lse", (heads, tokens), np.float32)
    sizes = {"tokens": tokens, "heads": heads, "head_size": inputs["output1"].shape[1] // heads}
    params = fields(MergeParams, **tensors, output=output, lse=lse, **sizes)
    call.run((variant_of("merge_states", RAGGEDRT_ELEMENT=element), params, GRID))
    return {"output": output, "lse": lse}


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_declared_cases(case: Case, element: str) -> None:
    for seed in range(2):
        inputs = case.inputs(TYPES[element], seed)
        expected = MERGE(inputs, {}, compute=np.float64)
        for name, value in merge(inputs, element, seed=seed).items():
            assert_close(value, expected[name], ATTENTION[value.dtype], name)


@pytest.mark.parametrize("head_size", [1, 3, 8, 16, 40, 128])
def test_head_sizes_with_and_without_whole_vectors(head_size: int) -> None:
    rng = np.random.default_rng(head_size)
    for element, dtype in TYPES.items():
        outputs = {f"output{i}": rng.standard_normal((9, 3 * head_size)).astype(dtype) for i in (1, 2)}
        inputs = outputs | {f"lse{i}": rng.standard_normal((3, 9)).astype(np.float32) for i in (1, 2)}
        expected = MERGE(inputs, {}, compute=np.float64)
        for name, value in merge(inputs, element, seed=1).items():
            assert_close(value, expected[name], ATTENTION[value.dtype], name)


def test_a_state_that_saw_nothing_may_hold_anything() -> None:
    inputs = {f"output{i}": np.ones((2, 8), np.float32) * i for i in (1, 2)}
    inputs |= {f"lse{i}": np.zeros((1, 2), np.float32) for i in (1, 2)}
    inputs["output1"][1], inputs["lse1"][0, 1] = np.nan, -np.inf
    made = merge(inputs, "float32")
    np.testing.assert_array_equal(made["output"][1], 2)
    assert made["lse"][0, 1] == 0


def combine(
    output: Array, lse: Array, element: str, *, sink: Array | None = None, end: int | None = None, with_lse: bool = True
) -> tuple[Array, Array]:
    splits, heads, tokens = lse.shape
    call = Emulated(splits)
    made = call.output("output", output.shape[1:], TYPES[element])
    made_lse = call.output("lse", (heads, tokens), np.float32)
    params = fields(
        CombineParams,
        split_output=call.input("split_output", output),
        split_lse=call.input("split_lse", lse),
        head_sink=call.input("head_sink", sink),
        cu_seqlens_q=call.input("cu_seqlens_q", [0, 1, tokens if end is None else end], np.int32),
        output=made,
        lse=made_lse if with_lse else None,
        sequences=2,
        splits=splits,
        total_q=tokens,
        num_heads=heads,
        value_head_size=output.shape[2] // heads,
    )
    call.run((variant_of("combine_splits", RAGGEDRT_ELEMENT=element), params, GRID))
    return made, made_lse


def combined(output: Array, lse: Array, sink: Array | None) -> tuple[Array, Array]:
    """In float64."""
    splits, heads, tokens = lse.shape
    seen = np.isfinite(lse).any(0)  # [N, T]
    all_lse = [*lse.astype(np.float64)]
    if sink is not None:
        all_lse.append(np.broadcast_to(sink[:, None].astype(np.float64), (heads, tokens)))
    total = np.where(seen, np.logaddexp.reduce(np.stack(all_lse), axis=0), -np.inf)
    weights = np.exp(lse - np.where(seen, total, 0))  # [splits, N, T]
    parts = output.reshape(splits, tokens, heads, -1).astype(np.float64)
    mixed = np.einsum("snt,stnh->tnh", weights, np.where(np.isfinite(parts), parts, 0))
    return mixed.reshape(tokens, -1), total.astype(np.float32)


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize(("splits", "head_size"), [(1, 16), (2, 8), (7, 64), (128, 12), (3, 5)])
@pytest.mark.parametrize("with_sink", [False, True])
def test_combine_splits(element: str, splits: int, head_size: int, with_sink: bool) -> None:
    rng = np.random.default_rng([splits, head_size])
    heads, tokens = 3, 10
    lse = (rng.standard_normal((splits, heads, tokens)) * 5).astype(np.float32)
    lse[rng.random(lse.shape) < 0.3] = -np.inf
    lse[:, :, 4] = -np.inf  # sees nothing
    output = rng.standard_normal((splits, tokens, heads * head_size)).astype(np.float32)
    unseen = np.isneginf(lse).transpose(0, 2, 1).repeat(head_size, -1)
    output[unseen] = np.nan  # what no split writes must not be read as a number
    sink = rng.standard_normal(heads).astype(np.float32) if with_sink else None
    expected, expected_lse = combined(output, lse, sink)
    made, made_lse = combine(output, lse, element, sink=sink)
    assert_close(made, expected.astype(TYPES[element]), ATTENTION[TYPES[element]], "output")
    assert_close(made_lse, expected_lse, ATTENTION[np.dtype(np.float32)], "lse")


def test_rows_of_no_sequence_are_zero_whatever_the_splits_say() -> None:
    output = np.full((2, 6, 16), np.nan, np.float32)
    output[:, :4] = 1
    lse = np.zeros((2, 2, 6), np.float32)
    made, made_lse = combine(output, lse, "half", end=4)
    np.testing.assert_array_equal(made[:4], 1)
    np.testing.assert_array_equal(made[4:], 0)
    assert np.isneginf(made_lse[:, 4:]).all()
