"""Analytic masks as integers: what the rules mean, and that encoding loses nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings

from helpers.mask_strategies import CLAUSES
from raggedrt.errors import InputError
from raggedrt.plugins.contract.mask_rules import (
    RULE_INTS,
    UNBOUNDED,
    Clauses,
    Rule,
    causal,
    columns,
    decode,
    encode,
    rows,
    visible,
    window,
)

pytestmark = pytest.mark.none

LENGTH = 23
MEANINGS: dict[str, tuple[Clauses, Callable[[int, int], bool]]] = {
    "nothing": ([], lambda q, k: True),
    "causal": ([[causal()]], lambda q, k: k <= q),
    "window": ([[window(4, 2)]], lambda q, k: q - 4 <= k <= q + 2),
    "causal_window": ([[window(4, -1)], [causal()]], lambda q, k: q - 4 <= k <= q),
    "dilated": ([[window(6, 6, dilation=3)]], lambda q, k: abs(q - k) in (0, 3, 6)),
    "global": ([[window(1, 1), rows(5, 6), columns(5, 6)]], lambda q, k: abs(q - k) <= 1 or 5 in (q, k)),
    "prefix": ([[causal(), columns(0, 7)]], lambda q, k: k <= q or k < 7),
    "chunked": ([[window(0, 0, unit=8)]], lambda q, k: q // 8 == k // 8),
    "block_band": ([[window(1, 0, unit=4)]], lambda q, k: q // 4 - 1 <= k // 4 <= q // 4),
    "strided": ([[columns(3, UNBOUNDED, step=4)]], lambda q, k: k % 4 == 3),
    "last_block": ([[columns(-1, UNBOUNDED, unit=8)]], lambda q, k: k >= 16),
    "before_the_last": ([[rows(0, -1)]], lambda q, k: q < LENGTH - 1),
    "empty_range": ([[columns(0, 0)]], lambda q, k: False),
    "strictly_before": ([[Rule(distance=(-UNBOUNDED, -1, 1))]], lambda q, k: k < q),
}


@pytest.mark.parametrize("name", MEANINGS)
def test_rules_mean_what_they_say(name: str) -> None:
    clauses, expected = MEANINGS[name]
    for query in range(LENGTH):
        for key in range(LENGTH):
            assert visible(clauses, query, key, LENGTH) == expected(query, key), (query, key)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(CLAUSES)
def test_decoding_gives_what_was_encoded(clauses: list[list[Rule]]) -> None:
    numbers = encode(clauses)
    assert len(numbers) == RULE_INTS * sum(map(len, clauses))
    assert decode(numbers) == tuple(map(tuple, clauses))


def test_impossible_rules_are_refused() -> None:
    with pytest.raises(InputError, match="every step must be at least 1"):
        Rule(unit=0)
    with pytest.raises(InputError, match="within 32 bits"):
        Rule(key=(0, 2**31, 1))
    with pytest.raises(InputError, match=f"12 integers of rules, expected a multiple of {RULE_INTS}"):
        decode(range(12))
    numbers = encode([[causal()], [causal()]])
    with pytest.raises(InputError, match="Rule 1 of a mask is of clause 3, expected 0"):
        decode([*numbers[:RULE_INTS], 3, *numbers[RULE_INTS + 1 :]])
    with pytest.raises(InputError, match="Clause 1 of the mask has no rule"):
        encode([[causal()], []])
