"""Pack and unpack in the emulator against the references, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers import data_corners as corners
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


@pytest.mark.parametrize("case", corners.COPIES, ids=lambda case: case.name)
def test_rows_of_any_size(case: Case) -> None:
    inputs = case.inputs(np.dtype(np.uint8), 1)
    packed = REFERENCES["PackTokens"](inputs, {})["packed"]
    np.testing.assert_array_equal(pack(inputs, packed, seed=1), packed)
    back = {"packed": packed, "token_index": inputs["token_index"], "like": inputs["x"][:, :, 0]}
    padded = REFERENCES["UnpackTokens"](back, {})["x"]
    np.testing.assert_array_equal(unpack(back, padded, seed=1), padded)


def test_an_index_past_the_slots_reads_and_writes_nothing() -> None:
    """A GPU cannot refuse an index, so it must be harmless."""
    x = np.arange(48, dtype=np.float32).reshape(2, 3, 8) + 1
    index = np.array([6, 5, 2**31 - 1, 0], np.int32)
    packed = pack({"x": x, "token_index": index}, np.empty((4, 8), np.float32))
    np.testing.assert_array_equal(packed, np.stack([0 * x[0, 0], x[1, 2], 0 * x[0, 0], x[0, 0]]))
    padded = unpack({"packed": packed, "token_index": index}, np.empty((2, 3, 8), np.float32))
    np.testing.assert_array_equal(padded.reshape(6, 8)[1:5], 0)
    np.testing.assert_array_equal(padded.reshape(6, 8)[[0, 5]], x.reshape(6, 8)[[0, 5]])
