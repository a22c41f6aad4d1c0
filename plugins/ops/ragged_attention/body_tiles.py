"""Which keys a tile list shows to a query, as standard ops (part of RaggedAttention's body).

The list becomes a table with one number per tile, and the bitmaps one with one element per bit; each pair looks up its
tile by positions, then its bit. Numbers are int32, so that a look-up needs no more memory than the scores.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from raggedrt.plugins.body_builder import BodyBuilder
from raggedrt.plugins.layout.bitmaps import WORD_BITS

_BOOL, _INT32, _INT64 = ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64
_FIRST_BIT = 2
"""In the table of elements: 0 is hidden, 1 is visible, then come the bits."""


def in_tiles(b: BodyBuilder, place_q: ir.Value, place_k: ir.Value, batch: ir.Value) -> ir.Value:
    """Whether the tile list shows the key to the query: bool [1 or N, B, Mq, Mk].

    Args:
        b: The body.
        place_q: Query positions int64 [1 or B, Mq, 1].
        place_k: Key positions int64 [1 or B, 1, Mk].
        batch: B, int64 [1].
    """
    size = b.constant(b.form.integer("block_size"), _INT32)
    rows = b.op("Sub", b.dim(b.input("tile_ptr"), 2), b.constant([1]))  # [1]: R
    columns = _columns(b)
    table, planes = _tile_table(b, rows, columns)
    plane = b.cast(b.op("Mul", _plane_of(b, batch, planes), rows), _INT32)  # first row: [N, B, 1, 1]
    place_q, place_k, rows, columns = (b.cast(value, _INT32) for value in (place_q, place_k, rows, columns))
    row, column = b.op("Div", place_q, size), b.op("Div", place_k, size)
    known = b.op("And", _within(b, place_q, row, rows), _within(b, place_k, column, columns))  # [B, Mq, Mk]
    row = b.op("Mul", b.op("Add", plane, row), columns)  # [N, B, Mq, 1]
    cell = b.op("Add", row, b.op("Add", column, b.constant(1, _INT32)))  # cell 0 is hidden
    cell = b.op("Where", known, cell, b.constant(0, _INT32))
    start = b.op("Gather", table, cell, axis=0)  # [N, B, Mq, Mk]
    within = b.op("Add", b.op("Mul", b.op("Mod", place_q, size), size), b.op("Mod", place_k, size))
    is_partial = b.op("GreaterOrEqual", start, b.constant(_FIRST_BIT, _INT32))
    element = b.op("Where", is_partial, b.op("Add", start, within), start)
    return b.op("Gather", _elements(b), element, axis=0)


def _columns(b: BodyBuilder) -> ir.Value:
    """Tile columns that have an entry: int64 [1]."""
    listed = b.concat(b.constant([-1]), b.cast(b.input("tile_col"), _INT64))
    return b.op("Add", b.reduce("ReduceMax", listed, 0), b.constant([1]))


def _tile_table(b: BodyBuilder, rows: ir.Value, columns: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Start of each tile among the elements, int32 [1 + planes * R * columns]; [D, G] of tile_ptr, the planes."""
    ptr = b.cast(b.input("tile_ptr"), _INT64)
    column = b.cast(b.input("tile_col"), _INT64)
    entries, planes = b.dim(column, 0), b.dims(ptr, 0, 2)
    ends = _flat_ends(b, ptr, rows)
    # the row of an entry is the number of rows that end before it
    ended = b.fill(b.op("Add", entries, b.constant([1])), 0, _INT64)
    ones = b.op("Expand", b.constant(1), b.dims(ends, 0))
    ended = b.op("ScatterElements", ended, ends, ones, axis=0, reduction="add")
    row = b.op("CumSum", b.slice(ended, 0, entries), b.constant(0))
    bits = b.constant(b.form.integer("block_size") ** 2)
    tag = b.cast(b.input("tile_tag"), _INT64)
    start = b.op(
        "Where",
        b.op("Less", tag, b.constant(0)),
        b.constant(1),
        b.op("Add", b.op("Mul", tag, bits), b.constant(_FIRST_BIT)),
    )
    count = b.product(b.dim(ends, 0), columns)
    cell = b.op("Add", b.op("Mul", row, columns), b.op("Add", column, b.constant(1)))
    table = b.fill(b.op("Add", count, b.constant([1])), 0, _INT32)
    # entries past the last row, if any, lie past the table: they go to cell 0, as hidden as before
    exists = b.op("LessOrEqual", cell, count)
    cell, start = (b.op("Where", exists, value, b.constant(0)) for value in (cell, start))
    return b.op("ScatterElements", table, cell, b.cast(start, _INT32), axis=0), planes


def _flat_ends(b: BodyBuilder, ptr: ir.Value, rows: ir.Value) -> ir.Value:
    """End of each tile row: int64 [D * G * R]."""
    ends = b.slice(ptr, 1, b.dim(ptr, 2), axis=2)
    return b.reshape(ends, b.product(b.dim(ptr, 0), b.dim(ptr, 1), rows))


def _within(b: BodyBuilder, place: ir.Value, tile: ir.Value, count: ir.Value) -> ir.Value:
    return b.op("And", b.op("GreaterOrEqual", place, b.constant(0, _INT32)), b.op("Less", tile, count))


def _plane_of(b: BodyBuilder, batch: ir.Value, planes: ir.Value) -> ir.Value:
    """Plane of tile_ptr of each head and sequence: int64 [1 or N, B, 1, 1]."""
    sequences, groups = b.slice(planes, 0, 1), b.slice(planes, 1, 2)
    last = b.op("Sub", sequences, b.constant([1]))
    sequence = b.op("Min", b.range(batch), last)  # one is shared by all
    has_groups = "head_group" in b.form.inputs
    group = b.cast(b.input("head_group"), _INT64) if has_groups else b.range(groups)
    return b.op("Add", b.op("Mul", b.unsqueeze(sequence, 1, 2), groups), b.unsqueeze(group, 1, 2, 3))


def _elements(b: BodyBuilder) -> ir.Value:
    """What is hidden, what is visible, then each bit of each bitmap: bool [2 + P * s * s]."""
    words = b.cast(b.input("tile_bits"), _INT64)
    words = b.op("Where", b.op("Less", words, b.constant(0)), b.op("Add", words, b.constant(2**32)), words)
    shifted = b.op("Div", b.unsqueeze(words, 2), b.constant(2 ** np.arange(WORD_BITS, dtype=np.int64)))
    bits = b.cast(b.op("Mod", shifted, b.constant(2)), _BOOL)  # [P, W, 32]
    count = b.product(*(b.dim(bits, axis) for axis in range(3)))
    return b.concat(b.constant([False, True], _BOOL), b.reshape(bits, count))
