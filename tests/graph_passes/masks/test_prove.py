"""Proofs that a formula and a spec mean the same: never wrong, and found where it matters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.mask_specs import CONTENT_FREE, expressions
from raggedrt.graph_passes.masks import MaskSpec
from raggedrt.graph_passes.masks.algebra import BlockBand, Causal, GlobalTokens, KeyPadding, Prefix, Term, Window
from raggedrt.graph_passes.masks.evaluate import formula_values, poly_values
from raggedrt.graph_passes.masks.expressions import all_terms, any_term
from raggedrt.graph_passes.masks.fit import fitted_specs, sight_of, sight_of_formula
from raggedrt.graph_passes.masks.formula import (
    TRUE,
    AtMostZero,
    Atom,
    Formula,
    Unreadable,
    Valid,
    all_of,
    any_of,
    negate,
)
from raggedrt.graph_passes.masks.pairs import Pairs
from raggedrt.graph_passes.masks.poly import Poly
from raggedrt.graph_passes.masks.prove import Undecided, same_everywhere, same_meaning

pytestmark = pytest.mark.none
Q, K, ROW = (Poly.variable(name) for name in "qkb")
KEY_VALID, QUERY_VALID = Valid(ROW, K), Valid(ROW, Q)
BOX = 90
"""Beyond this nothing that the strategies make changes any more."""

_numbers = st.integers(-8, 8)
_sizes = st.integers(2, 5)


def _quotient(name: str, by: int) -> Poly:
    return Poly.variable(f"({name} // {by})")


_atoms: st.SearchStrategy[Formula] = st.one_of(
    st.just(KEY_VALID),
    st.just(QUERY_VALID),
    st.builds(lambda c: AtMostZero(K - Q + c), _numbers),
    st.builds(lambda c: AtMostZero(Q - K + c), _numbers),
    st.builds(lambda c: AtMostZero(K - c), _numbers),
    st.builds(lambda c: AtMostZero(-Q + c), _numbers),
    st.builds(lambda b, c: AtMostZero(_quotient("q", b) - _quotient("k", b) - c), _sizes, st.integers(-2, 2)),
    st.builds(lambda b, c: AtMostZero(_quotient("k", b) - _quotient("q", b) - c), _sizes, st.integers(-2, 2)),
    st.builds(lambda d: AtMostZero(Poly.variable(f"((q - k) % {d})")), _sizes),
    st.builds(lambda d, c: AtMostZero(Poly.variable(f"(k % {d})") - c), _sizes, st.integers(0, 3)),
)  # fmt: skip


def _join(inner: st.SearchStrategy[Formula]) -> st.SearchStrategy[Formula]:
    pairs = st.tuples(inner, inner)
    return st.one_of(pairs.map(lambda p: all_of(*p)), pairs.map(lambda p: any_of(*p)), inner.map(negate))


formulas = st.recursive(_atoms, _join, max_leaves=5)


def _same_in_box(formula: Formula, spec: MaskSpec, size: int = BOX) -> bool:
    query, key = np.indices((size, size), dtype=np.int64)
    for key_valid, query_valid in itertools.product((False, True), repeat=2):

        def truth(atom: Atom, key_valid: bool = key_valid, query_valid: bool = query_valid) -> np.ndarray:  # type: ignore[type-arg]
            if isinstance(atom, Valid):
                return np.full(query.shape, key_valid if atom.slot == K else query_valid)
            return poly_values(atom.poly, {"q": query, "k": key}) <= 0

        pairs = Pairs(query, key, np.full(query.shape, query_valid), np.full(query.shape, key_valid))
        differ = np.broadcast_to(formula_values(formula, truth) != spec.expression.holds(pairs), query.shape)
        if (differ & ((query != key) | (key_valid == query_valid))).any():
            return False
    return True


@settings(max_examples=150, deadline=None)
@given(formulas, expressions(CONTENT_FREE))
def test_proofs_agree_with_every_pair(formula: Formula, expression: Term) -> None:
    specs = fitted_specs(sight_of_formula(formula, None))
    specs += [MaskSpec.of_expression(e) for e in (expression, all_terms(KeyPadding(), expression))]
    for spec in specs[:: max(1, len(specs) // 8)]:
        if not spec.unattended_rows_open:
            assert same_meaning(formula, spec, None) == _same_in_box(formula, spec)


@settings(max_examples=60, deadline=None)
@given(formulas, st.integers(1, 12))
def test_proofs_at_a_static_length_agree_with_every_pair(formula: Formula, length: int) -> None:
    for spec in fitted_specs(sight_of_formula(formula, length)):
        if not spec.unattended_rows_open:
            expected = _same_in_box(formula, spec, length)
            assert same_meaning(formula, spec, length) == expected
            assert same_everywhere(formula, spec, length) == expected


PATTERNS = {
    "window": Window(7, 3),
    "one-sided": Window(7, -1),
    "dilated": Window(12, 12, 3),
    "dilated and causal": all_terms(Causal(), Window(12, -1, 4)),
    "globals": any_term(Window(4, 4), GlobalTokens((0, 1, 5))),
    "causal globals": all_terms(Causal(), any_term(Window(4, -1), GlobalTokens((0,)))),
    "global columns": any_term(Window(4, 4), GlobalTokens((2,), rows=False)),
    "blocks": BlockBand(8, 1, 1),
    "chunks": all_terms(Causal(), BlockBand(8, 0, -1)),
    "blocks and a global block": any_term(BlockBand(8, 1, 1), GlobalTokens(tuple(range(8)))),
    "prefix": any_term(Causal(), Prefix(5)),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_are_fitted_from_what_is_seen(name: str) -> None:
    spec = MaskSpec.of_expression(PATTERNS[name])
    visible = spec.visible(np.ones((1, 67)))[0]
    found = fitted_specs(sight_of(visible, 16, (3, 4, 8)))
    assert spec in found


def test_other_things_that_are_compared_do_not_matter_where_they_cancel() -> None:
    other = Valid(Poly.number(0), K)
    either = any_of(all_of(other, KEY_VALID), all_of(negate(other), KEY_VALID))
    assert same_meaning(either, MaskSpec(padding=True), None)
    assert not same_meaning(all_of(other, KEY_VALID), MaskSpec(padding=True), None)


def test_what_no_corner_decides_is_left_undecided() -> None:
    both = AtMostZero(Poly.variable("(q % 1009)") - Poly.variable("(k % 1013)"))
    with pytest.raises(Undecided):
        same_meaning(both, MaskSpec(), None)
    with pytest.raises(Unreadable, match="it compares"):
        same_meaning(AtMostZero(Q + K - 8), MaskSpec(), None)
    assert not same_meaning(TRUE, MaskSpec(causal=True), None)
