"""Runs the tensor-core attention kernels in the emulator on an op's inputs, with work lists made here."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from helpers.emulator import Grid, Kernels, Memory, Variant, aligned, registered
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.kernel_packs.variants import Variant as PackVariant
from raggedrt.plugins.ops.arrays import NUMPY_TYPES, Array, Attributes

INT, POINTER = ctypes.c_int, ctypes.c_void_p
KEY_TILE = 64
LIST_ROWS = 64
"""Most query rows of an item; kernels with larger tiles join items."""
MAX_GLOBAL_TOKENS = 128
DESCRIBE_KEYS = Variant("describe_keys.cu", "describe_keys")


def _fields(**kinds: object) -> tuple[tuple[str, object], ...]:
    return tuple(kinds.items())


class MaskTerms(ctypes.Structure):
    """`MaskTerms` of kernels/params.h, and so on."""

    _fields_ = _fields(
        window_left=INT, window_right=INT, dilation=INT, global_count=INT, global_tokens=INT * MAX_GLOBAL_TOKENS
    )


class TileList(ctypes.Structure):
    _fields_ = _fields(
        ptr=POINTER, col=POINTER, tag=POINTER, bits=POINTER, head_group=POINTER, sequences=INT, groups=INT, rows=INT,
        entries=INT, bitmaps=INT, block_size=INT,
    )  # fmt: skip


class ScoreTerms(ctypes.Structure):
    _fields_ = _fields(
        softcap=ctypes.c_float, bias=POINTER, bias_sequences=INT, bias_heads=INT, bias_size=INT, distance_bias=POINTER,
        distance_heads=INT, distance_count=INT, rel_query=POINTER, rel_key=POINTER, rel_bucket=POINTER, rel_size=INT,
        bucket_count=INT, head_sink=POINTER, alibi_slopes=POINTER,
    )  # fmt: skip


class AttentionParams(ctypes.Structure):
    _fields_ = _fields(
        query=POINTER, key=POINTER, value=POINTER, cu_seqlens_q=POINTER, cu_seqlens_k=POINTER, positions_q=POINTER,
        positions_k=POINTER, output=POINTER, lse=POINTER, sequences=INT, total_q=INT, total_k=INT, num_heads=INT,
        kv_num_heads=INT, head_size=INT, value_head_size=INT, scale=ctypes.c_float, causal=INT, mask=MaskTerms,
        tiles=TileList, scores=ScoreTerms, work_list=POINTER, work_counter=POINTER, key_summaries=POINTER,
        key_base=POINTER, splits=INT, split_output=POINTER, split_lse=POINTER,
    )  # fmt: skip


class DescribeKeysParams(ctypes.Structure):
    _fields_ = _fields(
        positions_k=POINTER, cu_seqlens_k=POINTER, sequences=INT, key_summaries=POINTER, key_base=POINTER, total_k=INT
    )


@dataclasses.dataclass
class Run:
    """What a launch gave."""

    output: Array
    lse: Array | None
    counters: dict[str, int]


@dataclasses.dataclass(frozen=True)
class How:
    """How a call is launched: what must not change its results."""

    seed: int = 0
    blocks: int = 3
    splits: int = 1
    counter: bool = False
    profile: bool = False


def mask_class(inputs: Mapping[str, Array], attributes: Attributes) -> int:
    """`RAGGEDRT_MASK` that a call needs, as the launcher finds it."""
    if "tile_ptr" in inputs:
        return 2
    names = ("window_left", "window_right")
    by_position = attributes.get("causal") or any(attributes.get(name, -1) != -1 for name in names)
    by_position = by_position or attributes.get("dilation", 1) != 1 or "positions_k" in inputs
    return int(bool(by_position) or bool(score_class(inputs, attributes)))


def score_class(inputs: Mapping[str, Array], attributes: Attributes) -> int:
    """`RAGGEDRT_SCORES` that a call needs."""
    terms = {"bias", "distance_bias", "rel_bucket", "alibi_slopes"} & set(inputs)
    return int(bool(terms) or bool(attributes.get("softcap")) or float(attributes.get("scale", 0.0) or 1.0) < 0)


def work_items(inputs: Mapping[str, Array], attributes: Attributes, rows: int) -> list[tuple[int, int, int]]:
    """(sequence, first query, rows) of every item: with a tile list, of queries in one tile row."""
    bounds_q, bounds_k = inputs["cu_seqlens_q"].tolist(), inputs["cu_seqlens_k"].tolist()
    size = int(attributes.get("block_size", 0)) if "tile_ptr" in inputs else 0
    items = []
    for sequence in range(len(bounds_q) - 1):
        queries = bounds_q[sequence + 1] - bounds_q[sequence]
        keys = bounds_k[sequence + 1] - bounds_k[sequence]
        shifted = attributes.get("causal") and "positions_q" not in inputs and "positions_k" not in inputs
        places = np.arange(queries) + (keys - queries if shifted else 0)
        if "positions_q" in inputs:
            places = inputs["positions_q"][bounds_q[sequence] : bounds_q[sequence + 1]]
        first = 0
        for query in range(1, queries + 1):
            done = query == queries or query - first == rows
            if done or (size and places[query] // size != places[first] // size):
                items.append((sequence, first, query - first))
                first = query
    return items


class KernelMemory:
    """Arrays of one call at addresses that the emulator knows."""

    def __init__(self) -> None:
        self.arrays: dict[str, tuple[Array, Memory]] = {}

    def put(self, name: str, array: Array, kind: Memory = Memory.INPUT) -> int | None:
        """The address of a copy; null where there is nothing."""
        copy = aligned(array.shape, array.dtype)
        copy[...] = array
        self.arrays[name] = (copy, kind)
        return copy.ctypes.data if copy.size else None

    def make(self, name: str, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> int | None:
        return self.put(name, np.zeros(shape, dtype), Memory.UNINITIALIZED)

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name][0]


def run_attention(
    kernels: Kernels, variant: PackVariant, inputs: Mapping[str, Array], attributes: Attributes, how: How, *,
    lse: bool = True, items_of: Mapping[str, Array] | None = None,
) -> Run:  # fmt: skip
    """Attention by one variant, as the launcher would launch it; `items_of`: inputs that the work list is made for."""
    memory = KernelMemory()
    params = attention_params(memory, inputs, attributes, lse=lse)
    items = work_items(items_of or inputs, attributes, min(variant.query_rows, LIST_ROWS))
    np.random.default_rng(how.seed).shuffle(items)
    splits = [(*item, split) for item in items for split in range(how.splits)]
    words = np.array([len(splits), 0, 0, 0, *np.reshape(splits, -1)], np.int32)
    params.work_list = memory.put("work_list", words)
    if how.counter:
        params.work_counter = memory.put("work_counter", np.zeros(1, np.int32), Memory.IN_OUT)
    params.splits = how.splits
    if how.splits > 1:
        width = params.num_heads * params.head_size
        params.split_output = memory.make("split_output", (how.splits, params.total_q, width), np.float32)
        params.split_lse = memory.make("split_lse", (how.splits, params.num_heads, params.total_q), np.float32)
    described = _describe(memory, params) if "positions_k" in inputs and params.total_k else None
    with registered(memory.arrays):
        if described is not None:
            kernels.run("describe_keys", described, Grid(2, threads=64), seed=how.seed)
        grid = Grid(how.blocks, threads=variant.threads, shared_bytes=variant.shared_bytes)
        counters = kernels.run(variant.entry, params, grid, seed=how.seed, profile=how.profile)
    if how.splits > 1:
        output, sums = merge(memory["split_output"], memory["split_lse"], inputs)
        return Run(output.astype(memory["output"].dtype), sums, counters)
    return Run(memory["output"], memory["lse"] if lse else None, counters)


def merge(parts: Array, lse: Array, inputs: Mapping[str, Array]) -> tuple[Array, Array]:
    """Output [Tq, N*H] and lse [N, Tq] of splits [parts, …]; rows of no sequence are not written by any."""
    used = int(inputs["cu_seqlens_q"][-1])
    parts, lse = parts.copy(), lse.copy()
    parts[:, used:], lse[..., used:] = 0, -np.inf  # poison: no kernel writes there
    parts, lse = parts.astype(np.float64), lse.astype(np.float64)
    sinks = (
        inputs["head_sink"].astype(np.float64)[:, None] if "head_sink" in inputs else np.full(lse.shape[1:], -np.inf)
    )
    seen = np.isfinite(lse).any(axis=0)  # [N, Tq]
    top = np.where(seen, np.maximum(lse.max(axis=0), sinks), 0)
    weights = np.exp(lse - top)  # [parts, N, Tq]
    total = np.where(seen, weights.sum(axis=0) + np.exp(sinks - top), 1)
    heads = lse.shape[1]
    shares = np.where(seen, weights / total, 0).transpose(0, 2, 1)[..., None]  # [parts, Tq, N, 1]
    split = np.where(shares == 0, 0, parts.reshape(*parts.shape[:2], heads, -1))
    merged = (split * shares).sum(axis=0).reshape(parts.shape[1:])
    return merged, np.where(seen, top + np.log(total), -np.inf).astype(np.float32)


def _describe(memory: KernelMemory, params: AttentionParams) -> DescribeKeysParams:
    params.key_summaries = memory.make("key_summaries", (params.total_k // KEY_TILE + params.sequences, 4), np.int32)
    params.key_base = memory.make("key_base", (params.sequences,), np.int32)
    return DescribeKeysParams(
        params.positions_k,
        params.cu_seqlens_k,
        params.sequences,
        params.key_summaries,
        params.key_base,
        params.total_k,
    )


def attention_params(
    memory: KernelMemory, inputs: Mapping[str, Array], attributes: Attributes, *, lse: bool
) -> AttentionParams:
    """The kernel's argument, without work list."""
    heads = int(attributes["num_heads"])
    kv_heads = int(attributes.get("kv_num_heads", 0)) or heads
    total_q, total_k = len(inputs["query"]), len(inputs["key"])
    head_size = inputs["query"].shape[1] // heads
    params = AttentionParams(
        sequences=len(inputs["cu_seqlens_q"]) - 1, total_q=total_q, total_k=total_k, num_heads=heads,
        kv_num_heads=kv_heads, head_size=head_size, value_head_size=head_size, causal=int(attributes.get("causal", 0)),
        scale=float(attributes.get("scale", 0.0)) or head_size**-0.5, splits=1,
    )  # fmt: skip
    plain = ("query", "key", "value", "cu_seqlens_q", "cu_seqlens_k", "positions_q", "positions_k")
    for name in plain:
        if name in inputs:
            setattr(params, name, memory.put(name, inputs[name]))
    params.output = memory.make("output", (total_q, heads * head_size), inputs["query"].dtype)
    if lse:
        params.lse = memory.make("lse", (heads, total_q), np.float32)
    tokens = sorted(attributes.get("global_tokens", ()))
    params.mask = MaskTerms(
        attributes.get("window_left", -1), attributes.get("window_right", -1), attributes.get("dilation", 1),
        len(tokens), (INT * MAX_GLOBAL_TOKENS)(*tokens),
    )  # fmt: skip
    params.tiles = _tile_list(memory, inputs, int(attributes.get("block_size", 0)))
    params.scores = _score_terms(memory, inputs, float(attributes.get("softcap", 0.0)))
    return params


