"""Row-wise attention in the emulator against the reference: every feature, shape and element type of the definition."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from helpers import data_corners as corners
from helpers.data_corners import attention
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


@pytest.mark.parametrize(
    ("case", "element"),
    [(case, element) for case in corners.ATTENTION for element in case.element_types],
    ids=lambda value: value.name,
)
def test_corners(case: Case, element: ElementType) -> None:
    check(case, element, seed=3)


@pytest.mark.parametrize("size", ROW_HEAD_SIZES)
def test_small_heads_in_every_kernel(size: int) -> None:
    problem = dataclasses.replace(corners.SHORT, head_size=24, kv_heads=1)
    check(attention("small", problem), ElementType.BFLOAT16, size=size)


def test_rows_past_the_last_sequence_are_zero_and_not_read() -> None:
    case = attention("own", Problem(lengths=(5, 20), heads=4, kv_heads=2, head_size=16))
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
    case = attention("own", problem)
    inputs = case.inputs(np.dtype(np.float16))
    expected = REFERENCE(inputs, case.attributes, compute=np.float64)["output"]
    hidden = inputs["positions_k"] < 0
    assert hidden.any()
    for name in ("key", "value"):
        inputs[name][hidden] = np.inf
    output = attend_rows(inputs, case.attributes, ElementType.FLOAT16)["output"]
    assert_close(output, expected, ATTENTION[np.dtype(np.float16)])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cu_seqlens_q", [0, 9, 4, 99, 25]),
        ("cu_seqlens_q", [7, 3, -5, 2**31 - 1, 30]),
        ("cu_seqlens_k", [0, 30, 2, 1000, -7]),
        ("head_group", [7, -1]),
        ("rel_bucket", [99] * 9),
        ("tile_tag", None),
        ("tile_ptr", None),
    ],
)
def test_tensors_that_contradict_each_other_are_harmless(name: str, values: list[int] | None) -> None:
    """A GPU cannot refuse them; the emulator sees every access, and that the kernel ends."""
    problem = Problem(
        "holes", 4, 9, heads=2, kv_heads=1, positions=True, tiles=(4, 2),
        extra=("head_group", "rel_query", "rel_key", "rel_bucket"),
    )  # fmt: skip
    case = attention("contradiction", problem, block_size=TILE)
    inputs = case.inputs(np.dtype(np.float32))
    given = inputs[name]
    inputs[name] = np.resize(np.asarray(values if values else [-900, 70, 3, 900], np.int32), given.shape)
    outputs = attend_rows(inputs, case.attributes, ElementType.FLOAT)
    assert outputs["output"].shape == (len(inputs["query"]), 16)


def test_nan_in_a_query_stays_in_its_row() -> None:
    case = attention("own", Problem(lengths=(40,), heads=1, kv_heads=1, head_size=32))
    inputs = case.inputs(np.dtype(np.float32))
    inputs["query"][7, 3] = np.nan
    output = attend_rows(inputs, case.attributes, ElementType.FLOAT)["output"]
    assert np.isnan(output[7]).all()
    assert np.isfinite(np.delete(output, 7, axis=0)).all()


def test_biases_near_the_end_of_floats_hide_nothing_by_themselves() -> None:
    """A mask of float32's least number on every key leaves the softmax of the scores' order, as the reference does."""
    case = attention("own", Problem(lengths=(6,), width=6, batch=1, heads=1, kv_heads=1, head_size=8, extra=("bias",)))
    inputs = case.inputs(np.dtype(np.float32))
    inputs["bias"][...] = np.finfo(np.float32).min
    inputs["bias"][..., 2, :] = -np.inf
    expected = REFERENCE(inputs, case.attributes, compute=np.float64)["output"]
    output = attend_rows(inputs, case.attributes, ElementType.FLOAT)["output"]
    assert not output[2].any()
    assert_close(output[3:], np.broadcast_to(inputs["value"].mean(0), (3, 8)), Tolerance(2e-6, 2e-5))
    assert np.isfinite(expected).all()
