"""Masks as the rules of the BlockMask op, which makes their tiles for the length of the call."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from raggedrt.graph_passes.masks.algebra import (
    And,
    Bias,
    BlockBand,
    Causal,
    Everything,
    GlobalTokens,
    Or,
    Prefix,
    Strided,
    Term,
    Window,
)
from raggedrt.graph_passes.masks.bigbird import BigBird
from raggedrt.graph_passes.masks.short_rows import ShortRow
from raggedrt.plugins.contract.mask_rules import UNBOUNDED, Rule, causal, columns, rows, window

MAX_CLAUSES = 64
"""Most clauses of an expression: and-ed terms within or multiply out."""

Clauses = tuple[tuple[Rule, ...], ...]
"""Every clause must hold, by at least one of its rules."""


def clauses_of(expression: Term) -> Clauses | None:
    """The rules of an expression; None where a term has none (padding, documents, listed blocks) or there are too many.

    No clause at all shows everything.
    """
    if isinstance(expression, And):
        parts = [clauses_of(operand) for operand in expression.operands]
        found = tuple(dict.fromkeys(itertools.chain.from_iterable(part for part in parts if part is not None)))
        return None if None in parts or len(found) > MAX_CLAUSES else found
    if isinstance(expression, Or):
        return _either([clauses_of(operand) for operand in expression.operands])
    if isinstance(expression, Everything | Bias):
        return ()
    if isinstance(expression, BigBird) and expression.random:
        return None
    if isinstance(expression, Causal | Window | GlobalTokens | BlockBand | Prefix | Strided | BigBird | ShortRow):
        return (tuple(_rules(expression)),)
    return None


def _either(parts: list[Clauses | None]) -> Clauses | None:
    """Or distributes over and: one clause for each choice of a clause of every operand."""
    found: Clauses = ((),)
    for part in parts:
        if part is None or len(found) * len(part) > MAX_CLAUSES:
            return None
        found = tuple(dict.fromkeys((*clause, *more) for clause in found for more in part))
    return tuple(tuple(dict.fromkeys(clause)) for clause in found)


def _rules(term: Causal | Window | GlobalTokens | BlockBand | Prefix | Strided | BigBird | ShortRow) -> Iterator[Rule]:
    """Rules of which one must hold."""
    match term:
        case Causal():
            yield causal()
        case Window():
            yield window(term.left, term.right, dilation=term.dilation)
        case BlockBand():
            yield window(term.left, term.right, unit=term.block)
        case Prefix():
            yield columns(0, term.size)
        case Strided():
            yield columns(term.offset, UNBOUNDED, step=term.stride)
        case BigBird():
            yield window(term.window // 2, term.window // 2, unit=term.block)
            for begin, end in ((0, term.front), (-term.back, UNBOUNDED)):
                if begin != end and (end != UNBOUNDED or begin):
                    yield rows(begin, end, unit=term.block)
                    yield columns(begin, end, unit=term.block)
        case ShortRow():  # where one unit holds the whole row, the last unit is the first one
            yield rows(-1, 1, unit=term.size)
        case GlobalTokens():
            for begin, end in _runs(term.positions):
                if term.rows:
                    yield rows(begin, end)
                if term.columns:
                    yield columns(begin, end)


def _runs(positions: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Begin and end of runs of ascending positions."""
    for _, run in itertools.groupby(enumerate(positions), lambda item: item[1] - item[0]):
        numbers = [position for _, position in run]
        yield numbers[0], numbers[-1] + 1
