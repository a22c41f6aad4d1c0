"""Masks that the content of a batch decides: packed documents, prefixes, positions counted from the first token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raggedrt.graph_passes.masks.pairs import OWN, BoolArray, IntArray
from raggedrt.graph_passes.masks.samples import Sample
from raggedrt.graph_passes.masks.spec import MaskSpec


def describe_dependence(values: npt.NDArray[Any], plain: BoolArray, changed: BoolArray) -> str:
    """How an input changes a mask, where that is one of the ways that are known by name; else nothing.

    Args:
        values: the input, [B, S].
        plain: the mask where the input counts 0, 1, 2, … along the row, bool [B, S, S].
        changed: the mask with these values.
    """
    if values.shape != plain.shape[:2] or values.dtype.kind not in "iu":
        return ""
    numbers = values.astype(np.int64)
    jumps = np.diff(numbers, axis=1, prepend=numbers[:, :1] - 1) != 1
    if bool((changed == (plain & _same(np.cumsum(jumps, axis=1)))).all()):
        return ": documents packed into one row, told apart by jumps of their positions (known only at run time)"
    visible = changed | ~_same(numbers)
    if not bool((changed & ~_same(numbers)).any()) and bool((visible | ~plain).all()):
        return ": documents packed into one row, numbered by the input (known only at run time)"
    for number in np.unique(numbers).tolist():
        marked = numbers == number
        for prefix in (marked[:, None, :] & np.ones_like(plain), marked[:, None, :] & marked[:, :, None]):
            if bool((changed == (changed & plain | prefix & changed)).all()) and bool((changed | ~prefix).all()):
                return f": a prefix that the input marks with {number} (known only at run time)"
    return ""


def _same(segments: IntArray) -> BoolArray:
    return np.asarray(segments[:, :, None] == segments[:, None, :])


def counts_own_tokens(specs: Iterable[MaskSpec], samples: Sequence[Sample]) -> MaskSpec | None:
    """The first spec that tokens see where rows are padded on the left and positions count a row's own tokens."""
    for spec in specs:
        own = MaskSpec.of_expression(spec.expression, of=OWN)
        if all(_tokens_agree(own, sample) for sample in samples):
            return own
    return None


def _tokens_agree(spec: MaskSpec, sample: Sample) -> bool:
    valid = sample.padding != 0
    left = (np.diff(valid.astype(np.int64), axis=1) >= 0).all(axis=1)
    rows = valid[left]
    tokens = rows[:, :, None] & rows[:, None, :]
    return bool((spec.visible(rows)[tokens] == sample.visible[left][tokens]).all())
