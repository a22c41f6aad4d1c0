"""Row-wise attention in the emulator against the reference: every feature, shape and element type of the definition."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from helpers.data_runs import attend_rows
from helpers.tolerances import ATTENTION, Tolerance, assert_close
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.kernel_packs.variants import ROW_HEAD_SIZES
from raggedrt.plugins.ops.arrays import NUMPY_TYPES, Array
from raggedrt.plugins.ops.case import Case, Group
from raggedrt.plugins.ops.catalog import CASES, REFERENCES
from raggedrt.plugins.ops.ragged_attention.cases import TILE, Problem

pytestmark = pytest.mark.emulated

REFERENCE = REFERENCES["RaggedAttention"]
SMALL = [case for case in CASES["RaggedAttention"] if case.group is not Group.PERFORMANCE]


def tolerance_for(dtype: np.dtype[Any], inputs: Mapping[str, Array]) -> Tolerance:
    """Large scores lose absolute accuracy before the softmax: the error of a float32 score grows with its size."""
    tolerance = ATTENTION[dtype]
    if not inputs["query"].size:
        return tolerance
    magnitude = float(np.abs(inputs["query"].astype(np.float64)).std())
    return tolerance if magnitude < 2 else Tolerance(tolerance.atol * magnitude**2, tolerance.rtol)


def check(case: Case, element: ElementType, *, seed: int = 0, size: int = 0) -> None:
    inputs = case.inputs(NUMPY_TYPES[element], seed)
    expected = REFERENCE(inputs, case.attributes, compute=np.float64)
    outputs = attend_rows(inputs, case.attributes, element, seed=seed, size=size)
    for name, value in expected.items():
        assert_close(outputs[name], value, tolerance_for(outputs[name].dtype, inputs), f"{case.name} {name}")


@pytest.mark.parametrize("element", SMALL[0].element_types, ids=lambda element: element.name)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_declared_cases(case: Case, element: ElementType) -> None:
    for seed in range(2):
        check(case, element, seed=seed)


def _case(problem: Problem, **attributes: Any) -> Case:
    heads = {"num_heads": problem.heads, "kv_num_heads": problem.kv_heads}
    return Case("own", Group.CORRECTNESS, problem, {**heads, **attributes}, ("lse",))


SHORT = Problem(lengths=(5, 0, 40, 33, 1, 2), heads=2, kv_heads=2)


@pytest.mark.parametrize("head_size", [1, 3, 8, 20, 32, 40, 64, 72, 80, 96, 120, 128, 136, 192, 256])
def test_head_sizes(head_size: int) -> None:
    for element in (ElementType.FLOAT, ElementType.FLOAT16):
        check(_case(dataclasses.replace(SHORT, head_size=head_size), causal=1), element, seed=1)


@pytest.mark.parametrize(("head_size", "value_head_size"), [(64, 24), (16, 128), (100, 7), (8, 256), (256, 8)])
def test_value_head_sizes(head_size: int, value_head_size: int) -> None:
    problem = dataclasses.replace(SHORT, head_size=head_size, value_head_size=value_head_size)
    check(_case(problem), ElementType.FLOAT16)
    check(_case(problem), ElementType.FLOAT, seed=2)


@pytest.mark.parametrize("size", ROW_HEAD_SIZES)
def test_small_heads_in_every_kernel(size: int) -> None:
    check(_case(dataclasses.replace(SHORT, head_size=24, kv_heads=1)), ElementType.BFLOAT16, size=size)


LENGTHS_Q = (1, 31, 32, 33, 0, 64, 7, 100)
LENGTHS_K = (100, 1, 0, 70, 5, 64, 33, 32)


@pytest.mark.parametrize("heads", [(4, 4), (8, 2), (5, 1), (7, 1), (12, 3)])
@pytest.mark.parametrize("causal", [0, 1])
def test_heads_that_share_keys(heads: tuple[int, int], causal: int) -> None:
    """Rows of a warp are queries times heads, so they end in the middle of a token, and go on in the next sequence."""
    problem = Problem(lengths=LENGTHS_Q, lengths_k=LENGTHS_K, heads=heads[0], kv_heads=heads[1], head_size=16)
    check(_case(problem, causal=causal), ElementType.FLOAT16, seed=3)


EVERYTHING = ("bias", "distance_bias", "alibi_slopes", "head_sink", "rel_query", "rel_key", "rel_bucket")


@pytest.mark.parametrize("mask", ["left", "holes", "empty_row"])
def test_everything_at_once(mask: str) -> None:
    problem = Problem(
        mask, 5, 70, heads=6, kv_heads=2, head_size=40, positions=True, plan={"keep_slots": [0, 40]},
        extra=EVERYTHING, tiles=(5, 6),
    )  # fmt: skip
    attributes = {"window_left": 40, "window_right": 30, "global_tokens": [0, 33], "dilation": 2, "softcap": 7.0}
    check(_case(problem, **attributes, block_size=TILE), ElementType.FLOAT, seed=4)


@pytest.mark.parametrize("window", [(0, 0), (5, -1), (-1, 9), (40, 2), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("causal", [0, 1])
def test_windows_over_many_keys(window: tuple[int, int], causal: int) -> None:
    """Without positions the kernel begins and ends with the windows of its rows."""
    problem = Problem(lengths=(150, 33), heads=2, kv_heads=2, head_size=8)
    attributes = {"window_left": window[0], "window_right": window[1], "causal": causal}
    check(_case(problem, **attributes), ElementType.FLOAT, seed=5)
    check(_case(problem, **attributes, global_tokens=[3, 120]), ElementType.FLOAT, seed=5)


def test_many_sequences() -> None:
    """More than one step of the search for a token's sequence, many of them empty."""
    rng = np.random.default_rng(8)
    lengths = tuple(np.where(rng.random(1100) < 0.7, 0, rng.integers(0, 3, 1100)).tolist())
    check(_case(Problem(lengths=lengths, heads=1, kv_heads=1, head_size=8)), ElementType.FLOAT16, seed=1)


