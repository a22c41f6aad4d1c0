"""Decide whether a formula and a spec mean the same, for every length, query, key and padding.

Every comparison is linear in q, k and their quotients and remainders by constants. With P a common multiple of those
constants and q = P m + r, k = P n + s, each comparison becomes, for a pair of remainders (r, s), a bound of m, of n or
of m - n. Between such bounds nothing changes, and each region between them (an integral polyhedron, as the matrix of
the bounds is totally unimodular) has a corner where two of them are tight. So it is enough to compare formula and spec
at all corners: crossings of two bounds, for each pair of remainders.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator

import numpy as np

from raggedrt.graph_passes.masks.algebra import BlockBand, Causal, GlobalTokens, Prefix, Strided, Term, Window
from raggedrt.graph_passes.masks.density import WITHOUT_PADDING
from raggedrt.graph_passes.masks.evaluate import formula_values, poly_values
from raggedrt.graph_passes.masks.expressions import leaves
from raggedrt.graph_passes.masks.formula import AtMostZero, Atom, Formula, Unreadable, Valid, atoms
from raggedrt.graph_passes.masks.pairs import BoolArray, IntArray, Pairs
from raggedrt.graph_passes.masks.poly import Poly
from raggedrt.graph_passes.masks.spec import MaskSpec

QUERY, KEY, BATCH = Poly.variable("q"), Poly.variable("k"), Poly.variable("b")
MAX_POINTS = 2**22
"""Pairs at which formula and spec are compared."""
MAX_OTHERS = 6
"""Most atoms about neither distance, position nor padding whose irrelevance is tried."""
_WORD = re.compile(r"[A-Za-z_]\w*")
_DIVISOR = re.compile(r"(?://|%) (\d+)\)")


class Undecided(Exception):  # noqa: N818 - control flow: the proof would take too long
    """Formula and spec would have to be compared at too many pairs."""


def same_meaning(formula: Formula, spec: MaskSpec, sequence: int | None) -> bool:
    """Whether the formula shows what the spec shows.

    Args:
        formula: over q, k and attention_mask[b, q], attention_mask[b, k].
        spec: of padded positions, without opened rows.
        sequence: static length in tokens, or None: every length.

    Raises:
        Unreadable: the formula compares something else.
        Undecided: there would be too many pairs to look at.
    """
    found = set(atoms(formula))
    comparisons = [atom.poly for atom in found if isinstance(atom, AtMostZero) and over_slots(atom.poly)]
    others = [atom for atom in found if not _known(atom)]
    if len(others) > MAX_OTHERS:
        raise Unreadable(f"it looks at {others[0]}")
    points = _corners([*comparisons, *_comparisons_of(spec.expression)], sequence)
    return all(_agree(formula, spec, points, others, key, query) for key in (False, True) for query in (False, True))


def _agree(
    formula: Formula, spec: MaskSpec, points: tuple[IntArray, IntArray], others: list[Atom], key: bool, query: bool
) -> bool:
    """In one state of padding."""
    slots_q, slots_k = points
    if key != query:  # one slot cannot be both
        apart = slots_q != slots_k
        slots_q, slots_k = slots_q[apart], slots_k[apart]
    slots = {"q": slots_q, "k": slots_k}
    pairs = Pairs(slots_q, slots_k, np.full(slots_q.shape, query), np.full(slots_q.shape, key))
    expected = spec.expression.holds(pairs)
    values = {
        atom: poly_values(atom.poly, slots) <= 0
        if isinstance(atom, AtMostZero)
        else np.asarray(_valid(atom, key, query))
        for atom in set(atoms(formula)) - set(others)
    }
    for choice in itertools.product((False, True), repeat=len(others)):
        assumed = {**values, **{atom: np.asarray(value) for atom, value in zip(others, choice, strict=True)}}
        if not bool((formula_values(formula, assumed.__getitem__) == expected).all()):
            return False
    return True


def _valid(atom: Valid, key: bool, query: bool) -> bool:
    return key if atom.slot == KEY else query


def _known(atom: Atom) -> bool:
    """It is about the pair alone."""
    if isinstance(atom, Valid):
        return atom.batch == BATCH and atom.slot in (QUERY, KEY)
    return over_slots(atom.poly)


def _of_slots(atom: Atom) -> bool:
    """A comparison of nothing but the two slots, whatever it computes with them."""
    if isinstance(atom, Valid):
        return False
    return {word for name in atom.poly.variables for word in _WORD.findall(name)} <= {"q", "k"}


def over_slots(poly: Poly) -> bool:
    """Linear in q, k and their quotients and remainders (one at a time)."""
    for mono, _ in poly.terms:
        if len(mono) > 1:
            return False
        for name in mono:
            words = set(_WORD.findall(name))
            if not words <= {"q", "k"} or len(_DIVISOR.findall(name)) != (name not in ("q", "k")):
                return False
    return True


def divisors_of(poly: Poly) -> set[int]:
    """What its quotients and remainders divide by."""
    return {int(by) for name in poly.variables for by in _DIVISOR.findall(name)}


def _comparisons_of(expression: Term) -> Iterator[Poly]:
    """Expressions whose sign (or remainder) a spec's terms look at."""
    for term in leaves(expression):
        if isinstance(term, Causal):
            yield KEY - QUERY
        elif isinstance(term, Window):
            yield QUERY - KEY - term.left
            yield KEY - QUERY - term.right
            if term.dilation > 1:
                yield Poly.variable(f"((q - k) % {term.dilation})")
        elif isinstance(term, GlobalTokens):
            yield from _edges(term.positions)
        elif isinstance(term, BlockBand):
            query, key = (Poly.variable(f"({name} // {term.block})") for name in "qk")
            yield query - key - term.left
            yield key - query - term.right
        elif isinstance(term, Prefix):
            yield KEY - term.size + 1
        elif isinstance(term, Strided):
            yield Poly.variable(f"(k % {term.stride})")
        elif not isinstance(term, WITHOUT_PADDING):
            raise Unreadable(f"no formula is compared with {term}")


