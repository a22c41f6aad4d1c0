"""Attention problems around the tiles of the tensor-core kernels: lengths, windows and blocks that do not fit them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from raggedrt.plugins.layout.build import from_mask
from raggedrt.plugins.ops.arrays import Array, Attributes
from raggedrt.plugins.ops.case import Case, Group
from raggedrt.plugins.ops.ragged_attention.cases import CASES, Problem

LENGTHS = (70, 1, 16, 130, 0, 64, 128, 300)
CROSS = {"lengths": (70, 1, 130, 5, 0, 64), "lengths_k": (200, 64, 10, 0, 70, 129)}
WIDTH = 200
MASKS: Mapping[str, Attributes] = {
    "dense": {},
    "causal": {"causal": 1},
    "window": {"window_left": 70, "window_right": 20},
    "window_causal": {"window_left": 5, "causal": 1},
    "dilation": {"window_left": 90, "window_right": 64, "dilation": 3},
    "global": {"window_left": 10, "window_right": 3, "global_tokens": [0, 77, 150]},
    "global_causal": {"window_left": 10, "causal": 1, "dilation": 2, "global_tokens": [0, 77, 150]},
}
PADDINGS = ("left", "right", "holes", "empty_row")
KEPT: Attributes = {"keep_slots": [0, 70, -1], "capacity": 64}
BLOCK_SIZES = (8, 16, 24, 64, 128)
EXTRAS = {
    "bias": ("bias",),
    "distance_bias": ("distance_bias",),
    "alibi": ("alibi_slopes",),
    "disentangled": ("rel_query", "rel_key", "rel_bucket"),
    "sink_bias": ("head_sink", "bias"),
}
TWO = {"heads": 2, "kv_heads": 1}


@dataclasses.dataclass(frozen=True)
class Tiled:
    """A problem with a random tile list; calling it generates the inputs."""

    problem: Problem
    block_size: int
    sequences: int = 1
    """1: one list for all sequences, else one each."""
    groups: int = 1
    shares: tuple[float, float, float] = (0.4, 0.2, 0.4)
    """Of tiles that are empty, full and of random bits."""

    def __call__(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Array]:
        """Inputs by name."""
        inputs = self.problem(rng, dtype)
        width = max(self.problem.width, *self.problem.lengths, *self.problem.lengths_k, 0)
        sequences = 1 if self.sequences == 1 else len(inputs["cu_seqlens_q"]) - 1
        blocks = -(-width // self.block_size)
        kind = rng.choice(3, (sequences, self.groups, blocks, blocks), p=self.shares)
        kind = kind.repeat(self.block_size, -2).repeat(self.block_size, -1)[..., :width, :width]
        mask = np.select([kind == 0, kind == 1], [False, True], rng.random(kind.shape) < 0.4)
        inputs |= from_mask(mask, self.block_size).tensors()
        if self.groups > 1:
            inputs["head_group"] = rng.integers(0, self.groups, self.problem.heads).astype(np.int32)
        return inputs


def declared(head_size: int) -> list[Case]:
    """The op's own cases with a head size that tensor cores serve."""
    wide = []
    for case in CASES:
        problem = case.generate
        if case.group is not Group.PERFORMANCE and isinstance(problem, Problem):
            wide.append(dataclasses.replace(case, generate=_widened(problem, head_size)))
    return wide


def _widened(problem: Problem, head_size: int) -> Problem:
    return dataclasses.replace(problem, head_size=head_size, value_head_size=0)


def around_tiles(head_size: int) -> list[Case]:
    """Cases by length, padding and mask, tile list or score term."""
    return [*_masked(head_size), *_tiled(head_size), *_scored(head_size)]


def _case(name: str, generate: Problem | Tiled, attributes: Attributes) -> Case:
    problem = generate if isinstance(generate, Problem) else generate.problem
    heads: Attributes = {"num_heads": problem.heads, "kv_num_heads": problem.kv_heads}
    return Case(name, Group.CORRECTNESS, generate, {**heads, **attributes}, ("lse",))


def _padded(padding: str, head_size: int, **options: Any) -> Problem:
    return Problem(padding, 3, WIDTH, positions=True, head_size=head_size, **{**TWO, **options})


def _masked(head_size: int) -> list[Case]:
    cases = []
    for name, attributes in MASKS.items():
        cases.append(_case(f"lengths_{name}", Problem(lengths=LENGTHS, head_size=head_size, **TWO), attributes))
        cases.append(_case(f"cross_{name}", Problem(head_size=head_size, **CROSS, **TWO), attributes))
        cases += [_case(f"{padding}_{name}", _padded(padding, head_size), attributes) for padding in PADDINGS]
        cases.append(_case(f"kept_{name}", _padded("left", head_size, plan=KEPT), attributes))
    return cases


def _tiled(head_size: int) -> list[Case]:
    cases = []
    for size in BLOCK_SIZES:
        attributes: Attributes = {"block_size": size}
        by_length = Problem(lengths=LENGTHS, head_size=head_size, **TWO)
        cross = Problem(head_size=head_size, **CROSS, **TWO)
        cases.append(_case(f"blocks_{size}", Tiled(by_length, size), attributes))
        cases.append(_case(f"blocks_{size}_few", Tiled(by_length, size, 2, shares=(0.9, 0.05, 0.05)), attributes))
        cases.append(_case(f"blocks_{size}_whole", Tiled(by_length, size, shares=(0.5, 0.5, 0.0)), attributes))
        cases.append(_case(f"blocks_{size}_cross", Tiled(cross, size), {**attributes, "causal": 1}))
        for padding in ("left", "holes"):
            grouped = Tiled(_padded(padding, head_size, heads=4, kv_heads=2), size, 2, 2)
            cases.append(_case(f"blocks_{size}_{padding}", grouped, attributes))
            more = {**attributes, "window_left": 50, "global_tokens": [3, 99], "causal": 1}
            cases.append(_case(f"blocks_{size}_{padding}_window", grouped, more))
    return cases


def _scored(head_size: int) -> list[Case]:
    cases = [_case("softcap", Problem(lengths=LENGTHS, head_size=head_size, **TWO), {"softcap": 3.0, "causal": 1})]
    cases.append(_case("negative_scale", Problem(lengths=(70, 3), head_size=head_size, **TWO), {"scale": -0.2}))
    for name, extra in EXTRAS.items():
        for padding in ("left", "holes"):
            problem = _padded(padding, head_size, extra=extra)
            cases.append(_case(f"{name}_{padding}", problem, {"causal": int(padding == "holes")}))
        tiled = Tiled(_padded("left", head_size, extra=extra), 16)
        cases.append(_case(f"{name}_blocks", tiled, {"block_size": 16}))
    return cases
