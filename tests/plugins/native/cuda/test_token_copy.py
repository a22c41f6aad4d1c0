"""Pack and unpack in the emulator against the references, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.data_runs import pack, unpack
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.ops.arrays import NUMPY_TYPES
from raggedrt.plugins.ops.case import Case, Group
from raggedrt.plugins.ops.catalog import CASES, REFERENCES

pytestmark = pytest.mark.emulated


def small(op: str) -> list[Any]:
    return [
        pytest.param(case, element, id=f"{case.name}-{element.name}")
        for case in CASES[op]
        if case.group is not Group.PERFORMANCE
        for element in case.element_types
    ]


@pytest.mark.parametrize(("case", "element"), small("PackTokens"))
def test_pack(case: Case, element: ElementType) -> None:
    for seed in range(2):
        inputs = case.inputs(NUMPY_TYPES[element], seed)
        expected = REFERENCES["PackTokens"](inputs, case.attributes)["packed"]
        np.testing.assert_array_equal(pack(inputs, expected, seed=seed).view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize(("case", "element"), small("UnpackTokens"))
def test_unpack(case: Case, element: ElementType) -> None:
    for seed in range(2):
        inputs = case.inputs(NUMPY_TYPES[element], seed)
        expected = REFERENCES["UnpackTokens"](inputs, case.attributes)["x"]
        np.testing.assert_array_equal(unpack(inputs, expected, seed=seed).view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 16, 24, 34, 80, 112, 130, 1536, 4112])
def test_rows_of_any_size(size: int) -> None:
    """Rows that fill no vector, several rows in one warp, several passes of a block in one row."""
    rng = np.random.default_rng(size)
    x = rng.integers(0, 256, (5, 9, size)).astype(np.uint8)
    index = rng.permutation(45)[:31].astype(np.int32)  # in no order
    index[3::7] = -1
    inputs = {"x": x, "token_index": index}
    expected = REFERENCES["PackTokens"](inputs, {})["packed"]
    np.testing.assert_array_equal(pack(inputs, expected, seed=size), expected)
    back = {"packed": expected, "token_index": index, "like": x[:, :, 0]}
    padded = REFERENCES["UnpackTokens"](back, {})["x"]
    np.testing.assert_array_equal(unpack(back, padded, seed=size), padded)


def test_an_index_past_the_slots_reads_and_writes_nothing() -> None:
    """A GPU cannot refuse an index, so it must be harmless."""
    x = np.arange(48, dtype=np.float32).reshape(2, 3, 8) + 1
    index = np.array([6, 5, 2**31 - 1, 0], np.int32)
    packed = pack({"x": x, "token_index": index}, np.empty((4, 8), np.float32))
    np.testing.assert_array_equal(packed, np.stack([0 * x[0, 0], x[1, 2], 0 * x[0, 0], x[0, 0]]))
    padded = unpack({"packed": packed, "token_index": index}, np.empty((2, 3, 8), np.float32))
    np.testing.assert_array_equal(padded.reshape(6, 8)[1:5], 0)
    np.testing.assert_array_equal(padded.reshape(6, 8)[[0, 5]], x.reshape(6, 8)[[0, 5]])
