"""Reference of BlockMask in numpy: every pair is evaluated, then cut into tiles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raggedrt.plugins.contract.mask_rules import Clauses, decode
from raggedrt.plugins.layout.bitmaps import BoolArray
from raggedrt.plugins.layout.build import from_rows
from raggedrt.plugins.layout.from_rules import rule_holds
from raggedrt.plugins.ops.arrays import Array, Attributes, Inputs, required


def reference(inputs: Inputs, attributes: Attributes, *, compute: npt.DTypeLike = np.float32) -> dict[str, Array]:
    """The op's outputs by name; `compute` changes nothing.

    Positions past the end of a sequence of its own length are not in the mask, but a tile is full if all others are.
    """
    length = len(required(inputs, "max_seqlen"))
    blocks, cu_seqlens = inputs.get("blocks"), inputs.get("cu_seqlens")
    size = int(np.asarray(attributes["block_size"]))
    clauses: Clauses = decode(np.asarray(attributes.get("rules", ()), np.int64).tolist())
    if blocks is not None and not clauses:
        clauses = [[]]
    lengths = [length] if cu_seqlens is None else np.minimum(np.diff(cu_seqlens), length).tolist()

    def mask_rows(sequence: int, group: int, first: int, end: int) -> BoolArray:
        listed = None if blocks is None else blocks[group]
        mask = _mask_rows(clauses, np.arange(first, end), lengths[sequence], length, listed, size)
        return _filled(mask, first, lengths[sequence], size)

    layout = from_rows(
        mask_rows, (length, length), size, batch=len(lengths), groups=1 if blocks is None else len(blocks)
    )
    return layout.tensors()


def _mask_rows(clauses: Clauses, query: Array, own: int, length: int, listed: Array | None, size: int) -> BoolArray:
    """The mask of some query positions: bool [queries, length]."""
    query, key = query[:, None], np.arange(length)[None, :]
    visible: BoolArray = (query < own) & (key < own)
    for place, clause in enumerate(clauses):
        holds = np.zeros(visible.shape, np.bool_)
        if place == 0 and listed is not None and query[0, 0] // size < len(listed):
            holds |= np.isin(key // size, listed[query[0, 0] // size])
        for rule in clause:
            holds |= rule_holds(rule, query, key, own)
        visible = visible & holds
    return visible


def _filled(mask: BoolArray, first: int, own: int, size: int) -> BoolArray:
    """The rows of one tile row, with the positions past `own` visible in tiles that are full before it."""
    filled = mask.copy()
    if first >= own:
        return filled
    for column in range(0, own, size):
        inner = mask[: own - first, column : min(column + size, own)]
        if inner.all():
            filled[:, column : column + size] = True
    return filled
