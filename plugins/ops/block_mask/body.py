"""Function body of BlockMask: bounds for every tile, pairs only in tiles that the bounds leave open.

The steps are those of `plugins.layout.from_rules`. Symbols: D sequences with a mask of their own (1: shared), G groups,
R tile rows, s block size, C candidate tiles, E entries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from raggedrt.plugins.body_builder import BodyBuilder
from raggedrt.plugins.contract.mask_rules import Clauses, decode
from raggedrt.plugins.layout.bitmaps import WORD_BITS, check_block_size, words_per_tile
from raggedrt.plugins.ops.block_mask.body_rules import Positions, pairs_hold, tile_bounds

_BOOL, _INT32, _INT64 = ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64


@dataclasses.dataclass(frozen=True)
class _Grid:
    """The tiles of a call."""

    size: int
    lengths: ir.Value
    """int64 [D]."""
    rows: ir.Value
    """int64 [1]: R."""
    shape: ir.Value
    """int64 [4]: D, G, R, R."""
    listed: ir.Value | None
    """bool [1, G, R, R]."""


def build(b: BodyBuilder) -> Sequence[ir.Value]:
    """The op's outputs as standard ops."""
    clauses: Clauses = decode(b.form.integers("rules"))
    if "blocks" in b.form.inputs and not clauses:
        clauses = [[]]
    grid = _grid(b, check_block_size(b.form.integer("block_size")))
    maybe, surely = _bounds(b, clauses, grid)
    candidates = b.op("NonZero", b.op("And", maybe, b.op("Not", surely)))  # [4, C]
    tiles, existing = _pairs(b, clauses, grid, candidates)  # bool [C, s * s], int64 [C]
    seen = b.reduce("ReduceSum", b.cast(tiles, _INT64), 1, keepdims=False)  # [C]
    full = b.op("Equal", seen, existing)
    partial = b.op("And", b.op("Greater", seen, b.constant(0)), b.op("Not", full))
    bits, place, index = _bitmaps(b, tiles, partial, grid.size)
    state = b.op("ScatterElements", b.cast(full, _INT64), place, b.op("Add", index, b.constant(2)), axis=0)  # [C]
    states = _scattered(b, grid, surely, candidates, state)  # [D * G * R * R]: 0 empty, 1 full, 2 + bitmap
    kept = b.reshape(b.op("NonZero", b.cast(states, _BOOL)), b.constant([-1]))  # [E]
    tag = b.op("Sub", b.op("Gather", states, kept, axis=0), b.constant(2))
    column = b.op("Mod", kept, b.op("Max", grid.rows, b.constant([1])))
    outputs = (_row_ends(b, grid, states), column, tag, bits)
    return [b.cast(value, _INT32) for value in outputs]


def _grid(b: BodyBuilder, size: int) -> _Grid:
    length = b.dim(b.input("max_seqlen"), 0)
    lengths = length
    if "cu_seqlens" in b.form.inputs:
        bounds = b.cast(b.input("cu_seqlens"), _INT64)
        count = b.dim(bounds, 0)
        lengths = b.op("Sub", b.slice(bounds, 1, count), b.slice(bounds, 0, b.op("Sub", count, b.constant([1]))))
        lengths = b.op("Min", lengths, length)
    rows = b.op("Div", b.op("Add", length, b.constant([size - 1])), b.constant([size]))
    listed = _listed(b, rows) if "blocks" in b.form.inputs else None
    groups = b.constant([1]) if listed is None else b.dim(b.input("blocks"), 0)
    shape = b.concat(b.dim(lengths, 0), groups, rows, rows)
    return _Grid(size, lengths, rows, shape, listed)


def _listed(b: BodyBuilder, rows: ir.Value) -> ir.Value:
    """Which tiles `blocks` lists: bool [1, G, R, R]. Entries that are none go to a column that is cut off."""
    blocks = b.cast(b.input("blocks"), _INT64)  # [G, R', K]
    end = b.op("Min", rows, b.dim(blocks, 1))
    blocks = b.slice(blocks, 0, end, axis=1)
    exists = b.op("And", b.op("GreaterOrEqual", blocks, b.constant(0)), b.op("Less", blocks, rows))
    column = b.op("Where", exists, blocks, rows)
    groups, one = b.dim(blocks, 0), b.constant([1])
    empty = b.fill(b.concat(groups, end, b.op("Add", rows, one)), 0, _INT64)
    ones = b.op("Expand", b.constant(1), b.dims(column, 0))
    marked = b.slice(b.op("ScatterElements", empty, column, ones, axis=2), 0, rows, axis=2)
    missing = b.fill(b.concat(groups, b.op("Sub", rows, end), rows), 0, _INT64)
    return b.unsqueeze(b.cast(b.concat(marked, missing, axis=1), _BOOL), 0)


def _bounds(b: BodyBuilder, clauses: Clauses, grid: _Grid) -> tuple[ir.Value, ir.Value]:
    """Where the mask may hold and where it surely holds: bool [D, G, R, R] each."""
    first = b.op("Mul", b.range(grid.rows), b.constant(grid.size))  # [R]
    lengths = b.unsqueeze(grid.lengths, 1, 2, 3)  # [D, 1, 1, 1]
    query = b.unsqueeze(first, 1)  # [R, 1]
    queries, keys = (
        Positions(start, b.op("Sub", b.op("Min", b.op("Add", start, b.constant(grid.size)), lengths), b.constant(1)))
        for start in (query, first)
    )
    inside = b.op("And", b.op("Less", query, lengths), b.op("Less", first, lengths))  # [D, 1, R, R]
    inside = b.op("And", inside, b.cast(b.fill(grid.shape, 1, _INT64), _BOOL))
    maybe = surely = inside
    for place, clause in enumerate(clauses):
        listed = grid.listed if place == 0 else None
        found = [] if listed is None else [(listed, listed)]
        found += [tile_bounds(b, rule, queries, keys, lengths) for rule in clause]
        maybe = b.op("And", maybe, any_of(b, [one for one, _ in found]))
        surely = b.op("And", surely, any_of(b, [one for _, one in found]))
    return maybe, surely


