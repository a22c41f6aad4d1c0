"""Tile layouts of dense masks, of masks given row by row, and of lists of blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from raggedrt.errors import InputError
from raggedrt.plugins.layout.bitmaps import FULL, Array, BoolArray, check_block_size, deduplicate, pack_bits
from raggedrt.plugins.layout.tile_layout import TileLayout

MaskRows = Callable[[int, int, int, int], BoolArray]
"""mask_rows(sequence, group, first, end) is the mask of those query positions, bool [end - first, key_length]."""


def from_mask(mask: npt.ArrayLike, block_size: int, *, head_group: Any = None) -> TileLayout:
    """The layout of a dense mask.

    Args:
        mask: bool [Sq, Sk], [G, Sq, Sk] or [B|1, G, Sq, Sk]; True where the query sees the key.
        block_size: Rows and columns of a tile.
        head_group: Group of each head, int [N].

    Raises:
        InputError: The mask is no boolean array of such a shape, or the block size is out of range.
    """
    dense = np.asarray(mask)
    if dense.dtype != np.bool_ or not 2 <= dense.ndim <= 4:
        raise InputError(f"A mask is {dense.dtype} of shape {dense.shape}, expected bool [.., Sq, Sk], 2 to 4 axes.")
    dense = dense.reshape((1,) * (4 - dense.ndim) + dense.shape)
    batch, groups, queries, keys = dense.shape
    return from_rows(
        lambda b, g, first, end: dense[b, g, first:end],
        (queries, keys),
        block_size,
        batch=batch,
        groups=groups,
        head_group=head_group,
    )


def from_rows(
    mask_rows: MaskRows,
    lengths: tuple[int, int],
    block_size: int,
    *,
    batch: int = 1,
    groups: int = 1,
    head_group: Any = None,
) -> TileLayout:
    """The layout of a mask that is evaluated one tile row at a time, so that no Sq x Sk array is made.

    Args:
        mask_rows: Gives the mask of some query positions.
        lengths: Query and key positions.
        block_size: Rows and columns of a tile.
        batch: Sequences with a mask of their own; 1: shared.
        groups: Groups of heads.
        head_group: Group of each head, int [N].
    """
    size = check_block_size(block_size)
    rows, columns = (-(-length // size) for length in lengths)
    cells, words = [], [np.zeros((0, size * size // 32), np.int32)]
    for plane, row in np.ndindex(batch * groups, rows):
        first, end = row * size, min((row + 1) * size, lengths[0])
        band = np.zeros((size, columns * size), np.bool_)
        band[: end - first, : lengths[1]] = mask_rows(plane // groups, plane % groups, first, end)
        tiles = band.reshape(size, columns, size).transpose(1, 0, 2)  # [columns, size, size]
        seen = tiles.sum(axis=(1, 2))
        keys = np.minimum(size, lengths[1] - np.arange(columns) * size)
        kept = np.flatnonzero(seen)
        full = seen[kept] == (end - first) * keys[kept]
        cells.append(np.stack([np.full(len(kept), plane * rows + row), kept, full], axis=1))
        words.append(pack_bits(tiles[kept[~full]]))
    found = np.concatenate([np.zeros((0, 3), np.int64), *cells])
    return assemble((batch, groups), lengths, size, found, np.concatenate(words), head_group)


def from_block_list(
    row_ptr: npt.ArrayLike, columns: npt.ArrayLike, length: int, block_size: int, *, head_group: Any = None
) -> TileLayout:
    """The layout of whole blocks in CSR form.

    Args:
        row_ptr: int [R+1], [G, R+1] or [B|1, G, R+1], with offsets into `columns` that run on from group to group.
        columns: int [E], block column of each entry, ascending within a row.
        length: Positions of the sequence.
        block_size: Rows and columns of a block.
        head_group: Group of each head, int [N].

    Raises:
        InputError: The list is unsorted, has a block twice, or one out of range.
    """
    ptr, col = np.asarray(row_ptr), np.asarray(columns)
    if not 1 <= ptr.ndim <= 3:
        raise InputError(f"The row offsets of a block list have shape {ptr.shape}, expected [.., R+1], 1 to 3 axes.")
    bits = np.zeros((0, check_block_size(block_size) ** 2 // 32), np.int32)
    tag = np.full(col.shape, FULL, np.int32)
    ptr = ptr.reshape((1,) * (3 - ptr.ndim) + ptr.shape)
    return TileLayout(block_size, length, length, ptr, col, tag, bits, head_group)


def assemble(
    planes: tuple[int, int],
    lengths: tuple[int, int],
    block_size: int,
    cells: Array,
    words: Array,
    head_group: Any = None,
) -> TileLayout:
    """The layout of classified tiles.

    Args:
        planes: Sequences and groups.
        lengths: Query and key positions.
        block_size: Rows and columns of a tile.
        cells: int64 [E, 3], the tiles that are not empty in row-major order: tile row counted through sequences and
            groups, tile column, 1 if full.
        words: int32 [tiles that are not full, W], their bitmaps in the same order.
        head_group: Group of each head, int [N].
    """
    rows = -(-lengths[0] // block_size)
    row, column, full = cells.T
    bits, index = deduplicate(words)
    tag = np.full(len(cells), FULL, np.int32)
    tag[full == 0] = index
    offsets = np.searchsorted(row, np.arange(planes[0] * planes[1] * rows + 1))
    places = np.arange(planes[0] * planes[1])[:, None] * rows + np.arange(rows + 1)
    ptr = offsets[places].reshape(*planes, rows + 1)
    return TileLayout(block_size, *lengths, ptr, column, tag, bits, head_group)
