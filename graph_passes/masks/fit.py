"""Guess patterns from a mask without padding: windows, dilation, global tokens, bands of blocks, prefixes.

Guesses only: whoever asks compares each with everything that is known of the mask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from raggedrt.graph_passes.masks.algebra import (
    BlockBand,
    Causal,
    Everything,
    GlobalTokens,
    Prefix,
    Strided,
    Term,
    Window,
)
from raggedrt.graph_passes.masks.block_list import BlockList
from raggedrt.graph_passes.masks.expressions import all_terms, any_term
from raggedrt.graph_passes.masks.formula import AtMostZero, Formula, atoms
from raggedrt.graph_passes.masks.pairs import BoolArray, IntArray
from raggedrt.graph_passes.masks.poly import Poly
from raggedrt.graph_passes.masks.prove import divisors_of, over_slots, values_at
from raggedrt.graph_passes.masks.spec import UNDERSTOOD, MaskSpec

ROWS = 3
"""Ordinary rows at either end that are looked at."""
UNKNOWN = 2
"""Neither visible nor hidden: not seen."""
MAX_LEAD = 4096
"""Positions at the start of a row among which global tokens are looked for."""
MAX_PAIRS = 2**22
"""Pairs that are looked at for them."""
MAX_LENGTH = 2**21
"""Longest row at which a formula is looked at."""


@dataclasses.dataclass(frozen=True)
class Sight:
    """A mask without padding, to be looked at where one likes.

    Attributes:
        at: visibility of queries and keys that broadcast against each other.
        length: of the row; long enough that everything the mask does can be seen.
        lead: positions at the start of the row that may be special.
        divisors: sizes of blocks and strides that may occur.
    """

    at: Callable[[IntArray, IntArray], BoolArray]
    length: int
    lead: int
    divisors: tuple[int, ...]

    def rows(self, queries: Iterable[int]) -> BoolArray:
        """Whole rows, bool [Q, S]."""
        chosen = np.asarray(list(queries), dtype=np.int64)
        keys = np.arange(self.length, dtype=np.int64)
        return np.broadcast_to(self.at(chosen[:, None], keys[None, :]), (len(chosen), self.length))

    def columns(self, keys: Iterable[int]) -> BoolArray:
        """Whole columns, bool [K, S]."""
        chosen = np.asarray(list(keys), dtype=np.int64)
        queries = np.arange(self.length, dtype=np.int64)
        return np.broadcast_to(self.at(queries[None, :], chosen[:, None]), (len(chosen), self.length))


def sight_of(visible: BoolArray, lead: int, divisors: Iterable[int]) -> Sight:
    """Of a mask that was evaluated, bool [S, S]."""
    length = len(visible)
    return Sight(lambda q, k: visible[q, k], length, min(lead, length), _sizes(divisors, length))


def sight_of_formula(formula: Formula, sequence: int | None) -> Sight:
    """Of a formula, at a length beyond everything that it compares."""
    polys = [atom.poly for atom in atoms(formula) if isinstance(atom, AtMostZero) and over_slots(atom.poly)]
    sizes = [(abs(dict(poly.terms).get((), 0)) + 1) * max(divisors_of(poly), default=1) for poly in polys]
    fixed = [size for poly, size in zip(polys, sizes, strict=True) if _of_one_slot(poly)]
    length = sequence or min(4 * sum(sizes) + 8, MAX_LENGTH)
    divisors = {by for poly in polys for by in divisors_of(poly)}
    return Sight(lambda q, k: values_at(formula, q, k), length, max(fixed, default=1), _sizes(divisors, length))


def _of_one_slot(poly: Poly) -> bool:
    return len({letter for name in poly.variables for letter in "qk" if letter in name}) == 1


def frozen_specs(visible: BoolArray) -> list[MaskSpec]:
    """Block lists of a mask of fixed length without padding, bool [S, S], and-ed with every kind of padding."""
    found = BlockList.frozen(visible)
    if found is None:
        return []
    return [
        dataclasses.replace(base, pattern=found)
        for base in UNDERSTOOD
        if not base.causal and (base.padding or not base.unattended_rows_open)
    ]


def _sizes(divisors: Iterable[int], length: int) -> tuple[int, ...]:
    return tuple(sorted({by for by in divisors if 1 < by < length}))


def fitted_specs(sight: Sight) -> list[MaskSpec]:
    """Specs that might be the mask, without padding first; those of `UNDERSTOOD` before all others."""
    patterns = list(dict.fromkeys(_patterns(sight)))
    specs = list(UNDERSTOOD)
    for pattern in patterns:
        for base in UNDERSTOOD:
            if not base.causal:  # the pattern says itself whether it is
                both = all_terms(base.expression, pattern)
                specs.append(MaskSpec.of_expression(both, unattended_rows_open=base.unattended_rows_open))
    return list(dict.fromkeys(specs))


def _patterns(sight: Sight) -> Iterator[Term]:
    length = sight.length
    lead = max(1, min(sight.lead, MAX_LEAD, MAX_PAIRS // length, length))
    special = np.arange(lead)
    slots = np.arange(length)
    rows, columns = sight.rows(special), sight.columns(special)
    tail = sight.rows([length - 1, length // 2])
    causal = not bool((rows & (slots > special[:, None])).any() or tail[1, length // 2 + 1 :].any())
    base: Term = Causal() if causal else Everything()
    for local in _local(sight, set(), causal):
        yield all_terms(base, local)
    first_hidden = int(np.argmin(rows[0])) if not rows[0].all() else 0
    if first_hidden and not causal:
        yield any_term(Causal(), Prefix(first_hidden))
        for local in _local(sight, set(range(first_hidden)), causal):
            yield any_term(local, Prefix(first_hidden))
    seen: BoolArray = np.asarray((columns | (slots < special[:, None]) if causal else columns).all(axis=1))
    sees: BoolArray = np.asarray((rows | (slots > special[:, None]) if causal else rows).all(axis=1))
    everywhere = GlobalTokens(tuple(special[seen & sees].tolist()))
    globals_: list[Term] = [everywhere]
    if not bool((seen == sees).all()) or causal:
        globals_ += [_sided(special[sees].tolist(), rows=True), _sided(special[seen].tolist(), rows=False)]
        globals_.append(any_term(*globals_[1:]))
    for found in (term for term in globals_ if _positions(term)):
        for local in _local(sight, set(_positions(found)), causal):
            yield all_terms(base, any_term(local, found))
    for stride in sight.divisors:
        for offset in np.flatnonzero(seen[:stride]).tolist():
            yield all_terms(base, Strided(stride, offset))
            for local in _local(sight, set(range(offset, length, stride)), causal):
                yield all_terms(base, any_term(local, Strided(stride, offset)))


def _sided(positions: list[int], *, rows: bool) -> Term:
    return GlobalTokens(tuple(positions), rows=rows, columns=not rows)


def _positions(term: Term) -> tuple[int, ...]:
    if isinstance(term, GlobalTokens):
        return term.positions
    operands = getattr(term, "operands", ())
    return tuple(sorted({position for operand in operands for position in _positions(operand)}))


def _local(sight: Sight, special: set[int], causal: bool) -> Iterator[Term]:
    """Windows and bands of blocks that show what the first and the last ordinary rows show of ordinary keys."""
    ordinary = np.setdiff1d(np.arange(sight.length), np.fromiter(special, dtype=np.int64))
    if len(ordinary) < 2:
        return
    chosen = np.unique(np.concatenate([ordinary[:ROWS], ordinary[-ROWS:]]))
    shown = np.full(2 * sight.length + 1, UNKNOWN)  # by key - query
    for query, row in zip(chosen.tolist(), sight.rows(chosen.tolist()), strict=True):
        shown[sight.length + ordinary - query] = row[ordinary]
    if causal:
        shown[sight.length + 1 :] = UNKNOWN
    window = _window(shown, sight.length)
    if window is not None:
        yield window
    for stride in sight.divisors:
        multiples = np.arange(sight.length % stride, len(shown), stride)
        if bool((shown[multiples] != 0).all()):  # all multiples of a distance, and a window
            others = shown.copy()
            others[np.setdiff1d(multiples, [sight.length])] = UNKNOWN
            window = _window(others, sight.length)
            if window is not None:
                yield any_term(Window(dilation=stride), window)
    for block in sight.divisors:
        band = _band(sight, ordinary, block, causal)
        if band is not None:
            yield band


def _window(shown: npt.NDArray[np.int_], centre: int) -> Window | None:
    """The window of what is seen by key - query (0, 1 or unknown); None where it is no such thing."""
    visible = np.flatnonzero(shown == 1) - centre
    if not len(visible) or shown[centre] != 1:
        return None
    first, last = int(visible[0]), int(visible[-1])
    dilation = int(np.gcd.reduce(visible)) or 1
    inside = np.arange(first, last + 1)
    seen = shown[centre + inside]
    if bool(((seen != UNKNOWN) & (seen != (inside % dilation == 0))).any()):
        return None
    left, right = shown[max(centre + first - dilation, 0)], shown[min(centre + last + dilation, len(shown) - 1)]
    return Window(-1 if left == UNKNOWN else -first, -1 if right == UNKNOWN else last, dilation)


def _band(sight: Sight, ordinary: IntArray, block: int, causal: bool) -> BlockBand | None:
    """The band of blocks that the first, the last and a middle ordinary row show."""
    shown: dict[int, bool] = {}
    chosen = [int(ordinary[0]), int(ordinary[len(ordinary) // 2]), int(ordinary[-1])]
    for query, row in zip(chosen, sight.rows(chosen), strict=True):
        keys = ordinary[ordinary <= query] if causal else ordinary
        distances = keys // block - query // block
        for distance in np.unique(distances).tolist():
            values = row[keys[distances == distance]]
            if values.any() != values.all() or shown.setdefault(distance, bool(values[0])) != bool(values[0]):
                return None
    visible = sorted(distance for distance, seen in shown.items() if seen)
    if not visible or set(range(visible[0], visible[-1] + 1)) & set(shown) != set(visible) or not shown.get(0):
        return None
    left = -1 if visible[0] - 1 not in shown else -visible[0]
    right = -1 if visible[-1] + 1 not in shown else visible[-1]
    return BlockBand(block, left, right)
