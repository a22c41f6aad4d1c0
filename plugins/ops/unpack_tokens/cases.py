"""Test cases of UnpackTokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from raggedrt.plugins.contract.op_definition import DATA
from raggedrt.plugins.ops.arrays import Array, Attributes
from raggedrt.plugins.ops.case import MASK_GROUPS, Case, Generate, Group, padding_mask, random_values
from raggedrt.plugins.ops.packing_plan.reference import reference as packing_plan


def _padded(kind: str, features: tuple[int, ...] = (6,), plan: Attributes | None = None, **sizes: int) -> Generate:
    """With `plan`, key positions are given, so that slots kept for another reader and rows of capacity stay zero."""

    def generate(rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Array]:
        mask = padding_mask(rng, kind, **sizes)
        tokens = packing_plan({"attention_mask": mask}, plan or {})
        inputs = {
            "packed": random_values(rng, (len(tokens["token_index"]), *features), dtype),
            "token_index": tokens["token_index"],
            "like": mask,
        }
        return inputs if plan is None else {**inputs, "key_position": tokens["key_position"]}

    return generate


CASES = (
    *(Case(kind, group, _padded(kind), element_types=DATA) for kind, group in MASK_GROUPS.items()),
    Case("rank_2", Group.CORRECTNESS, _padded("left", ()), element_types=DATA),
    Case("rank_4", Group.CORRECTNESS, _padded("right", (3, 2)), element_types=DATA),
    Case("kept_slots", Group.CORRECTNESS, _padded("left", plan={"keep_slots": [0, -1]}), element_types=DATA),
    Case("capacity", Group.CORNER, _padded("right", plan={"capacity": 16}), element_types=DATA),
    Case("capacity_no_token", Group.CORNER, _padded("no_token", plan={"capacity": 8}), element_types=DATA),
    Case("no_row", Group.CORNER, _padded("full", batch=0), element_types=DATA),
    Case("batch_32", Group.PERFORMANCE, _padded("right", (768,), batch=32, width=512)),
)
