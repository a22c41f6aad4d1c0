"""Elements of symbolic tensors: numbers, index expressions, conditions, and choices among them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from raggedrt.graph_passes.masks.formula import (
    FALSE,
    TRUE,
    AtMostZero,
    Formula,
    Junction,
    Negation,
    Truth,
    Unreadable,
    Valid,
    all_of,
    any_of,
    at_most_zero,
    negate,
)
from raggedrt.graph_passes.masks.poly import Poly, Ranges


@dataclasses.dataclass(frozen=True)
class Branch:
    """``then`` where ``condition`` holds, else ``otherwise``."""

    condition: Formula
    then: Element
    otherwise: Element


Element = Poly | float | AtMostZero | Valid | Truth | Negation | Junction | Branch
"""An int is a `Poly`, a float a Python float (or an integral `Poly`), a bool a formula."""

_CONDITIONS = (AtMostZero, Valid, Truth, Negation, Junction)


def is_condition(element: Element) -> bool:
    """The element is a boolean."""
    return isinstance(element, _CONDITIONS)


def choose(condition: Formula, then: Element, otherwise: Element) -> Element:
    """A branch, folded where it decides nothing."""
    if then == otherwise or condition == TRUE:
        return then
    if condition == FALSE:
        return otherwise
    if isinstance(then, _CONDITIONS) and isinstance(otherwise, _CONDITIONS):
        return any_of(all_of(condition, then), all_of(negate(condition), otherwise))
    return Branch(condition, then, otherwise)


def map_leaves(element: Element, function: Callable[[Element], Element]) -> Element:
    """Apply a function to what each branch ends in."""
    if isinstance(element, Branch):
        return choose(element.condition, map_leaves(element.then, function), map_leaves(element.otherwise, function))
    return function(element)


def combine(left: Element, right: Element, function: Callable[[Element, Element], Element]) -> Element:
    """Apply a function of two elements to every pair of branch ends."""
    return map_leaves(left, lambda a: map_leaves(right, lambda b: function(a, b)))


def truth_of(element: Element) -> Formula:
    """Cast to bool: non-zero."""
    if isinstance(element, Branch):
        then, otherwise = truth_of(element.then), truth_of(element.otherwise)
        return any_of(all_of(element.condition, then), all_of(negate(element.condition), otherwise))
    if isinstance(element, _CONDITIONS):
        return element
    value = element.constant if isinstance(element, Poly) else element
    if isinstance(element, Poly) and value is None:  # neither <= 0 nor >= 0 leaves out zero alone
        return negate(all_of(AtMostZero(element), AtMostZero(-element)))
    return Truth(value != 0)


def number_of(element: Element) -> Element:
    """Cast to a number: a condition becomes 1 or 0."""

    def leaf(item: Element) -> Element:
        if isinstance(item, _CONDITIONS):
            return choose(item, Poly.number(1), Poly.number(0))
        return item

    return map_leaves(element, leaf)


def number(value: float) -> Poly | float:
    """A constant: integral values become index expressions, so that floats and ints meet."""
    return (
        Poly.number(int(value)) if math.isfinite(value) and float(value).is_integer() and abs(value) < 2**31 else value
    )


def _as_float(leaf: Element) -> float:
    value = leaf.constant if isinstance(leaf, Poly) else leaf
    if not isinstance(value, int | float):
        raise Unreadable(f"arithmetic on {leaf}")
    return float(value)


Arithmetic = Callable[[Poly, Poly], Poly]


def arithmetic(exact: Arithmetic, rounded: Callable[[float, float], float]) -> Callable[[Element, Element], Element]:
    """A binary numeric op: exact on index expressions, on floats where both are constants."""

    def apply(left: Element, right: Element) -> Element:
        if isinstance(left, Poly) and isinstance(right, Poly):
            return exact(left, right)
        value = rounded(_as_float(left), _as_float(right))
        if math.isnan(value):
            raise Unreadable("a number that is not a number")
        return number(value)

    return lambda left, right: combine(number_of(left), number_of(right), apply)


def at_most(left: Element, right: Element, ranges: Ranges) -> Formula:
    """``left <= right``."""

    def compare(a: Element, b: Element) -> Element:
        if isinstance(a, Poly) and isinstance(b, Poly):
            return at_most_zero(a - b, ranges)
        if isinstance(a, Poly) and isinstance(b, float) and math.isfinite(b):
            return at_most_zero(a - math.floor(b), ranges)
        if isinstance(b, Poly) and isinstance(a, float) and math.isfinite(a):
            return at_most_zero(-b + math.ceil(a), ranges)
        return Truth(_as_float(a) <= _as_float(b))

    return truth_of(combine(number_of(left), number_of(right), compare))


def equal(left: Element, right: Element, ranges: Ranges) -> Formula:
    """``left == right``; on booleans: both hold or neither does."""
    if isinstance(left, _CONDITIONS) and isinstance(right, _CONDITIONS):
        return any_of(all_of(left, right), all_of(negate(left), negate(right)))
    return all_of(at_most(left, right, ranges), at_most(right, left, ranges))
