"""Test cases of PackingPlan."""

from __future__ import annotations

from typing import Any

import numpy as np

from raggedrt.plugins.contract.op_definition import MASKS, ElementType
from raggedrt.plugins.ops.arrays import NUMPY_TYPES, Array
from raggedrt.plugins.ops.case import MASK_GROUPS, Case, Generate, Group, padding_mask

_INT64 = (ElementType.INT64,)


def _mask(kind: str, *, element: ElementType = ElementType.INT64, keep: bool = False, **sizes: int) -> Generate:
    def generate(rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Array]:
        inputs = {"attention_mask": padding_mask(rng, kind, **sizes).astype(NUMPY_TYPES[element])}
        if keep:
            inputs["keep_mask"] = padding_mask(rng, "length_1", **sizes).astype(NUMPY_TYPES[element])
        return inputs

    return generate


def _fractional(rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Array]:
    """Non-zero floats other than 1 are valid too."""
    return {"attention_mask": (padding_mask(rng, "holes") * rng.uniform(-0.5, 0.5, (4, 9))).astype(np.float32)}


CASES = (
    *(Case(kind, group, _mask(kind), element_types=_INT64) for kind, group in MASK_GROUPS.items()),
    *(Case(f"mask_{e.name.lower()}", Group.CORRECTNESS, _mask("left", element=e), element_types=_INT64) for e in MASKS),
    Case("mask_fractional", Group.CORNER, _fractional, element_types=_INT64),
    Case("keep_first", Group.CORRECTNESS, _mask("left"), {"keep_slots": [0]}, element_types=_INT64),
    Case("keep_first_and_last", Group.CORRECTNESS, _mask("holes"), {"keep_slots": [0, -1]}, element_types=_INT64),
    Case("keep_outside", Group.CORNER, _mask("right"), {"keep_slots": [9, -10, 8]}, element_types=_INT64),
    Case("keep_in_empty_rows", Group.CORNER, _mask("no_token"), {"keep_slots": [0]}, element_types=_INT64),
    Case("keep_mask", Group.CORRECTNESS, _mask("left", keep=True), element_types=_INT64),
    Case(
        "keep_mask_bool", Group.CORRECTNESS, _mask("holes", keep=True, element=ElementType.BOOL), element_types=_INT64
    ),
    Case("capacity", Group.CORRECTNESS, _mask("right"), {"capacity": 16}, element_types=_INT64),
    Case("capacity_no_token", Group.CORNER, _mask("no_token"), {"capacity": 8}, element_types=_INT64),
    Case("capacity_exact", Group.CORNER, _mask("full", batch=2, width=8), {"capacity": 16}, element_types=_INT64),
    Case("no_row", Group.CORNER, _mask("full", batch=0), element_types=_INT64),
    Case("no_slot", Group.CORNER, _mask("full", width=0), element_types=_INT64),
    Case("batch_256", Group.PERFORMANCE, _mask("right", batch=256, width=512), element_types=_INT64),
)
