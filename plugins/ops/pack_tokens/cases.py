"""Test cases of PackTokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from raggedrt.plugins.contract.op_definition import DATA
from raggedrt.plugins.ops.arrays import Array
from raggedrt.plugins.ops.case import MASK_GROUPS, Case, Generate, Group, padding_mask, random_values


def _packed(kind: str, features: tuple[int, ...] = (6,), *, negative: bool = False, **sizes: int) -> Generate:
    def generate(rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Array]:
        mask = padding_mask(rng, kind, **sizes)
        index = np.flatnonzero(mask).astype(np.int32)
        if negative:
            index[::2] = -1
        return {"x": random_values(rng, (*mask.shape, *features), dtype), "token_index": index}

    return generate


CASES = (
    *(Case(kind, group, _packed(kind), element_types=DATA) for kind, group in MASK_GROUPS.items()),
    Case("ids", Group.CORRECTNESS, _packed("left", ()), element_types=DATA),
    Case("rank_4", Group.CORRECTNESS, _packed("right", (3, 2)), element_types=DATA),
    Case("negative_index", Group.CORNER, _packed("right", negative=True), element_types=DATA),
    Case("no_row", Group.CORNER, _packed("full", batch=0), element_types=DATA),
    Case("batch_32", Group.PERFORMANCE, _packed("right", (768,), batch=32, width=512)),
)