def _edges(positions: tuple[int, ...]) -> Iterator[Poly]:
    listed = set(positions)
    for slot, position in itertools.product((QUERY, KEY), positions):
        if position - 1 not in listed:
            yield slot - position + 1
        if position + 1 not in listed:
            yield slot - position


@dataclasses.dataclass
class _Bounds:
    """Largest values up to which a comparison holds (or fails), for each pair of remainders: int64 [R, R] each."""

    m: list[IntArray]
    n: list[IntArray]
    difference: list[IntArray]


def _corners(comparisons: list[Poly], sequence: int | None) -> tuple[IntArray, IntArray]:
    """Queries and keys, one pair at least of each region, flat."""
    always = [-QUERY, -KEY, KEY - QUERY, QUERY - KEY]
    always += [] if sequence is None else [QUERY - sequence + 1, KEY - sequence + 1]
    polys = list(dict.fromkeys([*always, *comparisons]))
    period = math.lcm(*(by for poly in polys for by in divisors_of(poly)), 1)
    if period**2 * len(polys) > MAX_POINTS:
        raise Undecided(f"remainders by {period}")
    rest = np.arange(period, dtype=np.int64)
    bounds = _Bounds([], [], [])
    for poly in polys:
        _bound(poly, period, rest, bounds)
    m, n, difference = (_tight(found, period) for found in (bounds.m, bounds.n, bounds.difference))
    if period**2 * (len(m) * len(n) + (len(m) + len(n)) * len(difference)) > MAX_POINTS:
        raise Undecided(f"{len(m)} x {len(n)} x {len(difference)} bounds for each of {period}^2 remainders")
    pairs = [
        np.broadcast_arrays(m[:, None], n[None, :]),
        np.broadcast_arrays(m[:, None], m[:, None] - difference[None, :]),
        np.broadcast_arrays(n[:, None] + difference[None, :], n[:, None]),
    ]
    grids = [np.concatenate([pair[side].reshape(-1, period, period) for pair in pairs]) for side in (0, 1)]
    query = (grids[0] * period + rest[:, None]).ravel()
    key = (grids[1] * period + rest[None, :]).ravel()
    limit = np.iinfo(np.int64).max if sequence is None else sequence
    inside = (query >= 0) & (key >= 0) & (query < limit) & (key < limit)
    unique = np.unique(np.stack([query[inside], key[inside]]), axis=1)
    return unique[0], unique[1]


def _tight(bounds: list[IntArray], period: int) -> IntArray:
    """Values at which a bound is tight from either side: int64 [X, R, R]."""
    found = {array.tobytes(): array for bound in bounds for array in (bound, bound + 1)}
    return np.stack(list(found.values())).reshape(-1, period, period)


def _bound(poly: Poly, period: int, rest: IntArray, bounds: _Bounds) -> None:
    """Where ``poly <= 0`` changes, for each pair of remainders."""
    zero = np.zeros(1, dtype=np.int64)
    base, along_q, along_k = (
        int(poly_values(poly, {"q": zero + q, "k": zero + k})[0]) for q, k in ((0, 0), (period, 0), (0, period))
    )
    slope_m, slope_n = along_q - base, along_k - base
    at_rest = np.broadcast_to(poly_values(poly, {"q": rest[:, None], "k": rest[None, :]}), (period, period))
    if slope_m == slope_n == 0:
        return
    if slope_n == 0 or slope_m == 0:
        slope = slope_m or slope_n
        (bounds.m if slope_m else bounds.n).append(_last(at_rest, slope))
    elif slope_m == -slope_n:
        bounds.difference.append(_last(at_rest, slope_m))
    else:
        raise Unreadable(f"it compares {poly}")


def _last(rest: IntArray, slope: int) -> IntArray:
    """The x up to which ``slope x + rest <= 0`` holds (slope > 0) or fails (slope < 0)."""
    return (-rest) // slope if slope > 0 else -((-rest) // -slope) - 1


def same_everywhere(formula: Formula, spec: MaskSpec, sequence: int) -> bool:
    """Whether formula and spec are the same at every pair of a row of static length, looked at one by one.

    Raises:
        Unreadable: the formula compares something else.
        Undecided: there are too many pairs.
    """
    if sequence**2 > MAX_POINTS:
        raise Undecided(f"{sequence} x {sequence} pairs")
    others = [atom for atom in set(atoms(formula)) if not _known(atom) and not _of_slots(atom)]
    if len(others) > MAX_OTHERS:
        raise Unreadable(f"it looks at {others[0]}")
    query, key = (grid.ravel() for grid in np.indices((sequence, sequence), dtype=np.int64))
    return all(_agree(formula, spec, (query, key), others, k, q) for k in (False, True) for q in (False, True))


def values_at(formula: Formula, query: IntArray, key: IntArray) -> BoolArray:
    """The formula where every slot holds a token; what is neither position nor padding is taken as false."""
    slots = {"q": query, "k": key}

    def truth(atom: Atom) -> BoolArray:
        if isinstance(atom, Valid):
            return np.asarray(True)
        return poly_values(atom.poly, slots) <= 0 if over_slots(atom.poly) else np.asarray(False)

    shape = np.broadcast_shapes(query.shape, key.shape)
    return np.broadcast_to(formula_values(formula, truth), shape)
