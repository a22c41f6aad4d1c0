"""The query-key pairs that a mask is asked about, with what it may look at."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

PADDED, OWN = "padded", "own"
"""What a spec's indices count: slots of the padded row, or the valid tokens of a row."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Query-key pairs, arrays that broadcast against each other to bool [B, Q, K] (or to any other shape).

    Attributes:
        query: query index.
        key: key index.
        query_valid: the query holds a token.
        key_valid: the key holds a token.
        length: tokens or slots that a row has at most; patterns that count from the end need it.
        query_segment: number of the document that the query is part of; None where nothing tells.
        key_segment: the same of the key.
    """

    query: IntArray
    key: IntArray
    query_valid: BoolArray
    key_valid: BoolArray
    length: int = 0
    query_segment: IntArray | None = None
    key_segment: IntArray | None = None

    @classmethod
    def of(cls, attention_mask: npt.ArrayLike, segments: npt.ArrayLike | None = None, *, own: bool = False) -> Pairs:
        """All pairs of a padded batch.

        Args:
            attention_mask: [B, S], non-zero where a slot holds a token.
            segments: int [B, S], document of each slot.
            own: indices count the valid tokens of a row (a padded slot has that of the token before it).
        """
        valid = np.asarray(attention_mask) != 0
        length = valid.shape[1]
        slots = np.maximum(np.cumsum(valid, axis=1) - 1, 0) if own else np.arange(length, dtype=np.int64)[None]
        documents = None if segments is None else np.asarray(segments, dtype=np.int64)
        return cls(
            slots[:, :, None],
            slots[:, None, :],
            valid[:, :, None],
            valid[:, None, :],
            length,
            None if documents is None else documents[:, :, None],
            None if documents is None else documents[:, None, :],
        )

    @classmethod
    def at(
        cls,
        query: npt.ArrayLike,
        key: npt.ArrayLike,
        length: int = 0,
        segments: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    ) -> Pairs:
        """Every query [Q] with every key [K], by position; a negative position is padding."""
        rows, columns = np.asarray(query, dtype=np.int64)[:, None], np.asarray(key, dtype=np.int64)[None, :]
        documents = (None, None) if segments is None else tuple(np.asarray(s, dtype=np.int64) for s in segments)
        return cls(
            rows,
            columns,
            rows >= 0,
            columns >= 0,
            length,
            None if documents[0] is None else documents[0][:, None],
            None if documents[1] is None else documents[1][None, :],
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """What the arrays broadcast to."""
        return np.broadcast_shapes(
            np.shape(self.query), np.shape(self.key), np.shape(self.query_valid), np.shape(self.key_valid)
        )
