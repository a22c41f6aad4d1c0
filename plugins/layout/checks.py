"""What must hold of the arrays of a tile layout, and what to say where it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raggedrt.errors import InputError
from raggedrt.plugins.layout.bitmaps import FULL, Array, check_block_size, unpack_bits, words_per_tile

if TYPE_CHECKING:
    from raggedrt.plugins.layout.tile_layout import TileLayout

_AXES = {
    "tile_ptr": ("sequences or 1", "groups", "tile rows + 1"),
    "tile_col": ("entries",),
    "tile_tag": ("entries",),
    "tile_bits": ("bitmaps", "words"),
    "head_group": ("heads",),
}


def checked_arrays(layout: TileLayout) -> dict[str, Array]:
    """The arrays as int32, read-only, after every check.

    Raises:
        InputError: What the layout says is impossible; the message names the array and the place.
    """
    check_block_size(layout.block_size)
    arrays = {name: _integers(name, getattr(layout, name)) for name in _AXES if getattr(layout, name) is not None}
    _check_rows(layout, arrays["tile_ptr"], arrays["tile_col"])
    _check_columns(layout, arrays["tile_ptr"], arrays["tile_col"])
    _check_bitmaps(layout, arrays["tile_ptr"], arrays["tile_tag"], arrays["tile_col"], arrays["tile_bits"])
    if "head_group" in arrays:
        _check_range("head_group", arrays["head_group"], 0, arrays["tile_ptr"].shape[1], "a group")
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def _integers(name: str, value: Any) -> Array:
    array = np.asarray(value)
    axes = _AXES[name]
    if array.ndim != len(axes):
        raise InputError(f"{name} of a tile layout has shape {array.shape}, expected [{', '.join(axes)}].")
    if array.dtype.kind not in "iu":
        raise InputError(f"{name} of a tile layout holds {array.dtype}, expected integers of 32 bits.")
    if array.size and not -(2**31) <= int(array.min()) <= int(array.max()) < 2**31:
        raise InputError(f"{name} of a tile layout holds numbers beyond 32 bits.")
    return np.array(array, np.int32, order="C")


def _check_rows(layout: TileLayout, ptr: Array, col: Array) -> None:
    if layout.query_length < 0 or layout.key_length < 0:
        raise InputError(f"A tile layout covers {layout.query_length} x {layout.key_length} positions.")
    rows = -(-layout.query_length // layout.block_size)
    if not ptr.shape[1] or ptr.shape[2] != rows + 1:
        raise InputError(
            f"tile_ptr of a tile layout has shape {ptr.shape}, expected at least one group and {rows + 1} "
            f"numbers for {layout.query_length} positions in blocks of {layout.block_size}."
        )
    flat = ptr.reshape(ptr.shape[0] * ptr.shape[1], rows + 1)
    if (np.diff(flat, axis=1) < 0).any():
        place = tuple(int(i) for i in np.argwhere(np.diff(ptr, axis=2) < 0)[0])
        raise InputError(f"tile_ptr of a tile layout decreases after {place}; rows must follow one another.")
    starts, ends = flat[:, 0], flat[:, -1]
    if not np.array_equal([*starts, len(col)], [0, *ends]):
        raise InputError(
            f"tile_ptr of a tile layout must start with 0, each group where the one before ends, and end with the "
            f"{len(col)} entries of tile_col; it starts groups at {starts.tolist()} and ends them at {ends.tolist()}."
        )


def _check_columns(layout: TileLayout, ptr: Array, col: Array) -> None:
    _check_range("tile_col", col, 0, -(-layout.key_length // layout.block_size), "a tile column")
    starts_row = np.zeros(len(col) + 1, np.bool_)
    starts_row[ptr.reshape(-1)] = True
    wrong = np.flatnonzero((np.diff(col) <= 0) & ~starts_row[1:-1]) if len(col) else col
    if len(wrong):
        place = int(wrong[0])
        kind = "twice" if col[place] == col[place + 1] else f"before {col[place + 1]}"
        raise InputError(
            f"tile_col of a tile layout has column {col[place]} {kind} in one row (entry {place}); the columns of a "
            "row must ascend, each once."
        )


def _check_bitmaps(layout: TileLayout, ptr: Array, tag: Array, col: Array, bits: Array) -> None:
    if tag.shape != col.shape:
        raise InputError(f"tile_tag of a tile layout has {len(tag)} entries and tile_col {len(col)}; expected equal.")
    if bits.shape[1] != words_per_tile(layout.block_size):
        raise InputError(
            f"tile_bits of a tile layout has {bits.shape[1]} words per bitmap, expected "
            f"{words_per_tile(layout.block_size)} for blocks of {layout.block_size}."
        )
    _check_range("tile_tag", tag, FULL, len(bits), "-1 (full) or a bitmap")
    counts = np.diff(ptr, axis=2).reshape(-1)
    row = np.repeat(np.arange(len(counts)) % max(1, ptr.shape[2] - 1), counts)
    _check_edges(layout, row, tag, col, bits)


def _check_edges(layout: TileLayout, row: Array, tag: Array, col: Array, bits: Array) -> None:
    """Bits of positions that do not exist are 0."""
    size = layout.block_size
    for name, tile, length, axis in (("query", row, layout.query_length, 1), ("key", col, layout.key_length, 2)):
        kept = length % size
        last = tag[(tile == length // size) & (tag != FULL)] if kept else tag[:0]
        outside = np.take(unpack_bits(bits[last], size), np.arange(kept or size, size), axis=axis)
        if outside.any():
            raise InputError(
                f"tile_bits of a tile layout has a bit for a {name} position of {length} or more, which does not exist."
            )


def _check_range(name: str, array: Array, low: int, end: int, what: str) -> None:
    outside = np.flatnonzero((array < low) | (array >= end))
    if len(outside):
        place = int(outside[0])
        raise InputError(
            f"{name}[{place}] of a tile layout is {array[place]}, expected {what}: {low} to {end - 1}, both included."
        )
