"""Building expressions: and/or in one canonical form, and JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from raggedrt.errors import InputError
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
    Strided,
    Term,
    Window,
)
from raggedrt.graph_passes.masks.bigbird import BigBird
from raggedrt.graph_passes.masks.block_list import BlockList
from raggedrt.graph_passes.masks.short_rows import ShortRow

TERM_TYPES = {
    term.name: term
    for term in (
        Everything,
        KeyPadding,
        QueryPadding,
        Causal,
        Window,
        GlobalTokens,
        BlockBand,
        Prefix,
        Strided,
        SameSegment,
        Bias,
        BigBird,
        BlockList,
        ShortRow,
    )
}
"""Every kind of term by its name in JSON and in short specs."""

MAX_DEPTH = 32
"""Nesting of and/or that is read."""


def all_terms(*operands: Term) -> Term:
    """And: flat, without duplicates, windows drawn together."""
    parts = list(dict.fromkeys(_flat(And, operands)))
    parts = [part for part in parts if part != Everything()]
    windows = [part for part in parts if isinstance(part, Window)]
    if len(windows) > 1:
        rest = [part for part in parts if not isinstance(part, Window)]
        parts = [*rest, intersection(windows)]
    return _join(And, [part for part in parts if part != Window()])


def any_term(*operands: Term) -> Term:
    """Or: flat and without duplicates."""
    parts = list(dict.fromkeys(_flat(Or, operands)))
    if any(part in (Everything(), Window()) for part in parts):
        return Everything()
    return _join(Or, parts)


def _flat(kind: type[And] | type[Or], operands: tuple[Term, ...]) -> Iterator[Term]:
    for operand in operands:
        if isinstance(operand, kind):
            yield from _flat(kind, operand.operands)
        else:
            yield operand


def _join(kind: type[And] | type[Or], parts: list[Term]) -> Term:
    if not parts:
        return Everything()
    if len(parts) == 1:
        return parts[0]
    ranks = (KeyPadding(), Causal(), QueryPadding())  # what nearly every mask has is said first
    return kind(tuple(sorted(parts, key=lambda part: (ranks.index(part) if part in ranks else len(ranks), str(part)))))


def intersection(windows: list[Window]) -> Window:
    """What all windows show."""
    left, right = (
        min((edge for edge in edges if edge >= 0), default=-1)
        for edges in ([w.left for w in windows], [w.right for w in windows])
    )
    return Window(left, right, math.lcm(*(window.dilation for window in windows)))


def leaves(expression: Term) -> Iterator[Term]:
    """Every term."""
    if isinstance(expression, And | Or):
        for operand in expression.operands:
            yield from leaves(operand)
    else:
        yield expression


def to_json(expression: Term) -> dict[str, Any]:
    """A dictionary of plain values."""
    if isinstance(expression, And | Or):
        return {expression.name: [to_json(operand) for operand in expression.operands]}
    if isinstance(expression, BlockList):
        return {"term": expression.name, **expression.to_fields()}
    fields = {
        field.name: list(value) if isinstance(value, tuple) else value
        for field in dataclasses.fields(expression)
        for value in (getattr(expression, field.name),)
    }
    return {"term": expression.name, **fields}


def from_json(document: Any, depth: int = 0) -> Term:
    """The inverse of `to_json`.

    Raises:
        InputError: it is no such document.
    """
    if depth > MAX_DEPTH:
        raise InputError(f"The mask's expression is nested deeper than {MAX_DEPTH}.")
    if not isinstance(document, dict):
        raise InputError(f"A mask's term is a dictionary, not {type(document).__name__}.")
    for kind in (And, Or):
        if kind.name in document:
            operands = document[kind.name]
            if len(document) > 1 or not isinstance(operands, list) or len(operands) < 2:
                raise InputError(f"The mask's '{kind.name}' needs a list of two terms or more.")
            return kind(tuple(from_json(operand, depth + 1) for operand in operands))
    fields = dict(document)
    name = fields.pop("term", None)
    if name not in TERM_TYPES:
        raise InputError(f"Unknown mask term {name!r}; the terms are {', '.join(TERM_TYPES)}.")
    try:
        if name == BlockList.name:
            return BlockList.from_fields(fields)
        return TERM_TYPES[name](**{key: _plain(value) for key, value in fields.items()})
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"The mask's term '{name}' has unusable fields: {error}.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, list) and all(type(item) is int for item in value):
        return tuple(value)
    if isinstance(value, bool | int | str):
        return value
    raise ValueError(f"{value!r} is neither a number, a word nor a list of integers")
