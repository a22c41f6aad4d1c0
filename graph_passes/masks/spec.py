"""The mask that attention applies: padding, causality, and a pattern of terms, all of which must hold."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from raggedrt.errors import InputError
from raggedrt.graph_passes.masks import expressions
from raggedrt.graph_passes.masks.algebra import (
    And,
    BlockBand,
    Causal,
    Everything,
    KeyPadding,
    Or,
    QueryPadding,
    Term,
    Window,
)
from raggedrt.graph_passes.masks.analytic import AnalyticMask, analytic_form
from raggedrt.graph_passes.masks.bigbird import BigBird
from raggedrt.graph_passes.masks.block_list import BlockList
from raggedrt.graph_passes.masks.density import kept_pairs
from raggedrt.graph_passes.masks.pairs import OWN, PADDED, BoolArray, Pairs
from raggedrt.graph_passes.masks.rules import Clauses, clauses_of
from raggedrt.graph_passes.masks.short_rows import ShortRow

EVERYTHING = Everything()

FLAGS: tuple[tuple[str, Term], ...] = (
    ("padding", KeyPadding()),
    ("causal", Causal()),
    ("padded_queries_masked", QueryPadding()),
)
"""Terms that are fields of `MaskSpec`."""


@dataclasses.dataclass(frozen=True)
class MaskSpec:
    """Which keys each query sees: those for which every term that is switched on holds, and the pattern.

    Attributes:
        padding: keys at padded slots are hidden.
        causal: keys after the query are hidden.
        padded_queries_masked: queries at padded slots see nothing (DeBERTa's outer product of the padding mask).
        unattended_rows_open: a query that would see nothing sees every key instead (older transformers exports).
            With padding and causal only padded slots and empty rows are such queries, so packing may ignore it.
        pattern: what else must hold. Canonical (see `of_expression`), so that equal masks of one kind are equal.
        of: what its indices count: slots of the padded row (`padded`), or the valid tokens of a row (`own`).
    """

    padding: bool = False
    causal: bool = False
    padded_queries_masked: bool = False
    unattended_rows_open: bool = False
    pattern: Term = EVERYTHING
    of: str = PADDED

    def __post_init__(self) -> None:
        if self.of not in (PADDED, OWN):
            raise InputError(f"A mask is of '{PADDED}' or of '{OWN}' positions, not of '{self.of}'.")

    @classmethod
    def of_expression(cls, expression: Term, *, of: str = PADDED, unattended_rows_open: bool = False) -> Self:
        """The canonical spec: what is and-ed with everything becomes a field, what that makes idle is dropped."""
        parts: list[Term] = [expressions.all_terms(expression)]
        if isinstance(parts[0], And):
            parts = list(parts[0].operands)
        flags = {field: term in parts for field, term in FLAGS}
        rest = [part for part in parts if part not in dict(FLAGS).values()]
        if any(isinstance(part, Window) and part.right == 0 for part in rest):
            flags["causal"] = True
        if flags["causal"]:
            rest = [_under_causal(part) for part in rest]
        pattern = expressions.all_terms(*rest)
        return cls(**flags, unattended_rows_open=unattended_rows_open, pattern=pattern, of=of)

    @property
    def expression(self) -> Term:
        """All terms as one expression (`unattended_rows_open` is none: it looks at whole rows)."""
        return expressions.all_terms(*(term for field, term in FLAGS if getattr(self, field)), self.pattern)

    @property
    def reads_padding(self) -> bool:
        """It says nothing about a batch without a padding mask."""
        terms = list(expressions.leaves(self.expression))
        return any(isinstance(term, KeyPadding | QueryPadding) for term in terms)

    @property
    def reads_length(self) -> bool:
        """It counts from the end of the row or changes with its length."""
        return any(isinstance(term, BigBird | ShortRow) for term in expressions.leaves(self.pattern))

    def conjoined(self, other: MaskSpec) -> MaskSpec:
        """What both show.

        Raises:
            InputError: one counts slots, the other own tokens.
        """
        plain = [spec for spec in (self, other) if spec.pattern == EVERYTHING and not spec.padded_queries_masked]
        if self.of != other.of and not plain:
            raise InputError("A mask of padded positions and one of own positions cannot be one mask.")
        of = other.of if plain and plain[0] is self else self.of
        opened = self.unattended_rows_open or other.unattended_rows_open
        both = expressions.all_terms(self.expression, other.expression)
        return MaskSpec.of_expression(both, of=of, unattended_rows_open=opened)

    def visible(self, attention_mask: npt.ArrayLike, segments: npt.ArrayLike | None = None) -> BoolArray:
        """The whole mask of a padded batch.

        Args:
            attention_mask: [B, S], non-zero where a slot holds a token.
            segments: int [B, S], document of each slot, where the mask compares documents.

        Returns:
            bool [B, S_q, S_k], True where the query sees the key. A mask of own positions shows padded slots nothing
            and to nobody.
        """
        own = self.of == OWN
        pairs = Pairs.of(attention_mask, segments, own=own)
        visible = np.broadcast_to(self.expression.holds(pairs), pairs.shape).copy()
        if own:
            visible &= pairs.query_valid & pairs.key_valid
        if self.unattended_rows_open:
            visible |= ~visible.any(axis=2, keepdims=True)
        return visible

    def visible_at(self, query: npt.ArrayLike, key: npt.ArrayLike, length: int = 0) -> BoolArray:
        """The mask among positions of one row.

        Args:
            query: int [Q], positions of queries (slots or own indices, as `of` says).
            key: int [K]; a negative one is never visible.
            length: of the row; needed by patterns that count from its end.

        Returns:
            bool [Q, K]
        """
        pairs = Pairs.at(query, key, length)
        visible = np.broadcast_to(self.expression.holds(pairs), pairs.shape) & (pairs.key >= 0)
        if self.unattended_rows_open:
            visible = visible | ~visible.any(axis=1, keepdims=True)
        return np.asarray(visible)

    def analytic(self) -> AnalyticMask | None:
        """The mask as attributes of `RaggedAttention`; None where it needs tiles."""
        return analytic_form(self.pattern, causal=self.causal)

    def clauses(self) -> Clauses | None:
        """Causality and pattern as rules of the BlockMask op; None where they have none."""
        return clauses_of(expressions.all_terms(*([Causal()] if self.causal else []), self.pattern))

    @property
    def shows_itself(self) -> bool:
        """Every token sees itself, so that whatever is padded it sees something."""
        lists = [term.length for term in expressions.leaves(self.pattern) if isinstance(term, BlockList)]
        slots = np.arange(min(lists, default=max(4096, 4 * self.largest_constant)), dtype=np.int64)
        token = np.ones(1, dtype=np.bool_)
        same = np.zeros(1, dtype=np.int64)
        return bool(self.pattern.holds(Pairs(slots, slots, token, token, len(slots), same, same)).all())

    @property
    def largest_constant(self) -> int:
        """The largest number in the pattern: below a few times this length, a mask shows too little of itself."""
        fields = (value for term in expressions.leaves(self.pattern) for value in vars(term).values())
        flat = (item for value in fields for item in (value if isinstance(value, tuple) else (value,)))
        return max((item for item in flat if isinstance(item, int)), default=0)

    def describe(self) -> str:
        """The mask in words."""
        words = self.expression.words
        words = f"{words} (positions count the row's own tokens)" if self.of == OWN else words
        return f"{words}; queries that see nothing see everything" if self.unattended_rows_open else words

    def __str__(self) -> str:
        """The mask as a short spec, which `short_spec.parse_mask` reads (block lists have only a name there)."""
        return str(self.expression)

    def density(self, length: int) -> float:
        """Kept share of the query-key pairs of one sequence of `length` tokens without padding."""
        return kept_pairs(self.expression, length) / length**2 if length > 0 else 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain values, for reports and manifests."""
        flags = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "pattern"}
        return {**flags, "pattern": expressions.to_json(self.pattern)}

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """The inverse of `to_json`; fields that older writers did not know may be absent.

        Raises:
            InputError: it is no such document.
        """
        if not isinstance(document, dict):
            raise InputError(f"A mask is a dictionary, not {type(document).__name__}.")
        fields = {**document}
        pattern = expressions.from_json(fields.pop("pattern", {"term": Everything.name}))
        of = fields.pop("of", PADDED)
        known = {field.name for field in dataclasses.fields(cls)}
        for name, value in fields.items():
            if name not in known or not isinstance(value, bool):
                raise InputError(f"A mask has no field {name!r} of value {value!r}; its flags are true or false.")
        return cls(**fields, pattern=pattern, of=of)


def _under_causal(part: Term) -> Term:
    """Limits on keys after the query are idle where there are none."""
    if isinstance(part, Window):
        return dataclasses.replace(part, right=-1)
    if isinstance(part, BlockBand):
        return Everything() if part.left < 0 else dataclasses.replace(part, right=-1)
    if isinstance(part, And):
        return expressions.all_terms(*(_under_causal(operand) for operand in part.operands))
    if isinstance(part, Or):
        return expressions.any_term(*(_under_causal(operand) for operand in part.operands))
    return Everything() if isinstance(part, Causal) else part


UNDERSTOOD = tuple(
    MaskSpec(padding, causal, queries, unattended)
    for padding, queries, unattended in (
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (True, False, True),
    )
    for causal in (False, True)
)
"""Specs without a pattern that every mask is compared with, simplest first. Queries are hidden only where keys are,
too: a mask that hides padded queries but shows padded keys cannot be packed."""