def any_of(b: BodyBuilder, conditions: Sequence[ir.Value]) -> ir.Value:
    """Or of all; false of none."""
    result = None
    for condition in conditions:
        result = condition if result is None else b.op("Or", result, condition)
    return b.constant(False, _BOOL) if result is None else result


def _pairs(b: BodyBuilder, clauses: Clauses, grid: _Grid, candidates: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The mask in each candidate tile, bool [C, s * s], and how many pairs of positions exist there, int64 [C]."""
    size = grid.size
    sequence, _, row, column = (b.op("Gather", candidates, b.constant(axis), axis=0) for axis in range(4))
    length = b.unsqueeze(b.op("Gather", grid.lengths, sequence, axis=0), 1)  # [C, 1]
    within = b.constant(np.arange(size)[None, :])
    places = [b.op("Add", b.op("Mul", b.unsqueeze(tile, 1), b.constant(size)), within) for tile in (row, column)]
    exist = [b.op("Less", place, length) for place in places]  # [C, s] each
    query, key = b.unsqueeze(places[0], 2), b.unsqueeze(places[1], 1)
    visible = b.op("And", b.unsqueeze(exist[0], 2), b.unsqueeze(exist[1], 1))  # [C, s, s]
    for place, clause in enumerate(clauses):
        holds = [pairs_hold(b, rule, query, key, b.unsqueeze(length, 2)) for rule in clause]
        if place == 0 and grid.listed is not None:
            listed = b.op("Expand", grid.listed, grid.shape)
            holds.append(b.unsqueeze(b.op("GatherND", listed, b.op("Transpose", candidates, perm=[1, 0])), 1, 2))
        visible = b.op("And", visible, any_of(b, holds))
    counts = [b.reduce("ReduceSum", b.cast(each, _INT64), 1, keepdims=False) for each in exist]
    flat = b.reshape(visible, b.dim(candidates, 1), b.constant([size * size]))
    return flat, b.op("Mul", *counts)


def _bitmaps(b: BodyBuilder, tiles: ir.Value, partial: ir.Value, size: int) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Distinct bitmaps int64 [P, W]; place among the candidates and bitmap index of each partial tile."""
    place = b.reshape(b.op("NonZero", partial), b.constant([-1]))
    words = b.constant([words_per_tile(size)])
    bits = b.reshape(b.op("Gather", tiles, place, axis=0), b.dim(place, 0), words, b.constant([WORD_BITS]))
    weights = b.constant(2 ** np.arange(WORD_BITS, dtype=np.int64))
    values = b.reduce("ReduceSum", b.op("Mul", b.cast(bits, _INT64), weights), 2, keepdims=False)  # [n, W]
    values = b.op("Where", b.op("Less", values, b.constant(2**31)), values, b.op("Sub", values, b.constant(2**32)))
    # an empty bitmap in front, because there may be no other one; a partial tile never has it
    values = b.concat(b.fill(b.concat(b.constant([1]), words), 0, _INT64), values)
    distinct, _, inverse, _ = b.ops("Unique", 4, values, axis=0, sorted=0)
    distinct = b.slice(distinct, 1, b.dim(distinct, 0))
    index = b.op("Sub", b.slice(inverse, 1, b.dim(inverse, 0)), b.constant(1))
    return distinct, place, index


def _scattered(b: BodyBuilder, grid: _Grid, surely: ir.Value, candidates: ir.Value, state: ir.Value) -> ir.Value:
    """State of every tile, int64 [D * G * R * R]."""
    strides = [grid.rows, grid.rows, b.slice(grid.shape, 1, 2)]
    cell = b.op("Gather", candidates, b.constant(0), axis=0)
    for axis, stride in zip((1, 2, 3), reversed(strides), strict=True):
        cell = b.op("Add", b.op("Mul", cell, stride), b.op("Gather", candidates, b.constant(axis), axis=0))
    flat = b.reshape(b.cast(surely, _INT64), b.product(*(b.slice(grid.shape, axis, axis + 1) for axis in range(4))))
    return b.op("ScatterElements", flat, cell, state, axis=0)


def _row_ends(b: BodyBuilder, grid: _Grid, states: ir.Value) -> ir.Value:
    """tile_ptr, int64 [D, G, R + 1]."""
    kept = b.reshape(b.cast(b.cast(states, _BOOL), _INT64), grid.shape)
    counts = b.reduce("ReduceSum", kept, 3, keepdims=False)  # [D, G, R]
    planes = b.product(b.slice(grid.shape, 0, 1), b.slice(grid.shape, 1, 2))
    flat = b.reshape(counts, b.op("Mul", planes, grid.rows))
    ends = b.op("CumSum", b.concat(b.constant([0]), flat), b.constant(0))
    row = b.range(b.op("Add", grid.rows, b.constant([1])))
    place = b.op("Add", b.op("Mul", b.unsqueeze(b.range(planes), 1), grid.rows), row)  # [D * G, R + 1]
    table = b.op("Gather", ends, place, axis=0)
    return b.reshape(table, b.slice(grid.shape, 0, 2), b.op("Add", grid.rows, b.constant([1])))
