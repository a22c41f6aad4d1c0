"""Rows of different lengths as one batch: padded at the right, or packed end to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Row = Mapping[str, Array]
"""Per-token inputs of one sequence by name, each [length, ...]."""


def pad_rows(rows: Sequence[Row], pad_values: Mapping[str, float] = MappingProxyType({})) -> dict[str, Array]:
    """Each input as [B, S, ...], with its pad value (default 0, as in an attention mask) at padded slots."""
    longest = max(len(next(iter(row.values()))) for row in rows)
    batch: dict[str, Array] = {}
    for name, first in rows[0].items():
        batch[name] = np.full((len(rows), longest, *first.shape[1:]), pad_values.get(name, 0), first.dtype)
        for index, row in enumerate(rows):
            batch[name][index, : len(row[name])] = row[name]
    return batch


def pack_rows(rows: Sequence[Row]) -> dict[str, Array]:
    """Each input as [T, ...], with `cu_seqlens` and `max_seqlen`."""
    packed = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return {**packed, **ragged_offsets([len(next(iter(row.values()))) for row in rows])}


def ragged_offsets(lengths: Sequence[int]) -> dict[str, Array]:
    """`cu_seqlens` int32 [B+1], and `max_seqlen` float32 [M] of which only the length counts."""
    return {
        "cu_seqlens": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        "max_seqlen": np.zeros(max(lengths), np.float32),
    }
