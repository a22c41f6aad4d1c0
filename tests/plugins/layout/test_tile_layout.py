"""Tile layouts of dense masks and block lists: nothing is lost, and what is impossible is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.mask_strategies import BLOCK_SIZES, block_masks
from raggedrt.errors import InputError
from raggedrt.plugins.layout.bitmaps import FULL, pack_bits
from raggedrt.plugins.layout.build import from_block_list, from_mask, from_rows
from raggedrt.plugins.layout.files import layout_of_arrays, load_layout, save_layout
from raggedrt.plugins.layout.tile_layout import TileLayout, same_layout

pytestmark = pytest.mark.none

QUICK = settings(derandomize=True, max_examples=60, deadline=None)


@QUICK
@given(st.data())
def test_dense_masks_come_back(data: st.DataObject) -> None:
    size = data.draw(BLOCK_SIZES)
    mask = data.draw(block_masks(size))
    layout = from_mask(mask, size)
    np.testing.assert_array_equal(layout.to_dense(), mask)
    assert layout.kept_pairs == mask.sum()
    assert len(np.unique(layout.tile_bits, axis=0)) == len(layout.tile_bits)
    assert set(layout.tile_tag.tolist()) - {FULL} == set(range(len(layout.tile_bits)))


@QUICK
@given(st.data())
def test_files_keep_everything(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    size = data.draw(BLOCK_SIZES)
    mask = data.draw(block_masks(size))
    heads = data.draw(st.none() | st.lists(st.integers(0, mask.shape[1] - 1), min_size=1, max_size=4))
    layout = from_mask(mask, size, head_group=heads)
    path = tmp_path_factory.mktemp("layout") / "layout.npz"
    save_layout(layout, path)
    assert same_layout(load_layout(path), layout)


@QUICK
@given(st.data())
def test_block_lists_are_whole_blocks(data: st.DataObject) -> None:
    rows, length = 4, data.draw(st.integers(25, 32))
    listed = np.array(data.draw(st.lists(st.booleans(), min_size=2 * rows * rows, max_size=2 * rows * rows)))
    listed = listed.reshape(2, rows, rows)
    ends = np.concatenate([[0], listed.sum(axis=2).reshape(-1).cumsum()])
    ptr = np.stack([ends[: rows + 1], ends[rows:]])
    layout = from_block_list(ptr, np.nonzero(listed)[2], length, 8)
    dense = listed.repeat(8, 1).repeat(8, 2)[:, :length, :length]
    assert same_layout(layout, from_mask(dense, 8))


def test_tiles_of_a_known_mask() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[:8, :8] = True  # full
    mask[9, 11] = mask[2, 19] = True  # partial; row 2 of the tile that the end cuts
    mask[16:, 16:] = True  # full where positions exist
    layout = from_mask(mask, 8)
    assert layout.tile_ptr.tolist() == [[[0, 2, 3, 4]]]
    assert layout.tile_col.tolist() == [0, 2, 1, 2]
    assert layout.tile_tag.tolist() == [FULL, 0, 1, FULL]
    element = 2 * 8 + 3, 1 * 8 + 3
    assert layout.tile_bits.tolist() == [[1 << element[0], 0], [1 << element[1], 0]]
    assert layout.density == mask.mean()
    assert layout.tile_density == pytest.approx(4 / 9)
    assert layout.kept_flops(16) == 4 * 64 * 4 * 16


def test_the_highest_bit_makes_a_negative_word() -> None:
    tile = np.zeros((1, 8, 8), np.bool_)
    tile[0, 3, 7] = True  # element 31
    assert pack_bits(tile).tolist() == [[-(2**31), 0]]


def test_rows_are_asked_for_one_tile_row_at_a_time() -> None:
    asked = []

    def mask_rows(sequence: int, group: int, first: int, end: int) -> Any:
        asked.append((sequence, group, first, end))
        return np.ones((end - first, 5), np.bool_)

    layout = from_rows(mask_rows, (12, 5), 8, batch=2)
    assert asked == [(0, 0, 0, 8), (0, 0, 8, 12), (1, 0, 0, 8), (1, 0, 8, 12)]
    assert layout.density == 1.0


def test_heads_find_their_groups() -> None:
    layout = from_mask(np.ones((3, 8, 8), np.bool_), 8)
    assert layout.group_of_head(3).tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="3 groups and no head_group, and attention has 4 heads"):
        layout.group_of_head(4)
    grouped = dataclasses.replace(layout, head_group=np.array([2, 0, 0, 1]))
    assert grouped.group_of_head(4).tolist() == [2, 0, 0, 1]
    with pytest.raises(InputError, match="head_group of 4 heads, and attention has 3 heads"):
        grouped.group_of_head(3)


GOOD: dict[str, Any] = {
    "block_size": 8,
    "query_length": 20,
    "key_length": 20,
    "tile_ptr": np.array([[[0, 2, 2, 4]]]),
    "tile_col": np.array([0, 2, 1, 2]),
    "tile_tag": np.array([-1, 0, 0, -1]),
    "tile_bits": np.array([[1, 0]]),
}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "block_size": ({"block_size": 12}, "block size 12; expected a multiple of 8"),
    "block_size_0": ({"block_size": 0}, "block size 0"),
    "unsorted": ({"tile_col": np.array([2, 0, 1, 2])}, r"column 2 before 0 in one row \(entry 0\)"),
    "duplicate": ({"tile_col": np.array([2, 2, 1, 2])}, r"column 2 twice in one row \(entry 0\)"),
    "column_past_the_end": ({"tile_col": np.array([0, 3, 1, 2])}, r"tile_col\[1\] .* is 3, expected .* 0 to 2"),
    "column_negative": ({"tile_col": np.array([-1, 2, 1, 2])}, r"tile_col\[0\] .* is -1"),
    "tag_past_the_end": ({"tile_tag": np.array([-1, 1, 0, -1])}, r"tile_tag\[1\] .* is 1, expected .* -1 to 0"),
    "tag_unknown": ({"tile_tag": np.array([-2, 0, 0, -1])}, r"tile_tag\[0\] .* is -2"),
    "fewer_tags": ({"tile_tag": np.array([-1])}, "tile_tag of a tile layout has 1 entries and tile_col 4"),
    "rows": ({"query_length": 25}, r"shape \(1, 1, 4\), expected .* 5 numbers for 25 positions"),
    "rank": ({"tile_ptr": np.array([0, 2, 2, 4])}, r"tile_ptr .* shape \(4,\), expected \[sequences or 1, groups"),
    "decreasing": ({"tile_ptr": np.array([[[0, 2, 1, 4]]])}, r"tile_ptr .* decreases after \(0, 0, 1\)"),
    "entries": ({"tile_ptr": np.array([[[0, 2, 2, 3]]])}, "end with the 4 entries of tile_col"),
    "not_from_0": ({"tile_ptr": np.array([[[1, 2, 2, 4]]])}, "must start with 0"),
    "gap": ({"tile_ptr": np.array([[[0, 1, 1, 1], [2, 2, 2, 4]]])}, "each group where the one before ends"),
    "words": ({"tile_bits": np.array([[1]])}, "1 words per bitmap, expected 2 for blocks of 8"),
    "floats": ({"tile_col": np.array([0.0, 2, 1, 2])}, "tile_col .* holds float64, expected integers"),
    "wide": ({"tile_bits": np.array([[2**32, 0]])}, "numbers beyond 32 bits"),
    "edge": ({"tile_bits": np.array([[1 << 5, 0]])}, "a bit for a key position of 20 or more"),
    "head_group": ({"head_group": np.array([0, 1])}, r"head_group\[1\] .* is 1, expected a group: 0 to 0"),
}


def test_the_good_layout_is_good() -> None:
    assert TileLayout(**GOOD).kept_pairs == 64 + 1 + 1 + 16


@pytest.mark.parametrize("name", BAD)
def test_impossible_layouts_are_refused(name: str) -> None:
    changed, message = BAD[name]
    with pytest.raises(InputError, match=message):
        TileLayout(**{**GOOD, **changed})


def test_masks_of_other_kinds_are_refused() -> None:
    with pytest.raises(InputError, match=r"A mask is int64 of shape \(2, 2\), expected bool"):
        from_mask(np.ones((2, 2), np.int64), 8)
    with pytest.raises(InputError, match=r"shape \(4,\), expected bool"):
        from_mask(np.ones(4, np.bool_), 8)


@QUICK
@given(st.data())
def test_other_forms_are_the_same_layout(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    tiles = rng.random((*data.draw(st.sampled_from([(), (2,), (3, 2)])), 4, 4)) < 0.4
    length = data.draw(st.integers(25, 32))
    mask = tiles.repeat(8, -1).repeat(8, -2)[..., :length, :length]
    expected, size = from_mask(mask, 8), np.array(8)
    assert same_layout(layout_of_arrays({"block_size": size, "mask": mask.astype(np.int64)}), expected)
    assert same_layout(layout_of_arrays({"block_size": size, "tiles": tiles, "length": np.array(length)}), expected)
    blocks = {"row_ptr": expected.tile_ptr, "columns": expected.tile_col, "length": np.array(length)}
    assert same_layout(layout_of_arrays({"block_size": size, **blocks}), expected)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"block_size": np.array(8), "row_ptr": np.array([0, 0])}, "row_ptr is there without 'columns'"),
        ({"mask": np.ones((8, 8), bool)}, "mask is there without 'block_size'"),
        ({"block_size": np.array(8), "mask": np.ones((8, 9), bool)}, r"mask is bool of shape \(8, 9\), expected bool"),
        ({"block_size": np.array([8, 8]), "mask": np.ones((8, 8), bool)}, "block_size is int64 of shape"),
        ({"block_size": np.array(8), "tiles": np.array("x")}, "tiles is <U1 of shape"),
        ({"block_size": np.array(8), "row_ptr": np.array(0), "columns": np.array([0])}, "row offsets of a block list"),
        (
            {"block_size": np.array(8), "tiles": np.ones((2, 2)), "length": np.array(30)},
            r"shape \(1, 1, 3\), expected .* 5 numbers for 30",
        ),
    ],
)
def test_files_that_describe_no_layout_are_refused(arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        layout_of_arrays(arrays)


def test_bad_files_are_named(tmp_path: Path) -> None:
    missing, text, lacking, wrong = (tmp_path / name for name in ("no.npz", "text.npz", "lacking.npz", "wrong.npz"))
    text.write_text("not an archive")
    np.savez(lacking, block_size=8)
    np.savez(wrong, **{**GOOD, "tile_col": np.array([2, 0, 1, 2])})
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, **{**GOOD, "tile_col": np.array([{}], object)})
    for path, message in (
        (missing, "no.npz: not a readable"),
        (text, "text.npz: not a readable"),
        (pickled, "pickled.npz: not a readable"),
        (lacking, "lacking.npz: holds block_size; a layout file has block_size and one of tile_ptr, mask, tiles"),
        (wrong, "wrong.npz: tile_col .* column 2 before 0"),
    ):
        with pytest.raises(InputError, match=message):
            load_layout(path)