def test_rows_past_the_last_sequence_are_zero_and_not_read() -> None:
    case = _case(Problem(lengths=(5, 20), heads=4, kv_heads=2, head_size=16))
    inputs = case.inputs(np.dtype(np.float32))
    expected = REFERENCE(inputs, case.attributes, compute=np.float64)
    for name in ("query", "key", "value"):
        inputs[name] = np.concatenate([inputs[name], np.full((9, inputs[name].shape[1]), np.nan, np.float32)])
    outputs = attend_rows(inputs, case.attributes, ElementType.FLOAT)
    assert_close(outputs["output"][:25], expected["output"], ATTENTION[np.dtype(np.float32)])
    assert not outputs["output"][25:].any()
    assert np.isneginf(outputs["lse"][:, 25:]).all()


def test_what_a_hidden_key_holds_does_not_matter() -> None:
    problem = Problem("left", 3, 20, heads=2, kv_heads=2, head_size=8, positions=True, plan={"keep_slots": [0]})
    case = _case(problem)
    inputs = case.inputs(np.dtype(np.float16))
    expected = REFERENCE(inputs, case.attributes, compute=np.float64)["output"]
    hidden = inputs["positions_k"] < 0
    assert hidden.any()
    for name in ("key", "value"):
        inputs[name][hidden] = np.inf
    output = attend_rows(inputs, case.attributes, ElementType.FLOAT16)["output"]
    assert_close(output, expected, ATTENTION[np.dtype(np.float16)])


def test_nan_in_a_query_stays_in_its_row() -> None:
    case = _case(Problem(lengths=(40,), heads=1, kv_heads=1, head_size=32))
    inputs = case.inputs(np.dtype(np.float32))
    inputs["query"][7, 3] = np.nan
    output = attend_rows(inputs, case.attributes, ElementType.FLOAT)["output"]
    assert np.isnan(output[7]).all()
    assert np.isfinite(np.delete(output, 7, axis=0)).all()


def test_biases_near_the_end_of_floats_hide_nothing_by_themselves() -> None:
    """A mask of float32's least number on every key leaves the softmax of the scores' order, as the reference does."""
    case = _case(Problem(lengths=(6,), width=6, batch=1, heads=1, kv_heads=1, head_size=8, extra=("bias",)))
    inputs = case.inputs(np.dtype(np.float32))
    inputs["bias"][...] = np.finfo(np.float32).min
    inputs["bias"][..., 2, :] = -np.inf
    expected = REFERENCE(inputs, case.attributes, compute=np.float64)["output"]
    output = attend_rows(inputs, case.attributes, ElementType.FLOAT)["output"]
    assert not output[2].any()
    assert_close(output[3:], np.broadcast_to(inputs["value"].mean(0), (3, 8)), Tolerance(2e-6, 2e-5))
    assert np.isfinite(expected).all()
