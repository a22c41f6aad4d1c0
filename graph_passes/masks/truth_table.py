"""Decide what a formula over query and key slots means, exactly, where it only looks at their distance."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping

import numpy as np

from raggedrt.graph_passes.masks.formula import AtMostZero, Atom, Formula, Unreadable, Valid, atoms, evaluate
from raggedrt.graph_passes.masks.pairs import Pairs
from raggedrt.graph_passes.masks.poly import Poly
from raggedrt.graph_passes.masks.spec import UNDERSTOOD, MaskSpec

QUERY, KEY, BATCH = Poly.variable("q"), Poly.variable("k"), Poly.variable("b")

MAX_OTHERS = 6
"""Most atoms beyond distance and padding whose irrelevance is tried."""

State = tuple[int, bool, bool]
"""(query - key, the key is a token, the query is a token)."""


@dataclasses.dataclass(frozen=True)
class TruthTable:
    """The value of a formula in every state that it can tell apart.

    ``distances`` has a representative q - k on either side of every threshold, so between two neighbours the
    formula does not change, and the first and last stand for everything beyond.
    """

    visible: dict[State, bool]
    distances: tuple[int, ...]

    def spec(self) -> MaskSpec | None:
        """The understood spec that is equal in every state."""
        for spec in UNDERSTOOD:
            if spec.unattended_rows_open:  # looks at whole rows, a formula at one pair
                continue
            if all(shown == _spec_shows(spec, state) for state, shown in self.visible.items()):
                return spec
        return None

    def distance_ranges(self) -> list[tuple[int | None, int | None]]:
        """Ranges of q - k (both ends inclusive, None = unbounded) that are visible among tokens."""
        ranges: list[tuple[int | None, int | None]] = []
        last = len(self.distances) - 1
        start: int | None = None
        for position, distance in enumerate(self.distances):
            shown = self.visible[(distance, True, True)]
            if shown and start is None:
                start = position
            if start is not None and (not shown or position == last):
                end = None if shown else self.distances[position - 1]
                ranges.append((None if start == 0 else self.distances[start], end))
                start = None
        return ranges

    def hides_padded_keys(self) -> bool:
        """No key at a padded slot is visible to a query at a token."""
        return not any(shown for (_, key, query), shown in self.visible.items() if query and not key)


def tabulate(formula: Formula, sequence: int | None) -> TruthTable:
    """The table of a formula.

    Args:
        formula: over q, k and attention_mask[b, q], attention_mask[b, k].
        sequence: static length in tokens (distances that do not occur are left out), or None.

    Raises:
        Unreadable: the formula looks at more than q - k and the padding of q and k.
    """
    thresholds = {-1, 0, 1}
    others: list[Atom] = []
    for atom in set(atoms(formula)):
        if isinstance(atom, AtMostZero) and (threshold := _threshold(atom)) is not None:
            thresholds.add(threshold)
        elif isinstance(atom, AtMostZero) or atom.batch != BATCH or atom.slot not in (QUERY, KEY):
            others.append(atom)
    if len(others) > MAX_OTHERS:
        raise Unreadable(f"it looks at {others[0]}")
    # One on each side of every change; a range that ends at t is told from one that ends at t + 1.
    distances = sorted({near for t in thresholds for near in (t - 1, t, t + 1)})
    if sequence is not None:
        distances = [d for d in distances if abs(d) < sequence] or [0]
    states = [
        (distance, key, query)
        for distance in distances
        for key in (False, True)
        for query in (False, True)
        if distance != 0 or key == query  # the same slot
    ]
    return TruthTable({state: _decide(formula, state, others) for state in states}, tuple(distances))


def _decide(formula: Formula, state: State, others: list[Atom]) -> bool:
    """The formula in a state, where it does not depend on the other atoms (each taken as free)."""
    values = set()
    for choice in itertools.product((False, True), repeat=len(others)):
        assumed = dict(zip(others, choice, strict=True))
        values.add(evaluate(formula, functools.partial(_truth, state=state, assumed=assumed)))
        if len(values) > 1:
            raise Unreadable(f"it depends on {' and '.join(map(str, others))}")
    return values.pop()


def _threshold(atom: AtMostZero) -> int | None:
    """The t of ``q - k <= t`` or ``k - q <= -t``; None where the atom compares something else."""
    slope = dict(atom.poly.terms).get(("q",), 0)
    offset = (atom.poly - (QUERY - KEY) * slope).constant
    return None if slope not in (1, -1) or offset is None else -offset * slope


def _truth(atom: Atom, state: State, assumed: Mapping[Atom, bool]) -> bool:
    distance, key, query = state
    if atom in assumed:
        return assumed[atom]
    if isinstance(atom, Valid):
        return key if atom.slot == KEY else query
    slope = dict(atom.poly.terms)[("q",)]
    offset = (atom.poly - (QUERY - KEY) * slope).constant or 0
    return slope * distance + offset <= 0


def _spec_shows(spec: MaskSpec, state: State) -> bool:
    distance, key, query = state
    slot = max(-distance, 0)
    query_slot, key_slot = np.asarray(slot + distance), np.asarray(slot)
    pair = Pairs(query_slot, key_slot, np.asarray(query), np.asarray(key))
    return bool(spec.expression.holds(pair))
