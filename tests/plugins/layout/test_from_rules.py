"""The efficient builder of analytic masks gives the tiles of the mask evaluated pair by pair."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.mask_strategies import BLOCK_SIZES, CLAUSES
from raggedrt.errors import InputError
from raggedrt.plugins.contract.mask_rules import UNBOUNDED, Rule, columns, rows, visible, window
from raggedrt.plugins.layout import from_rules as module
from raggedrt.plugins.layout.build import from_mask
from raggedrt.plugins.layout.from_rules import from_rules
from raggedrt.plugins.layout.tile_layout import same_layout

pytestmark = pytest.mark.none

QUICK = settings(derandomize=True, max_examples=60, deadline=None)


def dense(clauses: list[list[Rule]], length: int) -> npt.NDArray[np.bool_]:
    pairs = [visible(clauses, query, key, length) for query in range(length) for key in range(length)]
    return np.array(pairs, np.bool_).reshape(length, length)


@QUICK
@given(CLAUSES, st.integers(0, 45), BLOCK_SIZES)
def test_tiles_are_those_of_the_dense_mask(clauses: list[list[Rule]], length: int, size: int) -> None:
    assert same_layout(from_rules(clauses, length, size), from_mask(dense(clauses, length), size))


@QUICK
@given(CLAUSES, st.lists(st.integers(0, 30), max_size=3), BLOCK_SIZES)
def test_own_lengths_are_masks_of_that_length(clauses: list[list[Rule]], own: list[int], size: int) -> None:
    layout = from_rules(clauses, 30, size, own_lengths=own)
    assert layout.batch == len(own)
    for mask, length in zip(layout.to_dense(), own, strict=True):
        np.testing.assert_array_equal(mask[0, :length, :length], dense(clauses, length))
        assert layout.tile_rows == -(-30 // size)
        end = -(-length // size) * size
        assert not mask[0, end:].any()
        assert not mask[0, :, end:].any()


@QUICK
@given(CLAUSES, st.integers(0, 2**32 - 1), st.integers(0, 45))
def test_listed_blocks_are_alternatives_of_the_first_clause(clauses: list[list[Rule]], seed: int, length: int) -> None:
    blocks = np.random.default_rng(seed).integers(-2, 8, (2, 4, 2))
    layout = from_rules(clauses, length, 8, blocks=blocks)
    listed = np.zeros((2, length, length), np.bool_)
    for group, query, key in np.ndindex(listed.shape):
        listed[group, query, key] = query // 8 < 4 and key // 8 in blocks[group, query // 8]
    others = dense(clauses[1:], length)
    expected = (listed | (dense(clauses[:1], length) if clauses else False)) & others
    assert same_layout(layout, from_mask(expected, 8))


def test_candidates_are_evaluated_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = from_rules([[window(3, 3)]], 70, 8)
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 3 * 64)
    assert same_layout(from_rules([[window(3, 3)]], 70, 8), whole)


def test_published_patterns_have_their_density() -> None:
    edges = [make(*end, unit=64) for make in (rows, columns) for end in ((0, 1), (-1, UNBOUNDED))]
    blocks = 64  # rows and columns
    middle = [sorted({0, row - 1, row, row + 1, blocks - 1}) for row in range(1, blocks - 1)]
    kept = 2 * blocks + sum(map(len, middle))
    assert from_rules([[window(1, 1, unit=64), *edges]], 4096, 64).density == kept / blocks**2
    layout = from_rules([[window(256, 256)]], 65_536, 64)
    assert layout.kept_pairs == 65_536 * 513 - 256 * 257
    assert len(layout.tile_bits) == 2, "every partial tile is one of two triangles"


def test_blocks_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"float64 of shape \(2, 2\), expected integers \[groups"):
        from_rules([], 16, 8, blocks=np.ones((2, 2)))
