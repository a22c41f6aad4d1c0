"""Biases that an additive mask carries besides what it hides."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raggedrt.graph_passes.masks.extract import MaskRefused
from raggedrt.graph_passes.masks.pairs import OWN, PADDED
from raggedrt.plugins.contract.abi import Feature

FloatArray = npt.NDArray[np.float32]

DISTANCE, DENSE, ALIBI = "distance", "dense", "alibi"
_FEATURES = {DISTANCE: Feature.DISTANCE_BIAS, DENSE: Feature.BIAS, ALIBI: Feature.ALIBI}
MAX_ELEMENTS = 2**26
"""Largest bias of one evaluation."""


@dataclasses.dataclass(frozen=True, eq=False)
class MaskBias:
    """What is added to the scores of visible pairs, whatever the padding.

    Attributes:
        kind: `distance` (one number per head and key - query, at every length), `alibi` (a slope per head times the
            key's place) or `dense`.
        values: as it was probed, 0 where no key is ever visible. distance: float32 [1|N, 2 length - 1] by key - query,
            distance 0 in the middle. alibi: float32 [1|N]. dense: float32 [1, 1|N, length, length].
        length: tokens at which it was probed.
        of: what places of `alibi` count: slots of the padded row, or the valid tokens of a row.
    """

    kind: str
    values: FloatArray
    length: int
    of: str = PADDED

    @property
    def heads(self) -> int:
        """Heads that it tells apart; 1: all alike."""
        return int(self.values.shape[1 if self.kind == DENSE else 0])

    @property
    def feature(self) -> Feature:
        """The bit that adding it needs."""
        return _FEATURES[self.kind]

    def describe(self) -> str:
        """In words."""
        if self.kind == ALIBI:
            places = "own tokens" if self.of == OWN else "slots"
            return f"a slope per head over {places} (ALiBi), {self.heads} heads"
        by = "by distance" if self.kind == DISTANCE else "by query and key"
        return f"a bias {by}, {'for all heads alike' if self.heads == 1 else f'{self.heads} heads'}"

    def to_json(self) -> dict[str, Any]:
        """What it is, without its values."""
        return {"kind": self.kind, "heads": self.heads, "length": self.length}


def merged_bias(biases: Sequence[FloatArray]) -> FloatArray:
    """One bias [1, 1|N, S, S] of one length from those of several paddings [B|1, 1|N, S, S] (NaN: hidden).

    Raises:
        MaskRefused: it differs between rows or paddings.
    """
    heads = max(bias.shape[1] for bias in biases)  # where nothing but zero is added, heads are not told apart
    merged = np.full((1, heads, *biases[0].shape[2:]), np.nan, dtype=np.float32)
    for bias in biases:
        for row in np.broadcast_to(bias, (len(bias), *merged.shape[1:])):
            known = ~np.isnan(row) & ~np.isnan(merged[0])
            if bool((row[known] != merged[0][known]).any()):
                raise MaskRefused("it adds a bias that depends on the padding mask, so it cannot be told from the mask")
            merged[0] = np.where(np.isnan(merged[0]), row, merged[0])
    return merged


def explain_bias(by_length: dict[int, FloatArray]) -> MaskBias | None:
    """The kind of a bias from what was merged at each length (NaN: never visible); None where it is zero."""
    if all(bool((np.nan_to_num(bias) == 0).all()) for bias in by_length.values()):
        return None
    heads = max(bias.shape[1] for bias in by_length.values())
    by_length = {length: np.broadcast_to(bias, (1, heads, length, length)) for length, bias in by_length.items()}
    longest = max(by_length)
    tables = {length: _by_distance(bias) for length, bias in by_length.items()}
    table = tables[longest]
    if table is not None and all(found is not None and _same(found, table) for found in tables.values()):
        return MaskBias(DISTANCE, np.nan_to_num(table), longest)
    return MaskBias(DENSE, np.nan_to_num(by_length[longest]), longest)


def _by_distance(bias: FloatArray) -> FloatArray | None:
    """[1|N, 2S-1] where each diagonal holds one number; None where it does not."""
    length = bias.shape[-1]
    table = np.full((bias.shape[1], 2 * length - 1), np.nan, dtype=np.float32)
    for place in range(2 * length - 1):
        diagonal = np.diagonal(bias[0], place - (length - 1), axis1=1, axis2=2)  # [N, D]
        known = np.where(np.isnan(diagonal), -np.inf, diagonal).max(axis=1)  # every number of a diagonal is this one
        if bool((~np.isnan(diagonal) & (diagonal != known[:, None])).any()):
            return None
        table[:, place] = np.where(np.isneginf(known), np.nan, known)
    return table


def _same(short: FloatArray, long: FloatArray) -> bool:
    """A table is the middle of a longer one."""
    cut = (long.shape[1] - short.shape[1]) // 2
    middle = long[:, cut : long.shape[1] - cut]
    known = ~np.isnan(short) & ~np.isnan(middle)
    return bool((short[known] == middle[known]).all())
