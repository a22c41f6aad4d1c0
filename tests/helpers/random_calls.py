"""Calls of every op with a device kernel, drawn from a seed: sizes, masks, features and element types at random."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from raggedrt.plugins.contract.mask_rules import UNBOUNDED, causal, columns, encode, rows, window
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.ops.arrays import NUMPY_TYPES, Array
from raggedrt.plugins.ops.case import padding_mask
from raggedrt.plugins.ops.catalog import REFERENCES
from raggedrt.plugins.ops.ragged_attention.cases import TILE, Problem

HALF_SIZES, OTHER_SIZES = (32,), (8, 16, 24)
"""Head sizes of tensor-core kernels that the emulated pack has, and of row-wise ones."""
_MASKS = ("full", "right", "left", "holes", "length_1", "empty_row")
_BIASES = ("bias", "distance_bias", "alibi_slopes", "head_sink")
_RELATIVE = ("rel_query", "rel_key", "rel_bucket")
_LEAST_RELATIVE_WIDTH = 4


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an op."""

    op: str
    inputs: dict[str, Array]
    attributes: dict[str, Any]
    plan: bool = False
    """RaggedAttention gets the work list of an AttentionPlan."""


def _chance(rng: np.random.Generator, share: float) -> bool:
    return bool(rng.random() < share)


def _number(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high))


def _element(rng: np.random.Generator) -> np.dtype[Any]:
    elements = (ElementType.FLOAT, ElementType.FLOAT16, ElementType.BFLOAT16)
    return NUMPY_TYPES[elements[_number(rng, 0, len(elements))]]


def _heads(rng: np.random.Generator) -> dict[str, int]:
    kv_heads = _number(rng, 1, 4)
    sizes = HALF_SIZES if _chance(rng, 0.7) else OTHER_SIZES
    return {"heads": kv_heads * int(rng.choice([1, 2, 4])), "kv_heads": kv_heads, "head_size": int(rng.choice(sizes))}


def _mask(rng: np.random.Generator, width: int) -> dict[str, Any]:
    """Attributes of a mask."""
    drawn = {
        "causal": (0.4, lambda: 1),
        "window_left": (0.3, lambda: _number(rng, 0, 80)),
        "window_right": (0.3, lambda: _number(rng, 0, 80)),
        "dilation": (0.2, lambda: _number(rng, 2, 5)),
        "global_tokens": (0.3, lambda: sorted(set(rng.integers(0, width, 2).tolist()))),
        "softcap": (0.1, lambda: 5.0),
    }
    return {name: make() for name, (share, make) in drawn.items() if _chance(rng, share)}


def attention(rng: np.random.Generator) -> Iterator[Call]:
    """Self-attention over a padded batch."""
    heads, width, positions = _heads(rng), _number(rng, 1, 150), _chance(rng, 0.5)
    extra = [name for name in _BIASES if _chance(rng, 0.15)]
    if width >= _LEAST_RELATIVE_WIDTH and _chance(rng, 0.1):
        extra += _RELATIVE
    batch = _number(rng, 1, 5)
    tiles = (int(rng.choice([1, batch])), int(rng.choice([1, heads["heads"]]))) if _chance(rng, 0.35) else (0, 0)
    kept: dict[str, Any] = {"keep_slots": [0]} if positions and _chance(rng, 0.3) else {}
    problem = Problem(
        _MASKS[_number(rng, 0, len(_MASKS))], batch, width, **heads, positions=positions, extra=tuple(extra),
        tiles=tiles, plan=kept,
    )  # fmt: skip
    yield _attention(rng, problem, _mask(rng, width) | ({"block_size": TILE} if tiles[0] else {}))


def cross_attention(rng: np.random.Generator) -> Iterator[Call]:
    """Different lengths of queries and keys, some of them 0."""
    count = _number(rng, 1, 6)
    lengths = [
        tuple(np.where(rng.random(count) < 0.2, 0, rng.integers(0, most, count)).tolist()) for most in (200, 300)
    ]
    yield _attention(rng, Problem(lengths=lengths[0], lengths_k=lengths[1], **_heads(rng)), _mask(rng, 200))


