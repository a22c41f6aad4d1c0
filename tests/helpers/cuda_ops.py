"""Test cases of ops as calls of the launcher: inputs to the device, call structs, outputs back."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import numpy as np

from helpers.cuda_calls import (
    AttentionCall,
    AttentionPlanCall,
    AttentionProblem,
    BlockMaskCall,
    BlockMaskInput,
    MaskTerms,
    MergeCall,
    PackingInput,
    PackingOutput,
    PackingPlanCall,
    ScoreTerms,
    TileList,
    TokenCopy,
)
from helpers.cuda_launcher import DeviceMemory, Launcher, outputs_of, run_call
from raggedrt.plugins.ops.arrays import NUMPY_TYPES, Array, Attributes
from raggedrt.plugins.ops.packing_plan.reference import reference as packing_plan

Inputs = Mapping[str, Array]
ELEMENTS = {dtype: element.value for element, dtype in NUMPY_TYPES.items()}


def run_op(
    launcher: Launcher, memory: DeviceMemory, op: str, inputs: Inputs, attributes: Attributes, *,
    lse: bool = True, plan: bool = False, stream: int = 0,
) -> Mapping[str, Array]:  # fmt: skip
    """Outputs of one op by name. `plan`: attention gets the work list of an AttentionPlan."""
    if op == "BlockMask":
        return _block_mask(launcher, memory, inputs, attributes, stream)
    if op == "RaggedAttention":
        call = attention_call(memory, inputs, attributes, lse=lse)
        if plan:
            give_plan(launcher, memory, call, stream)
        run_call(launcher, memory, "attention", call, stream)
        return outputs_of(memory, stream)
    name, make = {
        "PackingPlan": ("packing_plan", _packing_plan),
        "PackTokens": ("pack_tokens", _pack_tokens),
        "UnpackTokens": ("unpack_tokens", _unpack_tokens),
        "MergeAttentionStates": ("merge", _merge),
    }[op]
    run_call(launcher, memory, name, make(memory, inputs, attributes), stream)
    return outputs_of(memory, stream)


def _element(array: Array) -> int:
    return ELEMENTS[array.dtype]


def _packing_plan(memory: DeviceMemory, inputs: Inputs, attributes: Attributes) -> PackingPlanCall:
    mask, keep = inputs["attention_mask"], inputs.get("keep_mask")
    slots = np.asarray(attributes.get("keep_slots", ()), np.int64)
    rows, width = mask.shape
    tokens = len(packing_plan(inputs, attributes)["token_index"])
    shapes = {"token_index": (tokens,), "cu_seqlens": (rows + 1,), "position": (tokens,), "key_position": (tokens,)}
    outputs = {name: memory.output(name, shape, np.int32) for name, shape in shapes.items()}
    return PackingPlanCall(
        PackingInput(
            mask_element=_element(mask), mask=memory.put(mask), keep_element=_element(mask if keep is None else keep),
            keep_mask=memory.put(keep), keep_slots=memory.on_host(slots), keep_count=len(slots), rows=rows, slots=width,
            capacity=int(np.asarray(attributes.get("capacity", 0))),
        ),
        PackingOutput(**outputs), tokens, memory.output("token_count", (1,), np.int64),
    )  # fmt: skip


def _row_bytes(array: Array, axes: int) -> int:
    return int(np.prod(array.shape[axes:])) * array.itemsize


def _pack_tokens(memory: DeviceMemory, inputs: Inputs, attributes: Attributes) -> TokenCopy:
    x, index = inputs["x"], inputs["token_index"]
    target = memory.output("packed", (len(index), *x.shape[2:]), x.dtype)
    return TokenCopy(
        source=memory.put(x), target=target, token_index=memory.put(index), tokens=len(index),
        slots=x.shape[0] * x.shape[1], row_bytes=_row_bytes(x, 2),
    )  # fmt: skip


def _unpack_tokens(memory: DeviceMemory, inputs: Inputs, attributes: Attributes) -> TokenCopy:
    packed, index, like = inputs["packed"], inputs["token_index"], inputs["like"]
    target = memory.output("x", (*like.shape, *packed.shape[1:]), packed.dtype)
    return TokenCopy(
        source=memory.put(packed), target=target, token_index=memory.put(index),
        key_position=memory.put(inputs.get("key_position")), tokens=len(index), slots=like.size,
        row_bytes=_row_bytes(packed, 1),
    )  # fmt: skip


def _merge(memory: DeviceMemory, inputs: Inputs, attributes: Attributes) -> MergeCall:
    output, lse = inputs["output1"], inputs["lse1"]
    heads, tokens = lse.shape
    return MergeCall(
        element=_element(output),
        **{name: memory.put(inputs[name]) for name in ("output1", "output2", "lse1", "lse2")},
        output=memory.output("output", output.shape, output.dtype),
        lse=memory.output("lse", lse.shape, np.float32),
        tokens=tokens, heads=heads, head_size=output.shape[1] // heads,
    )  # fmt: skip


# ---- Attention ----------------------------------------------------------------------------------------------------


def attention_call(memory: DeviceMemory, inputs: Inputs, attributes: Attributes, *, lse: bool) -> AttentionCall:
    """The call without a plan."""
    options = dict(attributes)
    query, key, value = inputs["query"], inputs["key"], inputs["value"]
    heads = int(np.asarray(options["num_heads"]))
    kv_heads = int(np.asarray(options.get("kv_num_heads", 0))) or heads
    head_size, value_size = query.shape[1] // heads, value.shape[1] // kv_heads
    plain = ("query", "key", "value", "cu_seqlens_q", "cu_seqlens_k", "positions_q", "positions_k")
    tokens = np.sort(np.asarray(options.get("global_tokens", ()), np.int32))
    problem = AttentionProblem(
        element=_element(query),
        **{name: memory.put(inputs.get(name)) for name in plain},
        output=memory.output("output", (len(query), heads * value_size), query.dtype),
        lse=memory.output("lse", (heads, len(query)), np.float32) if lse else None,
        sequences=len(inputs["cu_seqlens_q"]) - 1, total_q=len(query), total_k=len(key), num_heads=heads,
        kv_num_heads=kv_heads, head_size=head_size, value_head_size=value_size,
        scale=_number(options, "scale") or head_size**-0.5, causal=bool(options.get("causal", 0)),
        mask=MaskTerms(
            *(int(_number(options, name, -1)) for name in ("window_left", "window_right")),
            int(_number(options, "dilation", 1)), memory.on_host(tokens), len(tokens),
        ),
        tiles=_tiles(memory, inputs, int(_number(options, "block_size"))),
        scores=_scores(memory, inputs, _number(options, "softcap")),
    )  # fmt: skip
    return AttentionCall(problem, len(inputs["max_seqlen_q"]), len(inputs["max_seqlen_k"]))


def _number(options: Mapping[str, object], name: str, default: float = 0.0) -> float:
    return float(np.asarray(options.get(name, default)))


def _tiles(memory: DeviceMemory, inputs: Inputs, block_size: int) -> TileList:
    if "tile_ptr" not in inputs:
        return TileList()
    names = {"ptr": "tile_ptr", "col": "tile_col", "tag": "tile_tag", "bits": "tile_bits", "head_group": "head_group"}
    pointers = {field: memory.put(inputs.get(name)) for field, name in names.items()}
    sequences, groups, ends = inputs["tile_ptr"].shape
    # A pointer to an empty tensor is not null in a runtime, and says that there is a tile list.
    pointers["ptr"] = pointers["ptr"] or memory.make(4)
    return TileList(
        **pointers, sequences=sequences, groups=groups, rows=ends - 1, entries=len(inputs["tile_col"]),
        bitmaps=len(inputs["tile_bits"]), block_size=block_size,
    )  # fmt: skip


def _scores(memory: DeviceMemory, inputs: Inputs, softcap: float) -> ScoreTerms:
    names = ("bias", "distance_bias", "rel_query", "rel_key", "rel_bucket", "head_sink", "alibi_slopes")
    terms = ScoreTerms(softcap=softcap, **{name: memory.put(inputs.get(name)) for name in names})
    if "bias" in inputs:
        terms.bias_sequences, terms.bias_heads, terms.bias_size, _ = inputs["bias"].shape
    if "distance_bias" in inputs:
        terms.distance_heads, terms.distance_count = inputs["distance_bias"].shape
    if "rel_bucket" in inputs:
        terms.bucket_count = len(inputs["rel_bucket"])
        terms.rel_size = inputs["rel_query" if "rel_query" in inputs else "rel_key"].shape[2]
    return terms


def give_plan(launcher: Launcher, memory: DeviceMemory, call: AttentionCall, stream: int) -> None:
    """Run AttentionPlan for a call, and let the call read it."""
    size = launcher.work_list_size(call.problem)
    work_list = memory.make(4 * size)
    plan = AttentionPlanCall(call.problem, call.max_seqlen_q, call.max_seqlen_k, work_list)
    run_call(launcher, memory, "attention_plan", plan, stream)
    call.work_list, call.work_list_size = work_list, size


# ---- Masks --------------------------------------------------------------------------------------------------------


def _block_mask(
    launcher: Launcher, memory: DeviceMemory, inputs: Inputs, attributes: Attributes, stream: int
) -> Mapping[str, Array]:
    """Outputs cut to what the counts say is used."""
    rules = np.asarray(attributes.get("rules", ()), np.int64)
    block_size = int(np.asarray(attributes["block_size"]))
    blocks, offsets = inputs.get("blocks"), inputs.get("cu_seqlens")
    groups, rows, columns = blocks.shape if blocks is not None else (1, 0, 0)
    given = BlockMaskInput(
        rules=memory.on_host(rules), rule_count=len(rules) // 11, length=len(inputs["max_seqlen"]),
        block_size=block_size,
        blocks=(memory.put(blocks) or memory.make(4)) if blocks is not None else None,
        groups=groups, block_rows=rows, block_columns=columns,
        cu_seqlens=memory.put(offsets), sequences=1 if offsets is None else len(offsets) - 1,
    )  # fmt: skip
    bounds = (ctypes.c_int64 * 3)()
    launcher.library.raggedrt_cuda_block_mask_bounds(ctypes.byref(given), bounds)
    tile_rows, entries, bitmaps = bounds
    call = BlockMaskCall(
        given,
        memory.output("tile_ptr", (given.sequences, groups, tile_rows + 1), np.int32),
        memory.output("tile_col", (entries,), np.int32),
        memory.output("tile_tag", (entries,), np.int32),
        memory.output("tile_bits", (bitmaps, block_size * block_size // 32), np.int32),
        entries, bitmaps,
        memory.output("entry_count", (1,), np.int64), memory.output("bitmap_count", (1,), np.int64),
    )  # fmt: skip
    run_call(launcher, memory, "block_mask", call, stream)
    found = dict(outputs_of(memory, stream))
    used, stored = int(found.pop("entry_count")[0]), int(found.pop("bitmap_count")[0])
    ends = {"tile_ptr": None, "tile_col": used, "tile_tag": used, "tile_bits": stored}
    return {name: found[name][:end] for name, end in ends.items()}
