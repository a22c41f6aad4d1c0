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
BY_BLOCK = (*WITHOUT_PADDING, BlockBand, BigBird)


@functools.lru_cache(maxsize=64)
def kept_pairs(expression: Term, length: int) -> int:
    """Visible pairs of one document of `length` tokens without padding."""
    terms = list(leaves(expression))
    if all(isinstance(term, (*BY_DISTANCE, GlobalTokens)) for term in terms):
        return _by_distance_and_globals(expression, length)
    if all(isinstance(term, BY_BLOCK) for term in terms):
        return _by_block(expression, length, math.gcd(*(t.block for t in terms if isinstance(t, BlockBand | BigBird))))
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


def _by_block(expression: Term, length: int, block: int) -> int:
    """One pair of each tile, weighed with the pairs of the tile."""
    first = np.arange(0, length, block, dtype=np.int64)
    sizes = np.minimum(first + block, length) - first
    shown = _holds(expression, first[:, None], first[None, :], length)
    return int(sizes @ shown.astype(np.int64) @ sizes)
