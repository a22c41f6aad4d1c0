"""The packing plan's kernels in the emulator against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.data_kernels import Array
from helpers.data_runs import plan
from helpers.tolerances import EXACT, assert_close
from raggedrt.plugins.ops.arrays import Attributes
from raggedrt.plugins.ops.case import Case, Group, padding_mask
from raggedrt.plugins.ops.catalog import CASES, REFERENCES

pytestmark = pytest.mark.emulated

SMALL = [case for case in CASES["PackingPlan"] if case.group is not Group.PERFORMANCE]
PLAN = REFERENCES["PackingPlan"]


def check(inputs: dict[str, Array], attributes: Attributes, **how: int) -> None:
    expected = PLAN(inputs, attributes)
    outputs, count = plan(inputs, attributes, **how)
    assert count == len(expected["token_index"])
    for name, value in expected.items():
        assert_close(outputs[name], value, EXACT, name)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_declared_cases(case: Case, seed: int) -> None:
    check(case.inputs(np.dtype(np.float32), seed), case.attributes, seed=seed)


@pytest.mark.parametrize("blocks", [1, 3, 40])
@pytest.mark.parametrize("slots", [1, 31, 33, 128, 129, 700, 1500])
def test_rows_around_the_share_of_a_warp(slots: int, blocks: int) -> None:
    rng = np.random.default_rng([slots, blocks])
    inputs = {
        "attention_mask": padding_mask(rng, "holes", 11, slots).astype(np.float32),
        "keep_mask": padding_mask(rng, "length_1", 11, slots).astype(bool),
    }
    check(inputs, {"keep_slots": [0, -1], "capacity": 64}, blocks=blocks, seed=slots)


def test_more_rows_than_the_scan_has_threads() -> None:
    rng = np.random.default_rng(3)
    check({"attention_mask": padding_mask(rng, "right", 2100, 3)}, {}, blocks=7, seed=1)


def test_zeros_of_floats() -> None:
    mask = np.array([[0.0, -0.0, np.nan, 1e-45, -np.inf, 0.25]], np.float32)
    outputs, count = plan({"attention_mask": mask}, {})
    assert count == 4
    np.testing.assert_array_equal(outputs["position"], [2, 3, 4, 5])


def test_rows_past_the_tokens_are_filled_as_capacity_is() -> None:
    """TensorRT gives buffers of an upper bound and learns the count afterwards."""
    inputs = {"attention_mask": padding_mask(np.random.default_rng(5), "holes", 5, 40)}
    expected = PLAN(inputs, {})
    outputs, count = plan(inputs, {}, tokens=5 * 40)
    assert count == len(expected["token_index"])
    for name, filler in (("token_index", 0), ("position", 0), ("key_position", -1)):
        np.testing.assert_array_equal(outputs[name][:count], expected[name])
        assert (outputs[name][count:] == filler).all()
