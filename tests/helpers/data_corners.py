"""Corner cases of the kernels around attention, beyond those of the ops: the emulator and a device run the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from raggedrt.plugins.contract.mask_rules import UNBOUNDED, Clauses, causal, columns, encode, rows, window
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.ops.arrays import Array
from raggedrt.plugins.ops.block_mask.cases import Sizes
from raggedrt.plugins.ops.case import Case, Generate, Group, padding_mask
from raggedrt.plugins.ops.ragged_attention.cases import TILE, Problem

FP32, FP16 = ElementType.FLOAT, ElementType.FLOAT16

# ---- Row-wise attention --------------------------------------------------------------------------------------------

SHORT = Problem(lengths=(5, 0, 40, 33, 1, 2), heads=2, kv_heads=2)
_LENGTHS_Q, _LENGTHS_K = (1, 31, 32, 33, 0, 64, 7, 100), (100, 1, 0, 70, 5, 64, 33, 32)
_EVERYTHING = ("bias", "distance_bias", "alibi_slopes", "head_sink", "rel_query", "rel_key", "rel_bucket")
_MASKS = {"window_left": 40, "window_right": 30, "global_tokens": [0, 33], "dilation": 2, "softcap": 7.0}
_WINDOWS = ((0, 0), (5, -1), (-1, 9), (40, 2), (2**31 - 1, 2**31 - 1))


def attention(name: str, problem: Problem, types: tuple[ElementType, ...] = (FP32,), **attributes: Any) -> Case:
    """A case of RaggedAttention."""
    heads = {"num_heads": problem.heads, "kv_num_heads": problem.kv_heads}
    return Case(name, Group.CORNER, problem, {**heads, **attributes}, ("lse",), types)


def _attentions() -> Iterator[Case]:
    for size in (1, 3, 8, 20, 32, 40, 64, 72, 80, 96, 120, 128, 136, 192, 256):
        problem = dataclasses.replace(SHORT, head_size=size)
        yield attention(f"head_size_{size}", problem, (FP32, FP16), causal=1)
    for size, value_size in ((64, 24), (16, 128), (100, 7), (8, 256), (256, 8)):
        problem = dataclasses.replace(SHORT, head_size=size, value_head_size=value_size)
        yield attention(f"head_sizes_{size}_{value_size}", problem, (FP32, FP16))
    # Rows of a warp are queries times heads: they end in the middle of a token, and go on in the next sequence.
    for heads, kv_heads in ((4, 4), (8, 2), (5, 1), (7, 1), (12, 3)):
        problem = Problem(lengths=_LENGTHS_Q, lengths_k=_LENGTHS_K, heads=heads, kv_heads=kv_heads, head_size=16)
        yield attention(f"heads_{heads}_share_{kv_heads}", problem, (FP16,))
        yield attention(f"heads_{heads}_share_{kv_heads}_causal", problem, (FP16,), causal=1)
    for mask in ("left", "holes", "empty_row"):
        problem = Problem(
            mask, 5, 70, heads=6, kv_heads=2, head_size=40, positions=True, plan={"keep_slots": [0, 40]},
            extra=_EVERYTHING, tiles=(5, 6),
        )  # fmt: skip
        yield attention(f"everything_{mask}", problem, **_MASKS, block_size=TILE)
    # Without positions the kernel begins and ends with the windows of its rows.
    problem = Problem(lengths=(150, 33), heads=2, kv_heads=2, head_size=8)
    for left, right in _WINDOWS:
        for on in (0, 1):
            name, windows = f"window_{left}_{right}_causal_{on}", {"window_left": left, "window_right": right}
            yield attention(name, problem, causal=on, **windows)
            yield attention(f"{name}_global", problem, causal=on, **windows, global_tokens=[3, 120])
    # Terms of no token.
    problem = Problem("no_token", positions=True, extra=("rel_query", "rel_key", "rel_bucket"))
    yield attention("disentangled_no_token", problem, (FP32, FP16))
    # More than one step of the search for a token's sequence, many of them empty.
    rng = np.random.default_rng(8)
    lengths = tuple(np.where(rng.random(1100) < 0.7, 0, rng.integers(0, 3, 1100)).tolist())
    yield attention("many_sequences", Problem(lengths=lengths, heads=1, kv_heads=1, head_size=8), (FP16,))


ATTENTION = tuple(_attentions())

# ---- Packing -------------------------------------------------------------------------------------------------------


def _masks(kind: str, batch: int, width: int, *, keep: bool = False) -> Generate:
    def generate(rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Array]:
        inputs: dict[str, Array] = {"attention_mask": padding_mask(rng, kind, batch, width).astype(np.float32)}
        return inputs | ({"keep_mask": padding_mask(rng, "length_1", batch, width).astype(bool)} if keep else {})

    return generate


def _odd_zeros(rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Array]:
    return {"attention_mask": np.array([[0.0, -0.0, np.nan, 1e-45, -np.inf, 0.25]], np.float32)}


_KEEP = {"keep_slots": [0, -1], "capacity": 64}
PACKING = (
    *(
        Case(f"slots_{slots}", Group.CORNER, _masks("holes", 11, slots, keep=True), _KEEP)
        for slots in (1, 31, 33, 128, 129, 700, 1500)
    ),
    Case("more_rows_than_the_scan_has_threads", Group.CORNER, _masks("right", 2100, 3)),
    Case("zeros_of_floats", Group.CORNER, _odd_zeros),
)

# ---- Copies --------------------------------------------------------------------------------------------------------


def _bytes(size: int) -> Generate:
    """Rows of bytes, packed in no order."""

    def generate(rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Array]:
        index = rng.permutation(45)[:31].astype(np.int32)
        index[3::7] = -1
        return {"x": rng.integers(0, 256, (5, 9, size)).astype(np.uint8), "token_index": index}

    return generate


# Rows that fill no vector, several rows in one warp, several passes of a block in one row.
COPIES = tuple(
    Case(f"bytes_{size}", Group.CORNER, _bytes(size)) for size in (1, 2, 3, 4, 8, 16, 24, 34, 80, 112, 130, 1536, 4112)
)

# ---- Tile lists ----------------------------------------------------------------------------------------------------


def block_mask(name: str, clauses: Clauses, sizes: Sizes, block_size: int = 8) -> Case:
    """A case of BlockMask."""
    return Case(name, Group.CORNER, sizes, {"block_size": block_size, "rules": encode(clauses)})


def _random_rules(seed: int) -> Case:
    rng = np.random.default_rng([77, seed])
    made = (
        lambda: window(int(rng.integers(0, 20)), int(rng.integers(0, 20)), unit=int(rng.integers(1, 12))),
        lambda: window(int(rng.integers(0, 30)), -1, dilation=int(rng.integers(1, 5))),
        lambda: columns(int(rng.integers(-9, 9)), UNBOUNDED, step=int(rng.integers(1, 7))),
        lambda: rows(int(rng.integers(0, 9)), int(rng.integers(9, 60)), unit=int(rng.integers(1, 4))),
        causal,
    )
    clauses = [
        [made[int(i)]() for i in rng.integers(0, len(made), int(rng.integers(1, 4)))]
        for _ in range(int(rng.integers(1, 4)))
    ]
    own = tuple(rng.integers(0, 90, 3).tolist()) if seed % 2 else None
    return block_mask(
        f"random_{seed}", clauses, Sizes(int(rng.integers(1, 90)), own=own), int(rng.choice([8, 16, 24, 40]))
    )


_TWO_CLAUSES = [[window(20, 9), columns(0, 3), columns(250, 270), rows(5, 7)], [causal(), columns(0, 300)]]
MANY_BITMAPS = block_mask(
    "many_bitmaps", [[window(3, 11, dilation=3), columns(-4, -1)]], Sizes(60, own=(60, 59, 1, 30, 0, 58))
)
BLOCK_MASKS = (
    # More tile columns than a word has bits.
    *(block_mask(f"length_{length}", _TWO_CLAUSES, Sizes(length)) for length in (8 * 31 + 3, 8 * 33, 8 * 65 + 1)),
    MANY_BITMAPS,
    *(_random_rules(seed) for seed in range(6)),
)
