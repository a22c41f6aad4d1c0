"""Runs of the kernels around attention in the emulator, as the launcher would launch them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from helpers.data_kernels import (
    DATA_THREADS,
    SCAN_THREADS,
    Array,
    Emulated,
    MaskTensor,
    PackingPlanParams,
    TileListParams,
    TokenCopyParams,
    WorkListParams,
    fields,
    variant_of,
)
from helpers.device_attention import KernelMemory, MaskTerms, TileList, attention_params
from helpers.emulator import Grid
from helpers.work_lists import KEY_TILE, WORK_CLASSES, WORK_HEADER, WORK_THREADS, Lengths, WorkList, most_items
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.kernel_packs.variants import ELEMENT_NAMES, ROW_HEAD_SIZES, ROW_THREADS, row_shared_bytes
from raggedrt.plugins.ops.arrays import Attributes, Inputs, required
from raggedrt.plugins.ops.packing_plan.reference import reference as packing_plan

_MANY, _ONE = Grid(3, threads=DATA_THREADS), Grid(1, threads=SCAN_THREADS, shared_bytes=128)
_TILE_LAUNCHES = {
    "tile_list_count": _MANY,
    "tile_list_scan": _ONE,
    "tile_list_fill": _MANY,
    "tile_list_share": _ONE,
    "tile_list_bits": _MANY,
}


def plan(
    inputs: dict[str, Array], attributes: Attributes, *, blocks: int = 2, seed: int = 0, tokens: int | None = None
) -> tuple[dict[str, Array], int]:
    """The op's outputs and the token count that the device tells."""
    mask, keep = inputs["attention_mask"], inputs.get("keep_mask")
    rows, slots = mask.shape
    call = Emulated(seed)
    masks = {name: call.input(name, array) for name, array in (("mask", mask), ("keep_mask", keep))}
    tensors = {
        name: MaskTensor(array.ctypes.data if array.size else None, array.itemsize, int(array.dtype == np.float32))
        for name, array in masks.items()
        if array is not None
    }
    wanted = np.asarray(attributes.get("keep_slots", ()), np.int64)
    kept = [int(slot) % slots for slot in wanted if -slots <= slot < slots]
    count = len(packing_plan(inputs, attributes)["token_index"]) if tokens is None else tokens
    outputs = {name: call.output(name, count, np.int32) for name in ("token_index", "position", "key_position")}
    outputs["cu_seqlens"] = call.output("cu_seqlens", rows + 1, np.int32)
    counted = call.output("token_count", 1, np.int64)
    sizes = {"rows": rows, "slots": slots, "capacity": attributes.get("capacity", 0), "tokens": count}
    params = fields(
        PackingPlanParams, **tensors, **sizes, **outputs, token_count=counted, keep_slots=kept, keep_count=len(kept)
    )
    many, one = Grid(blocks, threads=DATA_THREADS, shared_bytes=32), Grid(1, threads=SCAN_THREADS, shared_bytes=128)
    grids = {"packing_count": many, "packing_scan": one, "packing_fill": many}
    call.run(*((variant_of(family), params, grid) for family, grid in grids.items()))
    return outputs, int(counted[0])


def _vector_bytes(*numbers: int) -> str:
    bits = np.bitwise_or.reduce([16, *numbers])
    return str(int(bits & -bits))


def _row_bytes(rows: Array, axes: int) -> int:
    return int(np.prod(rows.shape[axes:])) * rows.itemsize


def pack(inputs: Inputs, expected: Array, *, seed: int = 0) -> Array:
    """PackTokens; the result is like `expected`."""
    x, index = required(inputs, "x"), required(inputs, "token_index")
    call = Emulated(seed)
    target = call.output("target", expected.shape, expected.dtype)
    source = call.input("source", x)
    size = _row_bytes(x, 2)
    params = fields(
        TokenCopyParams,
        source=source,
        target=target,
        token_index=call.input("token_index", index),
        tokens=len(index),
        slots=x.shape[0] * x.shape[1],
        row_bytes=size,
    )
    call.run((variant_of("pack_tokens", RAGGEDRT_VECTOR_BYTES=_vector_bytes(size)), params, _MANY))
    return target


