"""BigBird's blocks: drawn for each length or once for one, and the same as rules of the BlockMask op."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from raggedrt.errors import InputError
from raggedrt.graph_passes.masks import MaskSpec
from raggedrt.graph_passes.masks.bigbird import BigBird
from raggedrt.graph_passes.masks.pairs import OWN, PADDED
from raggedrt.graph_passes.masks.rules import clauses_of
from raggedrt.graph_passes.masks.short_spec import parse_mask
from raggedrt.plugins.contract import mask_rules

pytestmark = pytest.mark.none


@pytest.mark.parametrize("global_blocks", [0, 1, 2, 3])
@pytest.mark.parametrize("length", [5, 8, 20, 41])
def test_without_draws_it_is_rules(global_blocks: int, length: int) -> None:
    pattern = BigBird(8, 3, global_blocks, 0)
    clauses = clauses_of(pattern)
    assert clauses is not None
    got = [[mask_rules.visible(clauses, q, k, length) for k in range(length)] for q in range(length)]
    assert np.array_equal(got, pattern.tiles(length).repeat(8, 0).repeat(8, 1)[:length, :length])
    assert clauses_of(dataclasses.replace(pattern, random=1)) is None


def test_blocks_drawn_for_one_length_are_those_of_shorter_rows() -> None:
    pattern = BigBird(8, 1, 1, 2, seed=5, length=128)
    whole = dataclasses.replace(pattern, length=0).tiles(128)
    assert np.array_equal(pattern.tiles(128), whole)
    fixed = dataclasses.replace(pattern, random=0)
    for blocks in (1, 3, 9):
        assert np.array_equal(pattern.tiles(8 * blocks), whole[:blocks, :blocks] | fixed.tiles(8 * blocks))
    longer = pattern.tiles(8 * 20)
    assert np.array_equal(longer[16:], fixed.tiles(8 * 20)[16:])
    listed = pattern.drawn()
    assert listed.shape == (16, 2)
    for row, columns in enumerate(listed):
        drawn = set(np.flatnonzero(whole[row] & ~fixed.tiles(128)[row]).tolist())
        assert drawn == set(columns.tolist()) - {-1}


def test_it_is_written_and_read_back() -> None:
    spec = MaskSpec(pattern=BigBird(8, 1, 1, 2, seed=5, length=128), of=OWN)
    assert parse_mask(str(spec)) == spec
    assert MaskSpec.from_json(spec.to_json()) == spec
    assert "length" not in str(BigBird())


@pytest.mark.parametrize(
    ("text", "of"), [("causal", OWN), ("causal of=own", OWN), ("window(2)|causal of = padded", PADDED)]
)
def test_what_positions_count_is_said_at_the_end(text: str, of: str) -> None:
    assert parse_mask(text).of == of


@pytest.mark.parametrize("text", ["causal of", "causal of=", "causal of=mine", "causal of=own causal", "of=own"])
def test_and_nowhere_else(text: str) -> None:
    with pytest.raises(InputError, match="does not parse at character"):
        parse_mask(text)
