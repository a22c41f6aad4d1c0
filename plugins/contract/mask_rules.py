"""Analytic masks as plain integers: what the BlockMask op evaluates, in whatever language. Standard library only.

A mask is a conjunction of clauses; a clause is a disjunction of rules; a rule is a product of ranges. That is every
and/or combination of windows, causality, dilation, global rows and columns, prefixes, strides, chunks and block bands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from raggedrt.errors import InputError

UNBOUNDED = 2**31 - 1
"""End of a range that goes to the end of the sequence; a distance bound that is none (negated: below)."""
RULE_INTS = 11
"""Integers per encoded rule: clause, unit, query, key (begin, end, step each), distance (low, high, step)."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """Pairs of a query and a key that see each other, in units of `unit` positions.

    With q = query position // unit and k = key position // unit the rule holds if q is in `query`, k is in `key`,
    low <= k - q <= high, and k - q is a multiple of step.

    Attributes:
        unit: Positions per unit; a block size makes block bands (and, with distance 0, chunks).
        query: Begin, end and step as of Python's `range`. A negative begin or end counts from the end: -1 is the last
            unit of the sequence, which may be shorter than the others. `UNBOUNDED` is the end.
        key: The same of the key.
        distance: low, high (inclusive; `-UNBOUNDED` and `UNBOUNDED` are none) and step.
    """

    unit: int = 1
    query: tuple[int, int, int] = (0, UNBOUNDED, 1)
    key: tuple[int, int, int] = (0, UNBOUNDED, 1)
    distance: tuple[int, int, int] = (-UNBOUNDED, UNBOUNDED, 1)

    def __post_init__(self) -> None:
        numbers = (*self.query, *self.key, *self.distance)
        if min(self.unit, self.query[2], self.key[2], self.distance[2]) < 1:
            raise InputError(f"{self}: the unit and every step must be at least 1.")
        if any(abs(number) > UNBOUNDED for number in (self.unit, *numbers)):
            raise InputError(f"{self}: every number must lie within 32 bits.")

    def holds(self, query: int, key: int, length: int) -> bool:
        """Whether the rule holds for two positions of a sequence of `length` positions."""
        units = -(-length // self.unit)
        q, k = query // self.unit, key // self.unit
        low, high, step = self.distance
        inside = _contains(self.query, q, units) and _contains(self.key, k, units)
        return inside and low <= k - q <= high and (k - q) % step == 0


Clauses = Sequence[Sequence[Rule]]
"""Every clause must hold, by at least one of its rules. No clause at all: every key is visible."""


def _contains(bounds: tuple[int, int, int], value: int, units: int) -> bool:
    begin, end = (number + units if number < 0 else number for number in bounds[:2])
    return begin <= value < end and (value - begin) % bounds[2] == 0


def visible(clauses: Clauses, query: int, key: int, length: int) -> bool:
    """Whether the query at one position sees the key at another one."""
    return all(any(rule.holds(query, key, length) for rule in clause) for clause in clauses)


def causal() -> Rule:
    """Keys up to the query."""
    return Rule(distance=(-UNBOUNDED, 0, 1))


def window(left: int, right: int, *, unit: int = 1, dilation: int = 1) -> Rule:
    """Keys at most `left` units before and `right` units after the query, at multiples of `dilation`; -1: unbounded."""
    low = -UNBOUNDED if left < 0 else -left
    return Rule(unit=unit, distance=(low, UNBOUNDED if right < 0 else right, dilation))


def rows(begin: int, end: int, *, unit: int = 1, step: int = 1) -> Rule:
    """Queries begin..end-1 see every key."""
    return Rule(unit=unit, query=(begin, end, step))


def columns(begin: int, end: int, *, unit: int = 1, step: int = 1) -> Rule:
    """Keys begin..end-1 are seen by every query; `columns(0, n)` is a prefix."""
    return Rule(unit=unit, key=(begin, end, step))


def encode(clauses: Clauses) -> tuple[int, ...]:
    """The attribute `rules` of a BlockMask node: `RULE_INTS` integers per rule, in order of clauses."""
    numbers: list[int] = []
    for place, clause in enumerate(clauses):
        if not clause and place:
            raise InputError(f"Clause {place} of the mask has no rule, so nothing would be visible; leave it out.")
        for rule in clause:
            numbers += [place, rule.unit, *rule.query, *rule.key, *rule.distance]
    return tuple(numbers)


def decode(numbers: Iterable[int]) -> tuple[tuple[Rule, ...], ...]:
    """Clauses of the attribute `rules`. Clause 0 may have no rule: listed blocks are its only ones.

    Raises:
        InputError: The numbers are not what `encode` makes.
    """
    flat = [int(number) for number in numbers]
    if len(flat) % RULE_INTS:
        raise InputError(f"A mask has {len(flat)} integers of rules, expected a multiple of {RULE_INTS}.")
    clauses: list[list[Rule]] = [[]] if flat else []
    for start in range(0, len(flat), RULE_INTS):
        place, unit, *rest = flat[start : start + RULE_INTS]
        if place == len(clauses):
            clauses.append([])
        if place != len(clauses) - 1:
            raise InputError(f"Rule {start // RULE_INTS} of a mask is of clause {place}, expected {len(clauses) - 1}.")
        query, key, distance = ((rest[i], rest[i + 1], rest[i + 2]) for i in (0, 3, 6))
        clauses[-1].append(Rule(unit, query, key, distance))
    return tuple(tuple(clause) for clause in clauses)
