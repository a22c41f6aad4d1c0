"""Test cases of MergeAttentionStates."""

from __future__ import annotations

from typing import Any

import numpy as np

from raggedrt.plugins.ops.arrays import Array
from raggedrt.plugins.ops.case import Case, Generate, Group, random_values


def _states(tokens: int, heads: int = 3, head_size: int = 4, *, unseen: float = 0.0, spread: float = 1.0) -> Generate:
    """`unseen` is the share of rows with no visible key in one set or in both; they have output 0."""

    def generate(rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Array]:
        inputs: dict[str, Array] = {}
        for side in "12":
            output = random_values(rng, (tokens, heads, head_size), dtype)
            lse = (rng.standard_normal((heads, tokens)) * spread).astype(np.float32)
            hidden = rng.random((heads, tokens)) < unseen
            inputs[f"output{side}"] = np.where(hidden.T[:, :, None], np.zeros((), dtype), output).reshape(
                tokens, heads * head_size
            )
            inputs[f"lse{side}"] = np.where(hidden, np.float32(-np.inf), lse)
        return inputs

    return generate


CASES = (
    Case("plain", Group.CORRECTNESS, _states(7)),
    Case("one_head", Group.CORRECTNESS, _states(5, heads=1, head_size=8)),
    Case("one_token", Group.CORNER, _states(1)),
    Case("no_token", Group.CORNER, _states(0)),
    Case("unseen_in_one_or_both", Group.CORNER, _states(16, unseen=0.5)),
    Case("all_unseen", Group.CORNER, _states(4, unseen=1.1)),
    Case("far_apart", Group.CORNER, _states(8, spread=100.0)),
    Case("long", Group.PERFORMANCE, _states(8192, heads=12, head_size=64)),
)
