from __future__ import annotations

import numpy as np
import pytest

from raggedrt.export.numerics import Case, slot_axis
from raggedrt.plugins.contract.io_roles import Role, TensorRole
from raggedrt.verification import each_alone

pytestmark = pytest.mark.none
OUTPUTS = (
    TensorRole("tokens", Role.PER_TOKEN, "int64", ("tokens",)),
    TensorRole("last", Role.PER_SEQUENCE, "int64", ("batch",)),
)


def _reads_the_last_slot(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Depends on the padded length, unlike what packed tokens mean."""
    ids = feeds["input_ids"]
    return {"tokens": ids + 10 * ids.shape[1], "last": ids[:, -1]}


def test_each_sequence_alone_knows_no_padding() -> None:
    ids = np.array([[1, 2, 3], [4, 5, 9], [9, 9, 9]])
    valid = np.array([[True, True, True], [True, True, False], [False, False, False]])
    case = Case("right", {"input_ids": ids, "attention_mask": valid.astype(np.int64)}, valid)
    results = each_alone(case, _reads_the_last_slot, OUTPUTS)
    assert results["last"].tolist() == [3, 5, 0]
    assert results["tokens"].tolist() == [[31, 32, 33], [24, 25, 0], [0, 0, 0]]


def test_a_batch_of_empty_rows_is_asked_for_as_it_is() -> None:
    valid = np.zeros((2, 1), bool)
    case = Case("empty", {"input_ids": np.ones((2, 1), np.int64)}, valid)
    assert each_alone(case, _reads_the_last_slot, OUTPUTS)["last"].tolist() == [1, 1]


def test_keys_for_later_calls_count_slots_behind_the_heads() -> None:
    def heads_first(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        ids = feeds["input_ids"]
        return {"keys": np.stack([ids, 10 * ids], axis=1)[..., None]}  # [B, 2, S, 1]

    ids = np.array([[1, 2, 3], [4, 5, 9]])
    valid = np.array([[True, True, True], [True, True, False]])
    case = Case("right", {"input_ids": ids}, valid)
    axis = slot_axis([(case, heads_first(case.feeds)["keys"])])
    assert axis == 2
    outputs = [TensorRole("keys", Role.PER_TOKEN, "int64", ("tokens", 2, 1))]
    results = each_alone(case, heads_first, outputs, {"keys": axis})
    assert results["keys"][1, :, 0, 0].tolist() == [4, 5, 0]
    assert results["keys"][1, :, 1, 0].tolist() == [40, 50, 0]


def test_outputs_that_count_no_slots_are_compared_whole() -> None:
    valid = np.array([[True, True, False], [True, True, True]])
    case = Case("right", {}, valid)
    assert slot_axis([(case, np.zeros((2, 7)))]) is None
    assert slot_axis([(case, np.zeros((3, 3)))]) is None
    assert slot_axis([(case, np.zeros((2, 3, 3)))]) == 1
