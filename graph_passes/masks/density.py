"""Kept share of query-key pairs without padding, exactly and without an S x S array where a closed form is easy."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from raggedrt.graph_passes.masks.algebra import (
    And,
    Bias,
    BlockBand,
    Causal,
    Everything,
    GlobalTokens,
    KeyPadding,
    Or,
    Prefix,
    QueryPadding,
    SameSegment,
    Term,
    Window,
)
from raggedrt.graph_passes.masks.bigbird import BigBird
from raggedrt.graph_passes.masks.expressions import leaves
from raggedrt.graph_passes.masks.pairs import BoolArray, IntArray, Pairs

CHUNK = 2**22
"""Pairs that are evaluated at a time."""

WITHOUT_PADDING = (Everything, KeyPadding, QueryPadding, Bias, SameSegment)
"""Terms that hold everywhere in one document without padding."""
BY_DISTANCE = (*WITHOUT_PADDING, Causal, Window)
BY_SEGMENT = (*BY_DISTANCE, GlobalTokens, BlockBand, Prefix)
BY_BLOCK = (*WITHOUT_PADDING, BlockBand, BigBird)


@functools.lru_cache(maxsize=64)
def kept_pairs(expression: Term, length: int) -> int:
    """Visible pairs of one document of `length` tokens without padding."""
    terms = list(leaves(expression))
    if all(isinstance(term, (*BY_DISTANCE, GlobalTokens)) for term in terms):
        return _by_distance_and_globals(expression, length)
    if all(isinstance(term, BY_BLOCK) for term in terms):
        return _by_block(expression, length, math.gcd(*(t.block for t in terms if isinstance(t, BlockBand | BigBird))))
    if all(isinstance(term, BY_SEGMENT) and getattr(term, "dilation", 1) == 1 for term in terms):
        return _by_segment(expression, terms, length)
    slots = np.arange(length, dtype=np.int64)
    return _count(expression, slots, slots, length)


def _holds(expression: Term, query: IntArray, key: IntArray, length: int) -> BoolArray:
    """At pairs that broadcast against each other."""
    shape = np.broadcast_shapes(query.shape, key.shape)
    valid = np.ones((1,) * len(shape), dtype=np.bool_)
    same = np.zeros((1,) * len(shape), dtype=np.int64)
    pairs = Pairs(query, key, valid, valid, length, same, same)
    return np.broadcast_to(expression.holds(pairs), shape)


def _count(expression: Term, rows: IntArray, columns: IntArray, length: int) -> int:
    """Pairs of the given rows and columns, a few rows at a time."""
    step = max(1, CHUNK // max(1, len(columns)))
    return sum(
        int(_holds(expression, rows[start : start + step, None], columns[None, :], length).sum())
        for start in range(0, len(rows), step)
    )


def _by_distance_and_globals(expression: Term, length: int) -> int:
    """Along diagonals as if there were no global tokens, but for their rows and columns, which are looked at."""
    listed = {p for term in leaves(expression) if isinstance(term, GlobalTokens) for p in term.positions if p < length}
    special = np.array(sorted(listed), dtype=np.int64)
    local = _without(expression, GlobalTokens)
    distances = np.arange(-(length - 1), length, dtype=np.int64)
    shown = _holds(local, np.zeros_like(distances), distances, length)
    total = int((shown * (length - np.abs(distances))).sum())
    if not len(special):
        return total
    slots = np.arange(length, dtype=np.int64)
    others = np.setdiff1d(slots, special)

    def on_cross(term: Term) -> int:
        return _count(term, special, slots, length) + _count(term, others, special, length)

    return total - on_cross(local) + on_cross(expression)


def _without(expression: Term, kind: type[GlobalTokens]) -> Term:
    """The expression where no term of a kind holds."""
    if isinstance(expression, And | Or):
        return dataclasses.replace(expression, operands=tuple(_without(o, kind) for o in expression.operands))
    return Or(()) if isinstance(expression, kind) else expression


def _by_segment(expression: Term, terms: list[Term], length: int) -> int:
    """Along each row between the keys at which a term may change: one key stands for its segment."""
    total, changes = 0, 2 + sum(2 * len(getattr(term, "positions", (0,))) for term in terms)
    for first in range(0, length, step := max(1, CHUNK // changes)):
        query = np.arange(first, min(first + step, length), dtype=np.int64)
        edges = [np.zeros_like(query), np.full_like(query, length)]
        for term in terms:
            edges += [np.clip(edge + 0 * query, 0, length) for edge in _edges(term, query)]
        starts = np.sort(np.stack(edges, axis=1), axis=1)  # [Q, X]
        shown = _holds(expression, query[:, None], np.minimum(starts[:, :-1], length - 1), length)
        total += int((shown * np.diff(starts, axis=1)).sum())
    return total


def _edges(term: Term, query: IntArray) -> list[IntArray]:
    """Keys at which a term begins or ceases to hold, for each query; beyond the row where it does not."""
    beyond = np.iinfo(np.int32).max
    if isinstance(term, Causal):
        return [query + 1]
    if isinstance(term, Window):
        return [query - term.left, query + term.right + 1 if term.right >= 0 else query + beyond]
    if isinstance(term, BlockBand):
        block = query // term.block
        return [(block - term.left) * term.block, (block + term.right + 1) * term.block]
    if isinstance(term, Prefix):
        return [np.asarray(term.size)]
    if isinstance(term, GlobalTokens):
        return [np.asarray(edge) for position in term.positions for edge in (position, position + 1)]
    return []


def _by_block(expression: Term, length: int, block: int) -> int:
    """One pair of each tile, weighed with the pairs of the tile."""
    first = np.arange(0, length, block, dtype=np.int64)
    sizes = np.minimum(first + block, length) - first
    shown = _holds(expression, first[:, None], first[None, :], length)
    return int(sizes @ shown.astype(np.int64) @ sizes)
