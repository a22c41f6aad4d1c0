"""Boolean formulas over index comparisons and the padding mask: what a mask's graph says about a pair (q, k)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from raggedrt.graph_passes.masks.poly import Poly, Ranges

MAX_TERMS = 64


class Unreadable(Exception):  # noqa: N818 - control flow of the symbolic reading, never an error
    """The symbolic reading does not cover this; the text says what stopped it."""


@dataclasses.dataclass(frozen=True)
class AtMostZero:
    """``poly <= 0``."""

    poly: Poly

    def __str__(self) -> str:
        left = Poly.of({mono: coef for mono, coef in self.poly.terms if coef > 0})
        return f"{left} <= {left - self.poly}"


@dataclasses.dataclass(frozen=True)
class Valid:
    """The attention mask holds a token at [batch, slot]."""

    batch: Poly
    slot: Poly

    def __str__(self) -> str:
        return f"attention_mask[{self.batch}, {self.slot}]"


@dataclasses.dataclass(frozen=True)
class Truth:
    """A constant."""

    value: bool

    def __str__(self) -> str:
        return str(self.value)


@dataclasses.dataclass(frozen=True)
class Negation:
    """Not."""

    operand: Formula

    def __str__(self) -> str:
        return f"not {self.operand}"


@dataclasses.dataclass(frozen=True)
class Junction:
    """And (``every``) or Or of a set of formulas."""

    every: bool
    operands: frozenset[Formula]

    def __str__(self) -> str:
        return "(" + (" and " if self.every else " or ").join(sorted(map(str, self.operands))) + ")"


Formula = AtMostZero | Valid | Truth | Negation | Junction
Atom = AtMostZero | Valid
TRUE, FALSE = Truth(True), Truth(False)


def at_most_zero(poly: Poly, ranges: Ranges) -> Formula:
    """``poly <= 0``, folded where the ranges of its slots decide it."""
    if ranges.at_most_zero(poly):
        return TRUE
    if ranges.at_most_zero(-poly + 1):
        return FALSE
    return AtMostZero(poly)


def negate(formula: Formula) -> Formula:
    """Not, with constants and double negation folded."""
    if isinstance(formula, Truth):
        return Truth(not formula.value)
    return formula.operand if isinstance(formula, Negation) else Negation(formula)


def all_of(*formulas: Formula) -> Formula:
    """And, flattened and folded."""
    return _join(True, formulas)


def any_of(*formulas: Formula) -> Formula:
    """Or, flattened and folded."""
    return _join(False, formulas)


def _join(every: bool, formulas: tuple[Formula, ...]) -> Formula:
    operands: set[Formula] = set()
    for formula in formulas:
        if isinstance(formula, Truth):
            if formula.value is not every:
                return formula
        elif isinstance(formula, Junction) and formula.every is every:
            operands |= formula.operands
        else:
            operands.add(formula)
    if any(negate(operand) in operands for operand in operands):
        return Truth(not every)
    if not operands:
        return Truth(every)
    if len(operands) > MAX_TERMS:
        raise Unreadable(f"a formula of more than {MAX_TERMS} terms")
    return operands.pop() if len(operands) == 1 else Junction(every, frozenset(operands))


def atoms(formula: Formula) -> Iterator[Atom]:
    """Every comparison and mask read of a formula (with repetitions)."""
    stack = [formula]
    while stack:
        item = stack.pop()
        if isinstance(item, Junction):
            stack.extend(item.operands)
        elif isinstance(item, Negation):
            stack.append(item.operand)
        elif not isinstance(item, Truth):
            yield item


def evaluate(formula: Formula, truth: Callable[[Atom], bool]) -> bool:
    """The formula's value under the truth of its atoms."""
    if isinstance(formula, Truth):
        return formula.value
    if isinstance(formula, Negation):
        return not evaluate(formula.operand, truth)
    if isinstance(formula, Junction):
        results = (evaluate(operand, truth) for operand in formula.operands)
        return all(results) if formula.every else any(results)
    return truth(formula)
