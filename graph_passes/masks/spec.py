"""The mask that attention applies, as terms of which every one must hold for a key to be visible."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """All query-key pairs of a padded batch, broadcastable to bool [B, S_q, S_k].

    Attributes:
        query: query slot, int64 [1, S_q, 1].
        key: key slot, int64 [1, 1, S_k].
        query_valid: the query slot holds a token, bool [B, S_q, 1].
        key_valid: the key slot holds a token, bool [B, 1, S_k].
    """

    query: npt.NDArray[np.int64]
    key: npt.NDArray[np.int64]
    query_valid: BoolArray
    key_valid: BoolArray

    @classmethod
    def of(cls, attention_mask: npt.ArrayLike) -> Pairs:
        """Pairs of a padding mask [B, S]; non-zero is a token."""
        valid = np.asarray(attention_mask) != 0
        slots = np.arange(valid.shape[1], dtype=np.int64)
        return cls(slots[None, :, None], slots[None, None, :], valid[:, :, None], valid[:, None, :])


@dataclasses.dataclass(frozen=True)
class Term:
    """One condition of a `MaskSpec`: the field that switches it on, its words and its truth."""

    field: str
    words: str
    holds: Callable[[Pairs], BoolArray]
    needs_padding: bool
    """The condition reads attention_mask, so it says nothing about a batch without padding."""


TERMS = (
    Term("padding", "key is not padding", lambda p: p.key_valid, True),
    Term("causal", "key <= query", lambda p: p.key <= p.query, False),
    Term("padded_queries_masked", "query is not padding", lambda p: p.query_valid, True),
)
"""The kinds of mask that are understood; a new kind is a field of `MaskSpec` and a row here."""


@dataclasses.dataclass(frozen=True)
class MaskSpec:
    """Which keys each query sees: those for which every term that is switched on holds.

    Attributes:
        padding: keys at padded slots are hidden.
        causal: keys after the query (by slot) are hidden.
        padded_queries_masked: queries at padded slots see nothing (DeBERTa's outer product of the padding mask).
        unattended_rows_open: a query that would see nothing sees every key instead (older transformers exports).
            With padding and causal only padded slots and empty rows are such queries, so packing may ignore it.
    """

    padding: bool = False
    causal: bool = False
    padded_queries_masked: bool = False
    unattended_rows_open: bool = False

    @property
    def terms(self) -> tuple[Term, ...]:
        """The rows of `TERMS` that are switched on."""
        return tuple(term for term in TERMS if getattr(self, term.field))

    def visible(self, attention_mask: npt.ArrayLike) -> BoolArray:
        """The whole mask of a padded batch.

        Args:
            attention_mask: [B, S], non-zero where a slot holds a token.

        Returns:
            bool [B, S_q, S_k], True where the query sees the key.
        """
        pairs = Pairs.of(attention_mask)
        batch, length = np.shape(attention_mask)
        visible = np.ones((batch, length, length), dtype=np.bool_)
        for term in self.terms:
            visible &= term.holds(pairs)
        if self.unattended_rows_open:
            visible |= ~visible.any(axis=2, keepdims=True)
        return visible

    def describe(self) -> str:
        """The mask in words."""
        words = " and ".join(term.words for term in self.terms) or "every key is visible"
        return f"{words}; queries that see nothing see everything" if self.unattended_rows_open else words

    def density(self, length: int) -> float:
        """Kept share of the query-key pairs of one sequence of `length` tokens without padding."""
        return (length + 1) / (2 * length) if self.causal and length > 0 else 1.0

    def to_json(self) -> dict[str, Any]:
        """The fields, for reports and manifests."""
        return dataclasses.asdict(self)


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
"""Every spec that a mask is compared with, simplest first. Queries are hidden only where keys are, too:
a mask that hides padded queries but shows padded keys cannot be packed."""