def unpack(inputs: Inputs, expected: Array, *, seed: int = 0) -> Array:
    """UnpackTokens; the result is like `expected`."""
    packed, index = required(inputs, "packed"), required(inputs, "token_index")
    call = Emulated(seed)
    target = call.output("target", expected.shape, expected.dtype)
    slots = expected.shape[0] * expected.shape[1]
    size = _row_bytes(packed, 1)
    params = fields(
        TokenCopyParams,
        source=call.input("source", packed),
        target=target,
        token_index=call.input("token_index", index),
        key_position=call.input("key_position", inputs.get("key_position")),
        token_of_slot=call.zeros("token_of_slot", slots, np.int32),
        tokens=len(index),
        slots=slots,
        row_bytes=size,
    )
    copy = variant_of("unpack_tokens", RAGGEDRT_VECTOR_BYTES=_vector_bytes(size))
    call.run((variant_of("unpack_invert"), params, _MANY), (copy, params, _MANY))
    return target


def tile_list(
    inputs: Inputs, attributes: Attributes, *, seed: int = 0, table_size: int = 0, room: tuple[int, int] | None = None
) -> tuple[dict[str, Array], tuple[int, int]]:
    """The op's outputs, cut to the counts that the device tells, and those counts.

    Args:
        inputs: Of the op.
        attributes: Of the op.
        seed: Of the schedule.
        table_size: Of the table of bitmaps; 0: twice the candidates.
        room: Entries and bitmaps that fit; None: as many as there can be.
    """
    size, blocks, offsets = int(np.asarray(attributes["block_size"])), inputs.get("blocks"), inputs.get("cu_seqlens")
    length = len(np.asarray(inputs["max_seqlen"]))
    groups, sequences = 1 if blocks is None else len(blocks), 1 if offsets is None else len(offsets) - 1
    tile_rows = -(-length // size)
    all_rows, words = sequences * groups * tile_rows, -(-tile_rows // 32)
    tiles = all_rows * tile_rows
    rules = np.asarray(attributes.get("rules", ()), np.int64).reshape(-1, 11)
    clauses = int(rules[-1, 0]) + 1 if len(rules) else int(blocks is not None)
    table = table_size or 1 << (2 * tiles + 1).bit_length()
    entries, bitmaps = room or (tiles, tiles)
    call = Emulated(seed)
    workspace = {
        "listed": call.output("listed", all_rows * words, np.uint32),
        "partial": call.output("partial", all_rows * words, np.uint32),
        "counts": call.output("counts", all_rows * 2, np.int32),
        "candidates": call.output("candidates", tiles * 32, np.uint8),
        "candidate_index": call.output("candidate_index", tiles, np.int32),
        "table": call.output("table", table, np.int32),
        "candidate_count": call.output("candidate_count", 1, np.int32),
    }
    outputs = {
        "tile_ptr": call.output("tile_ptr", (sequences, groups, tile_rows + 1), np.int32),
        "tile_col": call.output("tile_col", entries, np.int32),
        "tile_tag": call.output("tile_tag", entries, np.int32),
        "tile_bits": call.output("tile_bits", (bitmaps, size * size // 32), np.int32),
    }
    counts = [call.output(name, 1, np.int64) for name in ("entry_count", "bitmap_count")]
    params = fields(
        TileListParams,
        **workspace,
        **outputs,
        rules=rules.reshape(-1).tolist(),
        rule_count=len(rules),
        clauses=clauses,
        length=length,
        block_size=size,
        blocks=call.input("blocks", blocks),
        groups=groups,
        block_rows=0 if blocks is None else blocks.shape[1],
        block_columns=0 if blocks is None else blocks.shape[2],
        cu_seqlens=call.input("cu_seqlens", offsets),
        sequences=sequences,
        tile_rows=tile_rows,
        candidate_capacity=tiles,
        table_size=table,
        entry_capacity=entries,
        bitmap_capacity=bitmaps,
        entry_count=counts[0],
        bitmap_count=counts[1],
    )
    call.run(*((variant_of(family), params, grid) for family, grid in _TILE_LAUNCHES.items()))
    used, distinct = int(counts[0][0]), int(counts[1][0])
    ends = {"tile_ptr": None, "tile_col": used, "tile_tag": used, "tile_bits": distinct}
    return {name: array[: ends[name]] for name, array in outputs.items()}, (used, distinct)


def write_list(call: Lengths, *, blocks: int, lanes: int, seed: int, capacity: int | None = None) -> WorkList:
    rng = np.random.default_rng([seed, len(call.queries)])
    emulated = Emulated(seed)
    positions = emulated.input("positions_q", call.positions_q(rng))
    tiles = call.tiles(rng)
    ptr = emulated.input("tile_ptr", tiles.get("tile_ptr"))
    places = most_items(call) * call.splits if capacity is None else capacity
    made = emulated.output("work_list", WORK_HEADER + 4 * places, np.int32)
    mask = fields(
        MaskTerms,
        window_left=call.window[0],
        window_right=call.window[1],
        dilation=1,
        global_count=len(call.global_tokens),
        global_tokens=call.global_tokens,
    )
    listed = {} if ptr is None else {"sequences": len(ptr), "groups": call.groups, "rows": ptr.shape[2] - 1}
    params = fields(
        WorkListParams,
        cu_seqlens_q=emulated.input("cu_seqlens_q", np.cumsum([0, *call.queries]), np.int32),
        cu_seqlens_k=emulated.input("cu_seqlens_k", np.cumsum([0, *call.key_lengths]), np.int32),
        positions_q=positions,
        sequences=len(call.queries),
        total_q=sum(call.queries) + call.tail,
        total_k=sum(call.key_lengths),
        causal=int(call.causal),
        mask=mask,
        tiles=fields(TileList, ptr=ptr, block_size=call.block_size, **listed),
        splits=call.splits,
        most_tiles=max(1, -(-max([0, *call.key_lengths]) // KEY_TILE)),
        lanes=max(32, lanes) if call.block_size and call.positions else lanes,
        capacity=places,
        work_list=made,
    )
    grid = Grid(blocks, threads=WORK_THREADS, shared_bytes=3 * WORK_CLASSES * 4)
    emulated.run((variant_of("work_list"), params, grid))
    assert (made[1:WORK_HEADER] == 0).all()
    items = made[WORK_HEADER : WORK_HEADER + 4 * int(made[0])].reshape(-1, 4)
    return WorkList(call, items, positions, tiles)


def attend_rows(
    inputs: Mapping[str, Array], attributes: Attributes, element: ElementType, *, seed: int = 0, size: int = 0
) -> dict[str, Array]:
    """Outputs by name; `size` is the largest head size of the kernel, 0: the smallest that serves."""
    memory = KernelMemory()
    params = attention_params(memory, inputs, attributes, lse=True)
    params.value_head_size = inputs["value"].shape[1] // params.kv_num_heads
    params.output = memory.make(
        "output", (params.total_q, params.num_heads * params.value_head_size), inputs["query"].dtype
    )
    needed = max(params.head_size, params.value_head_size)
    size = size or next(each for each in ROW_HEAD_SIZES if each >= needed)
    variant = variant_of("row_attention", RAGGEDRT_ELEMENT=ELEMENT_NAMES[element], RAGGEDRT_HEAD_SIZE=str(size))
    rows = (4 if size <= 128 else 2) * (ROW_THREADS // 32)
    blocks = -(-params.total_q * (params.num_heads // params.kv_num_heads) // rows)
    if blocks:
        grid = Grid(blocks, params.kv_num_heads, ROW_THREADS, row_shared_bytes(size))
        Emulated(seed, memory.arrays).run((variant, params, grid))
    return {"output": memory["output"], "lse": memory["lse"]}
