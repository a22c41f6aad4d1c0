"""How much memory the kernels around attention touch, counted by the emulator: what their comments say."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.data_kernels import Array, counted
from helpers.data_runs import Lengths, attend_rows, pack, plan, tile_list, unpack, write_list
from raggedrt.plugins.contract.mask_rules import columns, encode, rows, window
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.ops.case import padding_mask
from raggedrt.plugins.ops.catalog import REFERENCES
from raggedrt.plugins.ops.ragged_attention.cases import Problem

pytestmark = pytest.mark.emulated

SECTOR = 32


def sector_bytes(counts: dict[str, dict[str, int]]) -> int:
    """Bytes of the sectors that the warps' requests touch, those that come from a cache, too."""
    return SECTOR * sum(each["global_sectors"] for each in counts.values())


def size_of(*arrays: Array) -> int:
    return sum(array.nbytes for array in arrays)


@pytest.fixture
def batch() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    mask = padding_mask(rng, "right", 8, 40)
    return {
        "x": rng.standard_normal((*mask.shape, 768)).astype(np.float16),
        "token_index": np.flatnonzero(mask).astype(np.int32),
        "like": mask,
    }


def test_pack_moves_little_but_the_rows(batch: dict[str, Array]) -> None:
    packed = REFERENCES["PackTokens"](batch, {})["packed"]
    with counted() as counts:
        pack(batch, packed)
    assert sector_bytes(counts) <= 1.05 * size_of(packed, packed, batch["token_index"])
    assert counts["pack_tokens"]["global_store_bytes"] == packed.nbytes


def test_unpack_writes_each_slot_once(batch: dict[str, Array]) -> None:
    packed = REFERENCES["PackTokens"](batch, {})["packed"]
    inputs = {**batch, "packed": packed}
    with counted() as counts:
        unpack(inputs, batch["x"])
    assert sector_bytes(counts) <= 1.06 * size_of(packed, batch["x"], batch["token_index"])
    assert counts["unpack_tokens"]["global_store_bytes"] == batch["x"].nbytes


def test_a_packing_plan_reads_the_mask_three_times() -> None:
    mask = padding_mask(np.random.default_rng(1), "right", 32, 512)
    with counted() as counts:
        outputs, _ = plan({"attention_mask": mask}, {})
    loads = sum(each["global_load_bytes"] for each in counts.values())
    assert loads <= 3.2 * mask.nbytes
    assert sum(each["global_store_bytes"] for each in counts.values()) <= 1.01 * size_of(*outputs.values()) + 256


def test_a_work_list_is_written_once_and_reads_lengths_per_block() -> None:
    lengths = tuple(np.random.default_rng(2).integers(1, 512, 1000).tolist())
    blocks = 2
    with counted() as counts:
        made = write_list(Lengths(lengths), blocks=blocks, lanes=4, seed=0)
    work = counts["work_list"]
    assert work["global_store_bytes"] == made.items.nbytes + 16
    # Lanes that share a sequence read its lengths together.
    assert SECTOR * work["global_sectors"] <= 3 * (made.items.nbytes + (blocks + 1) * 16 * len(lengths))


def test_tile_lists_are_written_once() -> None:
    clauses = [[window(1, 1, unit=64), rows(0, 1, unit=64), columns(0, 1, unit=64), window(70, 70)]]
    with counted() as counts:
        made, _ = tile_list({"max_seqlen": np.zeros(4000)}, {"block_size": 64, "rules": encode(clauses)})
    stores = sum(each["global_store_bytes"] for each in counts.values())
    candidates = int((made["tile_tag"] >= 0).sum())
    rows_of_tiles = made["tile_ptr"].size
    table = counts["tile_list_share"]["global_store_bytes"]
    assert stores - table <= size_of(*made.values()) + 36 * candidates + 48 * rows_of_tiles


@pytest.mark.parametrize("element", [ElementType.FLOAT16, ElementType.FLOAT])
def test_row_attention_has_no_bank_conflicts(element: ElementType) -> None:
    problem = Problem(lengths=(64, 31, 7, 100), heads=2, kv_heads=2, head_size=64)
    inputs = problem(np.random.default_rng(3), np.dtype(np.float16 if element is ElementType.FLOAT16 else np.float32))
    with counted() as counts:
        attend_rows(inputs, {"num_heads": 2, "kv_num_heads": 2}, element)
    work = counts["row_attention"]
    assert work["shared_conflicts"] == 0
    # Keys and values once per four rows.
    passes = sum(-(-length // 4) * length for length in problem.lengths) / sum(problem.lengths)
    least = size_of(inputs["query"]) * 2 + passes * size_of(inputs["key"], inputs["value"])
    assert SECTOR * work["global_sectors"] <= 1.1 * least