def _attention(rng: np.random.Generator, problem: Problem, mask: dict[str, Any]) -> Call:
    heads = {"num_heads": problem.heads, "kv_num_heads": problem.kv_heads}
    return Call("RaggedAttention", problem(rng, _element(rng)), heads | mask, _chance(rng, 0.5))


def packing(rng: np.random.Generator) -> Iterator[Call]:
    """A packing plan."""
    kind, batch, width = _MASKS[_number(rng, 0, len(_MASKS))], _number(rng, 0, 9), _number(rng, 0, 400)
    mask = padding_mask(rng, kind, batch, width)
    types = (np.int32, np.int64, np.float32, np.bool_)
    inputs = {"attention_mask": mask.astype(types[_number(rng, 0, len(types))])}
    if _chance(rng, 0.3):
        inputs["keep_mask"] = (rng.random(mask.shape) < 0.1).astype(np.int32)
    drawn = {"keep_slots": rng.integers(-10, 10, 2).tolist(), "capacity": _number(rng, 1, 70)}
    yield Call("PackingPlan", inputs, {name: value for name, value in drawn.items() if _chance(rng, 0.5)})


def copies(rng: np.random.Generator) -> Iterator[Call]:
    """Packing of rows, and back."""
    shape = (_number(rng, 0, 6), _number(rng, 0, 30), _number(rng, 0, 90))
    x = rng.standard_normal(shape).astype(_element(rng))
    slots = shape[0] * shape[1]
    index = rng.permutation(slots)[: _number(rng, 0, slots + 1)].astype(np.int32)
    index[rng.random(len(index)) < 0.1] = -1
    inputs = {"x": x, "token_index": index}
    yield Call("PackTokens", inputs, {})
    packed = REFERENCES["PackTokens"](inputs, {})["packed"]
    back = {"packed": packed, "token_index": index, "like": np.zeros(shape[:2], np.int64)}
    if _chance(rng, 0.5):
        back["key_position"] = np.where(rng.random(len(index)) < 0.2, -1, 1).astype(np.int32)
    yield Call("UnpackTokens", back, {})


def block_mask(rng: np.random.Generator) -> Iterator[Call]:
    """The tiles of random rules and listed blocks."""
    made = (
        lambda: window(_number(rng, 0, 20), _number(rng, 0, 20), unit=_number(rng, 1, 12), dilation=_number(rng, 1, 4)),
        lambda: columns(_number(rng, -9, 9), UNBOUNDED, step=_number(rng, 1, 7)),
        lambda: rows(_number(rng, -9, 9), _number(rng, 9, 60), unit=_number(rng, 1, 4)),
        causal,
    )
    clauses = [
        [made[_number(rng, 0, len(made))]() for _ in range(_number(rng, 1, 4))] for _ in range(_number(rng, 0, 4))
    ]
    length = _number(rng, 0, 200)
    inputs: dict[str, Array] = {"max_seqlen": np.zeros(length, np.float32)}
    if _chance(rng, 0.4):
        shape = (_number(rng, 1, 3), _number(rng, 0, 9), _number(rng, 0, 4))
        inputs["blocks"] = rng.integers(-2, 12, shape).astype(np.int32)
    if _chance(rng, 0.5):
        own = rng.integers(0, length + 20, _number(rng, 0, 4))
        inputs["cu_seqlens"] = np.cumsum([0, *own]).astype(np.int32)
    yield Call("BlockMask", inputs, {"block_size": int(rng.choice([8, 16, 24, 40, 64])), "rules": encode(clauses)})


MAKERS: dict[str, Callable[[np.random.Generator], Iterator[Call]]] = {
    "attention": attention,
    "cross_attention": cross_attention,
    "packing": packing,
    "copies": copies,
    "block_mask": block_mask,
}


def calls(kind: str, seed: int) -> Iterator[Call]:
    """The calls of a seed."""
    return MAKERS[kind](np.random.default_rng([*kind.encode(), seed]))