def _tile_list(memory: KernelMemory, inputs: Mapping[str, Array], block_size: int) -> TileList:
    if "tile_ptr" not in inputs:
        return TileList()
    ptr = inputs["tile_ptr"]
    tiles = TileList(
        sequences=ptr.shape[0], groups=ptr.shape[1], rows=ptr.shape[2] - 1, entries=len(inputs["tile_col"]),
        bitmaps=len(inputs["tile_bits"]), block_size=block_size,
    )  # fmt: skip
    for field in ("ptr", "col", "tag", "bits"):
        setattr(tiles, field, memory.put(f"tile_{field}", inputs[f"tile_{field}"]))
    if "head_group" in inputs:
        tiles.head_group = memory.put("head_group", inputs["head_group"])
    return tiles


def _score_terms(memory: KernelMemory, inputs: Mapping[str, Array], softcap: float) -> ScoreTerms:
    terms = ScoreTerms(softcap=softcap)
    names = ("bias", "distance_bias", "rel_query", "rel_key", "rel_bucket", "head_sink", "alibi_slopes")
    for name in names:
        if name in inputs:
            setattr(terms, name, memory.put(name, inputs[name]))
    if "bias" in inputs:
        terms.bias_sequences, terms.bias_heads, terms.bias_size = inputs["bias"].shape[:3]
    if "distance_bias" in inputs:
        terms.distance_heads, terms.distance_count = inputs["distance_bias"].shape
    if "rel_bucket" in inputs:
        terms.bucket_count = len(inputs["rel_bucket"])
        terms.rel_size = next(inputs[name].shape[2] for name in ("rel_query", "rel_key") if name in inputs)
    return terms


def emulated(variants: Sequence[PackVariant]) -> Kernels:
    """These variants, and what describes keys for them, for the emulator."""
    return Kernels([DESCRIBE_KEYS, *(Variant(v.source, v.entry, v.macros) for v in variants)])


def numpy_type(variant: PackVariant) -> np.dtype:
    """The element type of a variant."""
    return NUMPY_TYPES[variant.element or ElementType.FLOAT]
