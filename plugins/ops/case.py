"""How an op's test cases are declared: named rows that generate valid inputs from a seeded generator."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from raggedrt.plugins.contract.op_definition import FLOATS, ElementType
from raggedrt.plugins.ops.arrays import Array, Attributes


class Group(enum.StrEnum):
    """Why a case is there."""

    CORRECTNESS = "correctness"
    """Ordinary inputs."""
    CORNER = "corner"
    """Empty, length 1, fully masked, padded in odd places."""
    PERFORMANCE = "performance"
    """Sizes worth timing; too large for the reference."""


Generate = Callable[[np.random.Generator, "np.dtype[Any]"], dict[str, Array]]
"""Makes the inputs by name; the dtype is that of the tensors of type `T`."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One valid call of an op; `outputs` are the optional outputs wanted, `element_types` those that `T` may have."""

    name: str
    group: Group
    generate: Generate
    attributes: Attributes = dataclasses.field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    element_types: Sequence[ElementType] = FLOATS

    def inputs(self, dtype: np.dtype[Any], seed: int = 0) -> dict[str, Array]:
        """Inputs of this case; the same for the same seed."""
        return self.generate(np.random.default_rng([seed, *self.name.encode()]), dtype)


def random_values(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Standard normal floats, integers in -9..9, or random booleans."""
    if dtype == np.bool_:
        return rng.random(shape) < 0.5
    if dtype.kind == "i":
        return rng.integers(-9, 10, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def padding_mask(rng: np.random.Generator, kind: str, batch: int = 4, width: int = 9) -> Array:
    """A mask int64 [batch, width], non-zero at valid slots.

    Args:
        rng: Generator of the lengths.
        kind: `full`, `right`, `left`, `holes`, `length_1` (one token per row, anywhere), `empty_row` (right padding,
            first and last row empty) or `no_token`.
        batch: Rows.
        width: Slots per row.
    """
    slot = np.arange(width)
    lengths = rng.integers(min(1, width), width + 1, batch)[:, None]
    mask: Array = {
        "full": np.ones((batch, width), bool),
        "right": slot < lengths,
        "left": slot >= width - lengths,
        "holes": rng.random((batch, width)) < 0.6,
        "length_1": slot == rng.integers(0, max(1, width), batch)[:, None],
        "empty_row": (slot < lengths) & ~np.isin(np.arange(batch), (0, batch - 1))[:, None],
        "no_token": np.zeros((batch, width), bool),
    }[kind]
    return mask.astype(np.int64)


MASK_GROUPS = {
    "full": Group.CORRECTNESS,
    "right": Group.CORRECTNESS,
    "left": Group.CORRECTNESS,
    "holes": Group.CORNER,
    "length_1": Group.CORNER,
    "empty_row": Group.CORNER,
    "no_token": Group.CORNER,
}
"""Every kind of `padding_mask` and what it is for."""
