"""The parts of the symbolic reading: index expressions, their ranges, formulas and truth tables."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from raggedrt.graph_passes.masks.elements import choose
from raggedrt.graph_passes.masks.formula import FALSE, TRUE, Unreadable, Valid, all_of, any_of, at_most_zero, negate
from raggedrt.graph_passes.masks.poly import Poly, Ranges, divide
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.masks.tensors import constant_tensor
from raggedrt.graph_passes.masks.truth_table import tabulate

pytestmark = pytest.mark.none

B, S, Q, K, ROW = (Poly.variable(name) for name in ("B", "S", "q", "k", "b"))
RANGES = Ranges((("b", B), ("q", S), ("k", S)))
KEY_VALID, QUERY_VALID = Valid(ROW, K), Valid(ROW, Q)


def _value(poly: Poly, at: dict[str, int]) -> int:
    return sum(coef * int(np.prod([at[name] for name in mono], dtype=np.int64)) for mono, coef in poly.terms)


def test_equal_expressions_are_equal() -> None:
    assert (Q + K) * 2 - K - K == Q * 2
    assert (Q - Q).constant == 0
    assert str(ROW * S + K - 1) == "S*b + k - 1"


def test_division_keeps_quotient_and_rest() -> None:
    assert divide(ROW * S + K, S) == (ROW, K)
    assert divide(B * S, B) == (S, Poly.number(0))
    assert divide(Q * 6 + 5, Poly.number(3)) == (Q * 2, Poly.number(5))


@pytest.mark.parametrize(
    "poly",
    [-Q, Q - S, Q - S + 1, K - Q, Q + K - S * 2 + 1, ROW * S + K - B * S + 1, ROW * S - B * S, S - 1, Q * K, -S + 1],
)
def test_bounds_hold_wherever_they_are_shown(poly: Poly) -> None:
    values = [
        _value(poly, {"B": batch, "S": length, "q": q, "k": k, "b": b})
        for batch, length in itertools.product((1, 2, 3), (1, 2, 5))
        for q, k, b in itertools.product(range(length), range(length), range(batch))
    ]
    assert not RANGES.at_most_zero(poly) or max(values) <= 0
    largest = RANGES.largest(poly)
    assert largest is None or largest >= max(values)


def test_what_the_ranges_decide_is_folded() -> None:
    assert at_most_zero(-Q, RANGES) == TRUE
    assert at_most_zero(S - Q, RANGES) == FALSE
    assert at_most_zero(K - Q, RANGES) not in (TRUE, FALSE)
    assert RANGES.at_most_zero(ROW * S + K - B * S + 1)


def test_formulas_fold() -> None:
    causal = at_most_zero(K - Q, RANGES)
    assert all_of(causal, TRUE) == causal
    assert all_of(causal, FALSE) == FALSE
    assert any_of(causal, negate(causal)) == TRUE
    assert all_of(causal, negate(causal)) == FALSE
    assert negate(negate(causal)) == causal
    assert choose(causal, TRUE, FALSE) == causal


def test_tables_decide_specs_exactly() -> None:
    causal = at_most_zero(K - Q, RANGES)
    assert tabulate(all_of(causal, KEY_VALID), None).spec() == MaskSpec(padding=True, causal=True)
    assert tabulate(any_of(causal, at_most_zero(K - Q - 3, RANGES)), None).spec() is None
    assert tabulate(all_of(causal, at_most_zero(K - Q - 3, RANGES)), None).spec() == MaskSpec(causal=True)
    assert tabulate(QUERY_VALID, None).spec() is None
    # On the diagonal the key is the query, so hiding padded keys there is no other mask.
    off_diagonal = negate(all_of(causal, at_most_zero(Q - K, RANGES)))
    assert tabulate(all_of(KEY_VALID, any_of(QUERY_VALID, off_diagonal)), None).spec() == MaskSpec(padding=True)


def test_a_row_of_the_batch_that_is_not_this_one_is_not_read() -> None:
    with pytest.raises(Unreadable, match=r"attention_mask\[0, k\]"):
        tabulate(Valid(Poly.number(0), K), None)


def test_distances_that_do_not_occur_at_a_static_length_do_not_count() -> None:
    window = at_most_zero(Q - K - 31, RANGES)
    assert tabulate(window, 32).spec() == MaskSpec()
    assert tabulate(window, 33).spec() is None


@pytest.mark.parametrize("diagonal", [-3, -1, 0, 1, 3])
@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_triangular_tables_are_read_with_their_diagonal(diagonal: int, shape: tuple[int, int]) -> None:
    table = np.tril(np.ones(shape, dtype=bool), diagonal)
    tensor = constant_tensor(table, Ranges(()))
    for row, column in np.ndindex(*shape):
        folded = constant_tensor(table, Ranges(())).at((Poly.number(row), Poly.number(column)))
        assert folded == (TRUE if table[row, column] else FALSE)
    # A table that is all one value inside its shape says nothing about a diagonal.
    expected = TRUE if table.all() else at_most_zero(Poly.variable("c") - Poly.variable("r") - diagonal, Ranges(()))
    assert tensor.at((Poly.variable("r"), Poly.variable("c"))) == expected


def test_a_table_with_one_flipped_element_is_not_triangular() -> None:
    table = np.tril(np.ones((6, 6), dtype=bool))
    table[2, 5] = True
    with pytest.raises(Unreadable, match="a table of constants"):
        constant_tensor(table, Ranges(())).at((Q, K))
