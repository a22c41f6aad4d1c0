"""How a mask value is meant, and which graph inputs it may read."""

from __future__ import annotations

import dataclasses
import enum


class Polarity(enum.Enum):
    """What an element of a mask value does to its score."""

    ADDITIVE = "additive"
    """A number added to the score: 0 is visible, at most `MASKED_AT_MOST` is hidden, anything else is a bias."""
    BOOL_KEEP = "bool_keep"
    """True (or non-zero) is visible."""
    BOOL_DROP = "bool_drop"
    """True (or non-zero) is hidden."""


MASKED_AT_MOST = -1e4
"""An added number at or below this hides the key (BERT's -10000, fp16's -65504, fp32's lowest, -inf)."""


class MaskAxes(enum.Enum):
    """What the axes of a mask value are, aligned at the end: b batch, n head, q query, k key."""

    BROADCAST = "bnqk"
    """ONNX broadcasting against scores [batch, heads, queries, keys]; leading axes may be absent."""
    BATCH_KEYS = "bk"
    """Contrib ops' key_padding_mask and raw mask_index [batch, keys]."""
    BATCH_QUERIES_KEYS = "bqk"
    """Contrib Attention's mask_index [batch, queries, keys]."""
    MERGED_HEADS_KEYS = "mqk"
    """[batch * heads, 1, keys]: a number per head and key that is added where batch and heads share an axis (ALiBi)."""
    KEY_LENGTHS = "b"
    """Contrib Attention's mask_index [batch]: keys 0 <= k < length are visible."""


@dataclasses.dataclass(frozen=True)
class GraphInputs:
    """The graph inputs that a mask may depend on.

    Attributes:
        attention_mask: name of the padding mask input [batch, sequence], 1 = token; None where the graph has none.
        per_token: names of the other inputs [batch, sequence] (input_ids, token_type_ids, position_ids …).
        batch: static batch size; None where it is dynamic.
        sequence: static sequence length in tokens; None where it is dynamic.
        batch_symbols: names that dimensions of other inputs use for the batch.
        sequence_symbols: names that dimensions of other inputs use for the sequence.
    """

    attention_mask: str | None
    per_token: tuple[str, ...] = ()
    batch: int | None = None
    sequence: int | None = None
    batch_symbols: frozenset[str] = frozenset({"batch"})
    sequence_symbols: frozenset[str] = frozenset({"seq", "sequence"})
