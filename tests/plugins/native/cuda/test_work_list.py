"""The work list's kernel in the emulator: every query in one item per split, the costliest items first."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.data_runs import write_list
from helpers.work_lists import CALLS, Lengths, check_work_list

pytestmark = pytest.mark.emulated


def check(call: Lengths, *, blocks: int = 2, lanes: int = 4, seed: int = 0) -> None:
    check_work_list(write_list(call, blocks=blocks, lanes=lanes, seed=seed))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("blocks", "lanes"), [(1, 1), (3, 4), (2, 64)])
def test_every_query_once_and_costly_items_first(name: str, blocks: int, lanes: int) -> None:
    check(CALLS[name], blocks=blocks, lanes=lanes, seed=blocks - 1)


def test_many_sequences() -> None:
    rng = np.random.default_rng(1)
    check(Lengths(tuple(rng.integers(0, 200, 1500).tolist())), blocks=4, lanes=2, seed=3)


def test_one_long_sequence() -> None:
    check(Lengths((20000,), causal=True), blocks=2, lanes=512)


def test_lengths_that_do_not_fit_stay_inside_the_list() -> None:
    """cu_seqlens cannot be refused on a GPU: nothing is written past the list, whatever they say."""
    made = write_list(Lengths((40, 40, 40)), blocks=2, lanes=1, seed=0, capacity=2)
    assert len(made.items) == 2
