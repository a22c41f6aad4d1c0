"""The tile lists of analytic masks, built by kernels in the emulator, against the reference and the numpy builder."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import data_corners as corners
from helpers.data_kernels import Array
from helpers.data_runs import tile_list
from helpers.tolerances import EXACT, assert_close
from raggedrt.plugins.contract.mask_rules import Clauses, columns, encode, rows, window
from raggedrt.plugins.layout.from_rules import from_rules
from raggedrt.plugins.ops.arrays import Attributes, Inputs
from raggedrt.plugins.ops.case import Case, Group
from raggedrt.plugins.ops.catalog import CASES, REFERENCES

pytestmark = pytest.mark.emulated

SMALL = [case for case in CASES["BlockMask"] if case.group is not Group.PERFORMANCE]


def check(inputs: Inputs, attributes: Attributes, *, seed: int = 0, table_size: int = 0) -> dict[str, Array]:
    made, _ = tile_list(inputs, attributes, seed=seed, table_size=table_size)
    for name, value in REFERENCES["BlockMask"](inputs, attributes).items():
        assert_close(made[name], value, EXACT, name)
    return made


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_declared_cases(case: Case, seed: int) -> None:
    check(case.inputs(np.dtype(np.int32), seed), case.attributes, seed=seed)


def attributes_of(clauses: Clauses, block_size: int) -> Attributes:
    return {"block_size": block_size, "rules": encode(clauses)}


@pytest.mark.parametrize("case", corners.BLOCK_MASKS, ids=lambda case: case.name)
def test_corners(case: Case) -> None:
    check(case.inputs(np.dtype(np.int32), 5), case.attributes, seed=5)


@pytest.mark.parametrize("table_size", [1, 2, 8])
def test_a_small_table_only_takes_more_rounds(table_size: int) -> None:
    """Every slot holds many different bitmaps."""
    case = corners.MANY_BITMAPS
    made = check(case.inputs(np.dtype(np.int32)), case.attributes, table_size=table_size, seed=1)
    assert len(made["tile_bits"]) > 8


def test_what_finds_no_room_is_counted_but_not_written() -> None:
    inputs, attributes = {"max_seqlen": np.zeros(45)}, attributes_of([[window(5, 3)]], 8)
    expected = REFERENCES["BlockMask"](inputs, attributes)
    made, counts = tile_list(inputs, attributes, room=(7, 1))
    assert counts == (len(expected["tile_col"]), len(expected["tile_bits"]))
    np.testing.assert_array_equal(made["tile_ptr"], expected["tile_ptr"])
    np.testing.assert_array_equal(made["tile_col"], expected["tile_col"][:7])
    np.testing.assert_array_equal(made["tile_tag"], expected["tile_tag"][:7])
    np.testing.assert_array_equal(made["tile_bits"], expected["tile_bits"][:1])


def test_the_same_tiles_as_the_numpy_builder() -> None:
    """That one works from rules, as the kernels do, and not from pairs, so a longer mask is quick to make."""
    clauses = [[window(1, 1, unit=64), rows(0, 1, unit=64), columns(0, 1, unit=64), columns(-1, 2**31 - 1, unit=64)]]
    length = 1500
    rng = np.random.default_rng(4)
    blocks = rng.integers(0, -(-length // 64), (2, -(-length // 64), 3)).astype(np.int32)
    inputs = {"max_seqlen": np.zeros(length), "blocks": blocks}
    made, _ = tile_list(inputs, attributes_of(clauses, 64), seed=4)
    layout = from_rules(clauses, length, 64, blocks=blocks)
    for name, value in layout.tensors().items():
        assert_close(made[name], value, EXACT, name)
