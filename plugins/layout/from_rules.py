"""The tile layout of an analytic mask: what the BlockMask op computes, step by step as every back end does it.

1. Bounds. For each tile, interval arithmetic on the units of its first and last positions tells of each rule whether
   it may hold somewhere in the tile and whether it surely holds everywhere (`tile_bounds`). A clause may hold if any
   of its rules may, surely holds if any surely does; the mask, if all clauses do. Listed blocks are rules of clause 0
   that surely hold in their tiles.
2. Candidates are the tiles where the mask may hold and does not surely hold. Only these are evaluated pair by pair;
   each then is empty, full or partial, whatever the bounds said, so the result does not depend on how tight they are.
3. Entries in order of sequence, group, tile row, tile column; bitmaps in order of first use, equal ones shared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from raggedrt.errors import InputError
from raggedrt.plugins.contract.mask_rules import Clauses, Rule
from raggedrt.plugins.layout.bitmaps import Array, BoolArray, check_block_size, pack_bits
from raggedrt.plugins.layout.build import assemble
from raggedrt.plugins.layout.tile_layout import TileLayout

_PAIRS_AT_ONCE = 1 << 22


def from_rules(
    clauses: Clauses,
    length: int,
    block_size: int,
    *,
    blocks: npt.ArrayLike | None = None,
    own_lengths: npt.ArrayLike | None = None,
) -> TileLayout:
    """The layout of an analytic mask over `length` positions.

    Args:
        clauses: The mask.
        length: Positions; S of the call.
        block_size: Rows and columns of a tile.
        blocks: int [G, R', K], block columns listed for each block row, added to clause 0; negative ones and those
            past the end are none, as are rows past R'. Makes G groups.
        own_lengths: int [B], positions of each sequence: ends are counted from there, and no position lies behind,
            so a tile that it cuts is full when every pair before it is visible. Makes a mask for each sequence.

    Raises:
        InputError: An array has another shape, or the block size is out of range.
    """
    size = check_block_size(block_size)
    rows = -(-length // size)
    listed = _listed(blocks, rows)  # [G, R, R]
    lengths = np.array([length]) if own_lengths is None else np.minimum(np.asarray(own_lengths, np.int64), length)
    found, words = [np.zeros((0, 3), np.int64)], [np.zeros((0, size * size // 32), np.int32)]
    effective = _with_blocks(clauses, blocks is not None)
    for sequence, own in enumerate(lengths.tolist()):
        maybe, surely = _bounds(effective, own, size, rows, listed)  # [G, R, R]
        for group in range(len(listed)):
            plane = (sequence * len(listed) + group) * rows
            cells, bits = _classified(effective, own, size, maybe[group], surely[group], listed[group])
            cells[:, 0] += plane
            found.append(cells)
            words.append(bits)
    planes = (len(lengths), len(listed))
    return assemble(planes, (length, length), size, np.concatenate(found), np.concatenate(words))


@dataclasses.dataclass(frozen=True)
class Span:
    """First and last unit of tiles: int64 arrays; empty where last < first."""

    first: Array
    last: Array


def tile_bounds(rule: Rule, queries: Span, keys: Span, units: int) -> tuple[BoolArray, BoolArray]:
    """Whether the rule may hold in a tile, and whether it surely holds in all of it, by the units of its positions.

    A step only makes a rule less sure: strided rules are never sure.
    """
    (begin_q, end_q, step_q), (begin_k, end_k, step_k) = (_resolved(r, units) for r in (rule.query, rule.key))
    low, high, step = rule.distance
    inner_q = Span(np.maximum(queries.first, begin_q), np.minimum(queries.last, end_q - 1))
    inner_k = Span(np.maximum(keys.first, begin_k), np.minimum(keys.last, end_k - 1))
    some = (inner_q.first <= inner_q.last) & (inner_k.first <= inner_k.last)
    maybe = some & (inner_k.first - inner_q.last <= high) & (inner_k.last - inner_q.first >= low)
    inside_q = (queries.first >= begin_q) & (queries.last < end_q)
    inside_k = (keys.first >= begin_k) & (keys.last < end_k)
    band = (keys.first - queries.last >= low) & (keys.last - queries.first <= high)
    surely = inside_q & inside_k & band & (max(step_q, step_k, step) == 1)
    return maybe, surely


def rule_holds(rule: Rule, query: Array, key: Array, length: int) -> BoolArray:
    """Whether the rule holds for positions, broadcast against one another."""
    units = -(-length // rule.unit)
    q, k = query // rule.unit, key // rule.unit
    low, high, step = rule.distance
    distance = k - q
    holds = (distance >= low) & (distance <= high) & (distance % step == 0)
    for value, bounds in ((q, rule.query), (k, rule.key)):
        begin, end, stride = _resolved(bounds, units)
        holds = holds & (value >= begin) & (value < end) & ((value - begin) % stride == 0)
    return np.asarray(holds, np.bool_)


def _resolved(bounds: tuple[int, int, int], units: int) -> tuple[int, int, int]:
    begin, end, step = bounds
    return begin + units if begin < 0 else begin, end + units if end < 0 else end, step


def _with_blocks(clauses: Clauses, has_blocks: bool) -> Clauses:
    """Listed blocks need a clause 0 to belong to."""
    return [[]] if has_blocks and not clauses else clauses


def _listed(blocks: npt.ArrayLike | None, rows: int) -> BoolArray:
    """Which tiles are listed: bool [G, R, R]."""
    if blocks is None:
        return np.zeros((1, rows, rows), np.bool_)
    given = np.asarray(blocks)
    if given.ndim != 3 or given.dtype.kind not in "iu":
        raise InputError(
            f"The listed blocks of a mask are {given.dtype} of shape {given.shape}, expected integers [groups, block "
            "rows, blocks per row]."
        )
    listed = np.zeros((given.shape[0], rows, rows), np.bool_)
    given = given[:, :rows]
    places = np.argwhere((given >= 0) & (given < rows))
    listed[places[:, 0], places[:, 1], given[tuple(places.T)]] = True
    return listed


def _bounds(clauses: Clauses, length: int, size: int, rows: int, listed: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Where the mask may hold and where it surely holds: bool [G, R, R] each."""
    first = np.arange(rows) * size
    last = np.minimum(first + size, length) - 1  # before the first where the tile row lies past the end
    inside = (first < length)[:, None] & (first < length)
    maybe = surely = np.broadcast_to(inside, listed.shape)
    for place, clause in enumerate(clauses):
        clause_maybe = clause_surely = listed if place == 0 else np.zeros_like(listed)
        for rule in clause:
            units = -(-length // rule.unit)
            queries = Span(first[:, None] // rule.unit, last[:, None] // rule.unit)
            keys = Span(queries.first.T, queries.last.T)
            rule_maybe, rule_surely = tile_bounds(rule, queries, keys, units)
            clause_maybe, clause_surely = clause_maybe | rule_maybe, clause_surely | rule_surely
        maybe, surely = maybe & clause_maybe, surely & clause_surely
    return maybe, surely


def _classified(
    clauses: Clauses, length: int, size: int, maybe: BoolArray, surely: BoolArray, listed: BoolArray
) -> tuple[Array, Array]:
    """The tiles of one plane as `assemble` takes them: cells int64 [E, 3] and bitmaps of those not full."""
    state = surely.astype(np.int64) * 2  # 2 full, 1 partial
    words = [np.zeros((0, size * size // 32), np.int32)]
    for candidates in _chunks(np.argwhere(maybe & ~surely), max(1, _PAIRS_AT_ONCE // size**2)):
        tiles = _tiles(clauses, length, size, candidates, listed[tuple(candidates.T)])
        seen = tiles.sum(axis=(1, 2))
        full = seen == np.minimum(size, length - candidates * size).prod(axis=1)
        state[tuple(candidates.T)] = np.where(full, 2, seen > 0)
        words.append(pack_bits(tiles[(seen > 0) & ~full]))
    kept = np.argwhere(state)
    full = state[tuple(kept.T)] == 2
    return np.concatenate([kept, full[:, None]], axis=1), np.concatenate(words)


def _chunks(array: Array, size: int) -> Iterator[Array]:
    for start in range(0, len(array), size):
        yield array[start : start + size]


def _tiles(clauses: Clauses, length: int, size: int, candidates: Array, listed: BoolArray) -> BoolArray:
    """The mask of each candidate tile (row, column), pair by pair: bool [P, size, size]."""
    query = (candidates[:, 0, None] * size + np.arange(size))[:, :, None]
    key = (candidates[:, 1, None] * size + np.arange(size))[:, None, :]
    visible = (query < length) & (key < length)
    for place, clause in enumerate(clauses):
        holds = np.zeros_like(visible) | (listed[:, None, None] if place == 0 else False)
        for rule in clause:
            holds |= rule_holds(rule, query, key, length)
        visible &= holds
    return visible
