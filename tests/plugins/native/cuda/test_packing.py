"""The packing plan's kernels in the emulator against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import data_corners as corners
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
@pytest.mark.parametrize("case", corners.PACKING, ids=lambda case: case.name)
def test_corners(case: Case, blocks: int) -> None:
    check(case.inputs(np.dtype(np.float32), blocks), case.attributes, blocks=blocks, seed=blocks)


def test_rows_past_the_tokens_are_filled_as_capacity_is() -> None:
    """TensorRT gives buffers of an upper bound and learns the count afterwards."""
    inputs = {"attention_mask": padding_mask(np.random.default_rng(5), "holes", 5, 40)}
    expected = PLAN(inputs, {})
    outputs, count = plan(inputs, {}, tokens=5 * 40)
    assert count == len(expected["token_index"])
    for name, filler in (("token_index", 0), ("position", 0), ("key_position", -1)):
        np.testing.assert_array_equal(outputs[name][:count], expected[name])
        assert (outputs[name][count:] == filler).all()
