"""What each graph input and output means to a caller: the manifest lists these, the session obeys them."""

from __future__ import annotations

import dataclasses
import enum


class Role(enum.StrEnum):
    """Meaning of a graph input or output."""

    PER_TOKEN = "per_token"
    """[B, S, ...] with padded I/O, [T, ...] with ragged I/O."""
    PER_SEQUENCE = "per_sequence"
    """[B, ...]."""
    ATTENTION_MASK = "attention_mask"
    """[B, S], non-zero at valid slots (padded I/O only)."""
    CU_SEQLENS = "cu_seqlens"
    """int32 [B+1] (ragged I/O only)."""
    MAX_SEQLEN = "max_seqlen"
    """float32 [M]: only the length M is read (ragged I/O only)."""
    OTHER = "other"
    """Anything else; passed through."""


@dataclasses.dataclass(frozen=True)
class TensorRole:
    """One graph input or output: `dtype` is a numpy (or ml_dtypes) name, `shape` has ints and symbols."""

    name: str
    role: Role
    dtype: str
    shape: tuple[int | str, ...]
