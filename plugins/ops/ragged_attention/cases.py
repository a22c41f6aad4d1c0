"""Test cases of RaggedAttention."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from raggedrt.plugins.layout.bitmaps import BoolArray
from raggedrt.plugins.layout.build import from_mask
from raggedrt.plugins.ops.arrays import Array, Attributes
from raggedrt.plugins.ops.attention_plan.definition import NOTHING_LISTED
from raggedrt.plugins.ops.case import MASK_GROUPS, Case, Group, padding_mask, random_values
from raggedrt.plugins.ops.packing_plan.reference import reference as packing_plan

TILE = 8
"""Block size of the tile lists."""
_BUCKETS = 5


@dataclasses.dataclass(frozen=True)
class Problem:
    """Sizes and inputs of one call; calling it generates the inputs."""

    mask: str = "right"
    """Kind of `padding_mask` the sequences come from; read where `lengths` is empty."""
    batch: int = 4
    width: int = 9
    lengths: tuple[int, ...] = ()
    """Query lengths, without a mask."""
    lengths_k: tuple[int, ...] = ()
    """Key lengths where they differ from the query lengths."""
    heads: int = 4
    kv_heads: int = 4
    head_size: int = 8
    value_head_size: int = 0
    """0: head_size."""
    positions: bool = False
    plan: Attributes = dataclasses.field(default_factory=dict)
    """Attributes of the packing plan."""
    extra: tuple[str, ...] = ()
    """Optional inputs beyond positions: bias, distance_bias, alibi_slopes, head_sink, rel_query, rel_key, rel_bucket,
    head_group, work_list, or hiding_bias: a bias for all sequences and heads that hides every key from query 0 and key
    0 from every query."""
    tiles: tuple[int, int] = (0, 0)
    """Sequences and groups of a random tile list with blocks of `TILE`; none: no tile list."""
    magnitude: float = 1.0
    """Standard deviation of queries and keys."""

    def __call__(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Array]:
        """Inputs by name."""
        inputs = self._lengths(rng)
        rows = {"query": len(inputs.pop("rows_q")), "key": len(rows_k := inputs.pop("rows_k")), "value": len(rows_k)}
        sizes = {
            "query": self.heads * self.head_size,
            "key": self.kv_heads * self.head_size,
            "value": self.kv_heads * (self.value_head_size or self.head_size),
        }
        for name, size in sizes.items():
            factor = 1.0 if name == "value" else self.magnitude
            inputs[name] = (random_values(rng, (rows[name], size), np.dtype(np.float32)) * factor).astype(dtype)
        return inputs | self._extra(rng, dtype, rows)

    def _lengths(self, rng: np.random.Generator) -> dict[str, Array]:
        """cu_seqlens, carriers, positions, and the rows of the token axes."""
        if self.lengths:
            cu_q, cu_k = _offsets(self.lengths), _offsets(self.lengths_k or self.lengths)
            widths = {"q": max(self.lengths), "k": max(self.lengths_k or self.lengths)}
            made = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k}
            made |= {f"max_seqlen_{side}": np.zeros(width, np.float32) for side, width in widths.items()}
            return made | {"rows_q": np.empty(cu_q[-1]), "rows_k": np.empty(cu_k[-1])}
        mask = padding_mask(rng, self.mask, self.batch, self.width)
        plan = packing_plan({"attention_mask": mask}, self.plan)
        made = {f"cu_seqlens_{side}": plan["cu_seqlens"] for side in "qk"}
        made |= {f"max_seqlen_{side}": np.zeros(self.width, np.int64) for side in "qk"}
        if self.positions:
            made |= {"positions_q": plan["position"], "positions_k": plan["key_position"]}
        return made | {f"rows_{side}": plan["token_index"] for side in "qk"}

    def _extra(self, rng: np.random.Generator, dtype: np.dtype[Any], rows: Mapping[str, int]) -> dict[str, Array]:
        makers: dict[str, Callable[[], Array]] = {
            "bias": lambda: random_values(rng, (self.batch, self.heads, self.width, self.width), dtype),
            "distance_bias": lambda: random_values(rng, (self.heads, 2 * self.width - 1), dtype),
            "alibi_slopes": lambda: 2.0 ** -np.arange(1, self.heads + 1, dtype=np.float32),
            "head_sink": lambda: random_values(rng, (self.heads,), np.dtype(np.float32)),
            "rel_query": lambda: random_values(rng, (rows["query"], self.heads, _BUCKETS), dtype),
            "rel_key": lambda: random_values(rng, (rows["key"], self.heads, _BUCKETS), dtype),
            "rel_bucket": lambda: rng.integers(0, _BUCKETS, 2 * (self.width // 2) - 1).astype(np.int32),
            "work_list": lambda: np.zeros(NOTHING_LISTED, np.int32),
            "head_group": lambda: rng.integers(0, self.tiles[1], self.heads).astype(np.int32),
        }
        made = {name: makers[name]() for name in self.extra if name != "hiding_bias"}
        if any(self.tiles):
            size = max(self.width, *self.lengths, *self.lengths_k, 0)
            made |= from_mask(random_tiles(rng, (*self.tiles, size, size)), TILE).tensors()
        if "hiding_bias" in self.extra:
            bias = random_values(rng, (1, 1, self.width, self.width), dtype)
            bias[..., 0, :] = bias[..., :, 0] = -np.inf
            made["bias"] = bias
        return made


def random_tiles(rng: np.random.Generator, shape: tuple[int, ...]) -> BoolArray:
    """A mask bool [.., Sq, Sk] in which tiles are empty, full, of random bits or of one pattern, a quarter each."""
    blocks = rng.integers(0, 4, (*shape[:-2], *(-(-length // TILE) for length in shape[-2:])))
    kind = blocks.repeat(TILE, -2).repeat(TILE, -1)[..., : shape[-2], : shape[-1]]
    diagonal = np.arange(shape[-2])[:, None] % TILE >= np.arange(shape[-1]) % TILE
    return np.select([kind == 0, kind == 1, kind == 2], [False, True, rng.random(shape) < 0.5], diagonal)


def _offsets(lengths: Sequence[int]) -> Array:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _row(name: str, group: Group, problem: Problem, outputs: tuple[str, ...] = (), **attributes: Any) -> Case:
    heads: Attributes = {"num_heads": problem.heads, "kv_num_heads": problem.kv_heads}
    return Case(name, group, problem, {**heads, **attributes}, outputs)


_KEPT: Attributes = {"keep_slots": [0]}
_CROSS = Problem(lengths=(3, 1, 5, 2), lengths_k=(4, 6, 5, 1))
_LEFT = Problem("left", positions=True)
_LSE = ("lse",)
_TILED = Problem("holes", width=21, positions=True, tiles=(1, 1))
_GROUPED = dataclasses.replace(_TILED, heads=6, kv_heads=2, tiles=(1, 3), extra=("head_group",))
_RELATIVE = ("rel_query", "rel_key", "rel_bucket")

CASES = (
    *(_row(f"dense_{kind}", group, Problem(kind), _LSE) for kind, group in MASK_GROUPS.items()),
    *(
        _row(f"causal_{kind}", group, Problem(kind, positions=True), _LSE, causal=1)
        for kind, group in MASK_GROUPS.items()
    ),
    _row("without_lse", Group.CORRECTNESS, Problem()),
    _row("causal_without_positions", Group.CORRECTNESS, Problem(), causal=1),
    _row("scale", Group.CORRECTNESS, Problem(), scale=0.3),
    _row("grouped_query", Group.CORRECTNESS, Problem(kv_heads=2)),
    _row("grouped_query_causal_lse", Group.CORRECTNESS, Problem(heads=6, kv_heads=2), _LSE, causal=1),
    _row("multi_query", Group.CORRECTNESS, Problem(kv_heads=1)),
    _row("kept_slots", Group.CORRECTNESS, dataclasses.replace(_LEFT, plan=_KEPT)),
    _row("kept_slots_causal", Group.CORRECTNESS, dataclasses.replace(_LEFT, plan=_KEPT), _LSE, causal=1),
    _row("kept_slots_only", Group.CORNER, Problem("no_token", positions=True, plan=_KEPT), _LSE),
    _row("capacity", Group.CORNER, Problem(plan={"capacity": 16})),
    _row("cross_lengths", Group.CORRECTNESS, _CROSS, _LSE),
    _row("cross_lengths_causal", Group.CORNER, _CROSS, _LSE, causal=1),
    _row("cross_lengths_empty", Group.CORNER, Problem(lengths=(3, 0, 2), lengths_k=(0, 4, 2)), _LSE),
    _row("no_row", Group.CORNER, Problem("full", batch=0), _LSE, causal=1),
    _row("no_row_capacity", Group.CORNER, Problem("full", batch=0, plan={"capacity": 8}), _LSE),
    _row("no_slot", Group.CORNER, Problem("full", width=0, positions=True), _LSE),
    _row("cross_lengths_no_key", Group.CORNER, Problem(lengths=(3, 1), lengths_k=(0, 0)), _LSE),
    _row("cross_lengths_no_key_no_lse", Group.CORNER, Problem(lengths=(3, 1), lengths_k=(0, 0))),
    _row("cross_lengths_no_query", Group.CORNER, Problem(lengths=(0, 0), lengths_k=(2, 3)), _LSE),
    _row("value_head_size", Group.CORRECTNESS, Problem(value_head_size=16), _LSE),
    _row("large_scores", Group.CORNER, Problem(magnitude=30.0)),
    _row("head_size_1", Group.CORNER, Problem(heads=1, kv_heads=1, head_size=1)),
    _row("softcap", Group.CORRECTNESS, Problem(magnitude=4.0), softcap=5.0),
    _row("window", Group.CORRECTNESS, _LEFT, _LSE, window_left=2, window_right=1),
    _row("window_without_positions", Group.CORRECTNESS, Problem(), window_left=1, window_right=3),
    _row("window_causal_holes", Group.CORNER, Problem("holes", positions=True), window_left=2, causal=1),
    _row("window_hides_every_key", Group.CORNER, Problem("left", positions=True, plan=_KEPT), _LSE, window_right=0),
    _row("window_global", Group.CORRECTNESS, _LEFT, window_left=1, window_right=1, global_tokens=[3, 8]),
    _row("dilation", Group.CORRECTNESS, _LEFT, window_left=6, window_right=6, dilation=3),
    _row("alibi", Group.CORRECTNESS, dataclasses.replace(_LEFT, extra=("alibi_slopes",)), causal=1),
    _row("distance_bias", Group.CORRECTNESS, dataclasses.replace(_LEFT, extra=("distance_bias",))),
    _row("head_sink", Group.CORRECTNESS, Problem("empty_row", extra=("head_sink",)), _LSE, causal=1),
    _row("bias", Group.CORRECTNESS, dataclasses.replace(_LEFT, extra=("bias",))),
    _row("bias_without_positions", Group.CORRECTNESS, Problem(extra=("bias",)), _LSE, causal=1),
    _row("bias_of_minus_infinity", Group.CORNER, Problem(extra=("hiding_bias",)), _LSE),
    _row("tiles", Group.CORRECTNESS, Problem("right", width=21, tiles=(1, 1)), _LSE, block_size=TILE),
    _row("tiles_left", Group.CORRECTNESS, dataclasses.replace(_TILED, mask="left"), _LSE, block_size=TILE),
    _row("tiles_holes", Group.CORRECTNESS, dataclasses.replace(_TILED, tiles=(4, 1)), _LSE, block_size=TILE),
    _row("tiles_without_lse", Group.CORRECTNESS, dataclasses.replace(_TILED, plan=_KEPT), block_size=TILE),
    _row("tiles_per_head", Group.CORRECTNESS, dataclasses.replace(_TILED, tiles=(1, 4)), _LSE, block_size=TILE),
    _row("tiles_head_group", Group.CORRECTNESS, _GROUPED, _LSE, block_size=TILE),
    _row("tiles_causal_window", Group.CORRECTNESS, _GROUPED, _LSE, block_size=TILE, causal=1, window_left=9),
    _row("tiles_bias_sink", Group.CORNER, dataclasses.replace(_TILED, extra=("bias", "head_sink")), block_size=TILE),
    _row("tiles_cross", Group.CORNER, dataclasses.replace(_CROSS, tiles=(1, 1)), _LSE, block_size=TILE),
    _row(
        "tiles_cross_causal", Group.CORNER, dataclasses.replace(_CROSS, tiles=(4, 1)), _LSE, block_size=TILE, causal=1
    ),
    _row("tiles_no_token", Group.CORNER, dataclasses.replace(_TILED, mask="no_token"), _LSE, block_size=TILE),
    _row("tiles_no_row", Group.CORNER, dataclasses.replace(_TILED, mask="full", batch=0), _LSE, block_size=TILE),
    _row("disentangled", Group.CORRECTNESS, dataclasses.replace(_LEFT, extra=_RELATIVE), scale=0.2),
    _row("disentangled_query", Group.CORRECTNESS, Problem(extra=("rel_query", "rel_bucket")), _LSE),
    _row("disentangled_key", Group.CORRECTNESS, Problem(kv_heads=2, extra=("rel_key", "rel_bucket")), causal=1),
    _row("disentangled_cross", Group.CORNER, dataclasses.replace(_CROSS, extra=_RELATIVE), _LSE),
    _row("work_list", Group.CORNER, Problem(extra=("work_list",)), _LSE, causal=1),
    _row("length_512", Group.PERFORMANCE, Problem(lengths=(512,) * 8, heads=12, kv_heads=12, head_size=64)),
    _row("mixed_lengths", Group.PERFORMANCE, Problem("right", 32, 512, heads=12, kv_heads=12, head_size=64)),
)
