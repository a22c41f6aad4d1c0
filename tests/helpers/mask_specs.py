"""Random mask expressions, and what they mean pair by pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from raggedrt.graph_passes.masks.algebra import (
    And,
    BlockBand,
    Causal,
    Everything,
    GlobalTokens,
    KeyPadding,
    Or,
    Prefix,
    QueryPadding,
    Strided,
    Term,
    Window,
)
from raggedrt.graph_passes.masks.bigbird import BigBird
from raggedrt.graph_passes.masks.expressions import all_terms, any_term

_sides = st.integers(-1, 9)
_positions = st.lists(st.integers(0, 12), min_size=1, max_size=4).map(tuple)
_flags = st.sampled_from([(True, True), (True, False), (False, True)])

CONTENT_FREE: st.SearchStrategy[Term] = st.one_of(
    st.just(Causal()),
    st.builds(Window, _sides, _sides, st.integers(1, 4)),
    st.builds(lambda p, f: GlobalTokens(p, *f), _positions, _flags),
    st.builds(BlockBand, st.integers(1, 6), st.integers(-1, 3), st.integers(-1, 3)),
    st.builds(Prefix, st.integers(0, 9)),
    st.integers(1, 5).flatmap(lambda stride: st.builds(Strided, st.just(stride), st.integers(0, stride - 1))),
)
"""Terms that only compare positions."""

TERMS: st.SearchStrategy[Term] = st.one_of(
    CONTENT_FREE,
    st.sampled_from([Everything(), KeyPadding(), QueryPadding()]),
    st.builds(BigBird, st.integers(1, 4), st.sampled_from([1, 3]), st.integers(0, 3), st.integers(0, 2)),
)


def expressions(terms: st.SearchStrategy[Term] = TERMS) -> st.SearchStrategy[Term]:
    """And/or of terms, flattened as the parser does it."""

    def join(inner: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
        operands = st.lists(inner, min_size=2, max_size=3)
        return st.one_of(operands.map(lambda o: all_terms(*o)), operands.map(lambda o: any_term(*o)))

    return st.recursive(terms, join, max_leaves=6)


def sees(term: Term, query: int, key: int, valid: Sequence[bool]) -> bool:
    """Whether a term shows one key to one query, from its definition."""
    match term:
        case And():
            return all(sees(operand, query, key, valid) for operand in term.operands)
        case Or():
            return any(sees(operand, query, key, valid) for operand in term.operands)
        case Everything():
            return True
        case KeyPadding():
            return valid[key]
        case QueryPadding():
            return valid[query]
        case Causal():
            return key <= query
        case Window():
            near = (term.left < 0 or query - key <= term.left) and (term.right < 0 or key - query <= term.right)
            return near and (key - query) % term.dilation == 0
        case GlobalTokens():
            return (term.rows and query in term.positions) or (term.columns and key in term.positions)
        case BlockBand():
            return sees(Window(term.left, term.right), query // term.block, key // term.block, valid)
        case Prefix():
            return key < term.size
        case Strided():
            return key % term.stride == term.offset
        case BigBird():
            return _bigbird_sees(term, query // term.block, key // term.block, -(-len(valid) // term.block))
    raise NotImplementedError(term)


def _bigbird_sees(pattern: BigBird, row: int, column: int, rows: int) -> bool:
    half = (pattern.global_blocks + 1) // 2
    everywhere = [block for block in range(rows) if block < half or block >= rows - pattern.global_blocks // 2]
    if row in everywhere or column in everywhere or abs(row - column) <= pattern.window // 2:
        return True
    left = [b for b in range(rows) if b not in everywhere and abs(row - b) > pattern.window // 2]
    numbers = np.random.PCG64([pattern.seed, rows, row]).random_raw(len(left)).tolist()
    return column in [block for _, block in sorted(zip(numbers, left, strict=True))][: pattern.random]
