"""Test cases of AttentionPlan: what its attentions get."""

from __future__ import annotations

from typing import Any

import numpy as np

from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.ops.arrays import Array
from raggedrt.plugins.ops.case import Case, Generate, Group
from raggedrt.plugins.ops.ragged_attention.cases import TILE, Problem

_SHARED = ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k", "positions_q", "positions_k", "tile_ptr")


def plan_inputs(problem: Problem) -> Generate:
    """Inputs of the plan of an attention."""

    def generate(rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Array]:
        made = problem(rng, dtype)
        inputs = {name: made[name] for name in _SHARED if name in made}
        return inputs | {"tokens_q": made["query"], "tokens_k": made["key"]}

    return generate


def _row(name: str, group: Group, problem: Problem, **attributes: Any) -> Case:
    return Case(name, group, plan_inputs(problem), attributes, element_types=(ElementType.FLOAT,))


_LONG = (300, 0, 65, 64, 1, 129)
_TILED = Problem("holes", width=21, positions=True, tiles=(1, 1))

CASES = (
    _row("lengths", Group.CORRECTNESS, Problem()),
    _row("long_lengths", Group.CORRECTNESS, Problem(lengths=_LONG)),
    _row("causal_left", Group.CORRECTNESS, Problem("left", positions=True), causal=1),
    _row("window", Group.CORRECTNESS, Problem(lengths=_LONG), window_left=16, window_right=16, global_tokens=[0]),
    _row("dilation", Group.CORRECTNESS, Problem(lengths=_LONG), window_left=32, dilation=4),
    _row("cross_lengths", Group.CORRECTNESS, Problem(lengths=(3, 0, 200), lengths_k=(0, 9, 100)), causal=1),
    _row("tiles", Group.CORRECTNESS, Problem("right", width=21, tiles=(1, 1)), block_size=TILE),
    _row("tiles_holes", Group.CORRECTNESS, _TILED, block_size=TILE),
    _row("no_token", Group.CORNER, Problem("no_token")),
    _row("no_row", Group.CORNER, Problem("full", batch=0)),
    _row("capacity", Group.CORNER, Problem(plan={"capacity": 16})),
    _row("thousand_sequences", Group.PERFORMANCE, Problem("right", 1000, 256, heads=1, kv_heads=1)),
)
