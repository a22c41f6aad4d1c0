"""The tile lists of analytic masks, built by kernels in the emulator, against the reference and the numpy builder."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.data_kernels import DATA_THREADS, SCAN_THREADS, Array, Emulated, TileListParams, fields, variant_of
from helpers.emulator import Grid
from helpers.tolerances import EXACT, assert_close
from raggedrt.plugins.contract.mask_rules import Clauses, causal, columns, encode, rows, window
from raggedrt.plugins.layout.from_rules import from_rules
from raggedrt.plugins.ops.arrays import Attributes, Inputs
from raggedrt.plugins.ops.block_mask.cases import Sizes
from raggedrt.plugins.ops.case import Case, Group
from raggedrt.plugins.ops.catalog import CASES, REFERENCES

pytestmark = pytest.mark.emulated

SMALL = [case for case in CASES["BlockMask"] if case.group is not Group.PERFORMANCE]
MANY, ONE = Grid(3, threads=DATA_THREADS), Grid(1, threads=SCAN_THREADS, shared_bytes=128)
LAUNCHES = {
    "tile_list_count": MANY,
    "tile_list_scan": ONE,
    "tile_list_fill": MANY,
    "tile_list_share": ONE,
    "tile_list_bits": MANY,
}


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
    call.run(*((variant_of(family), params, grid) for family, grid in LAUNCHES.items()))
    used, distinct = int(counts[0][0]), int(counts[1][0])
    ends = {"tile_ptr": None, "tile_col": used, "tile_tag": used, "tile_bits": distinct}
    return {name: array[: ends[name]] for name, array in outputs.items()}, (used, distinct)


def check(inputs: Inputs, attributes: Attributes, *, seed: int = 0, table_size: int = 0) -> dict[str, Array]:
    made, _ = tile_list(inputs, attributes, seed=seed, table_size=table_size)
    for name, value in REFERENCES["BlockMask"](inputs, attributes).items():
        assert_close(made[name], value, EXACT, name)
    return made


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_declared_cases(case: Case, seed: int) -> None:
    check(case.inputs(np.dtype(np.int32), seed), case.attributes, seed=seed)


def attributes_of(clauses: Clauses, block_size: int) -> Attributes:
    return {"block_size": block_size, "rules": encode(clauses)}


@pytest.mark.parametrize("length", [8 * 31 + 3, 8 * 33, 8 * 65 + 1])
def test_more_tile_columns_than_bits_of_a_word(length: int) -> None:
    clauses = [[window(20, 9), columns(0, 3), columns(250, 270), rows(5, 7)], [causal(), columns(0, 300)]]
    check({"max_seqlen": np.zeros(length)}, attributes_of(clauses, 8), seed=length)


@pytest.mark.parametrize("table_size", [1, 2, 8])
def test_a_small_table_only_takes_more_rounds(table_size: int) -> None:
    """Every slot holds many different bitmaps."""
    inputs = {"max_seqlen": np.zeros(60), "cu_seqlens": np.cumsum([0, 60, 59, 1, 30, 0, 58]).astype(np.int32)}
    made = check(
        inputs, attributes_of([[window(3, 11, dilation=3), columns(-4, -1)]], 8), table_size=table_size, seed=1
    )
    assert len(made["tile_bits"]) > 8


def test_what_finds_no_room_is_counted_but_not_written() -> None:
    inputs, attributes = {"max_seqlen": np.zeros(45)}, attributes_of([[window(5, 3)]], 8)
    expected = REFERENCES["BlockMask"](inputs, attributes)
    made, counts = tile_list(inputs, attributes, room=(7, 1))
    assert counts == (len(expected["tile_col"]), len(expected["tile_bits"]))
    np.testing.assert_array_equal(made["tile_ptr"], expected["tile_ptr"])
    np.testing.assert_array_equal(made["tile_col"], expected["tile_col"][:7])
    np.testing.assert_array_equal(made["tile_tag"], expected["tile_tag"][:7])
    np.testing.assert_array_equal(made["tile_bits"], expected["tile_bits"][:1])


def test_the_same_tiles_as_the_numpy_builder() -> None:
    """That one works from rules, as the kernels do, and not from pairs, so a longer mask is quick to make."""
    clauses = [[window(1, 1, unit=64), rows(0, 1, unit=64), columns(0, 1, unit=64), columns(-1, 2**31 - 1, unit=64)]]
    length = 1500
    rng = np.random.default_rng(4)
    blocks = rng.integers(0, -(-length // 64), (2, -(-length // 64), 3)).astype(np.int32)
    inputs = {"max_seqlen": np.zeros(length), "blocks": blocks}
    made, _ = tile_list(inputs, attributes_of(clauses, 64), seed=4)
    layout = from_rules(clauses, length, 64, blocks=blocks)
    for name, value in layout.tensors().items():
        assert_close(made[name], value, EXACT, name)


@pytest.mark.parametrize("seed", range(6))
def test_random_rules(seed: int) -> None:
    rng = np.random.default_rng([77, seed])
    clauses = []
    for _ in range(int(rng.integers(1, 4))):
        made = [
            lambda: window(int(rng.integers(0, 20)), int(rng.integers(0, 20)), unit=int(rng.integers(1, 12))),
            lambda: window(int(rng.integers(0, 30)), -1, dilation=int(rng.integers(1, 5))),
            lambda: columns(int(rng.integers(-9, 9)), 2**31 - 1, step=int(rng.integers(1, 7))),
            lambda: rows(int(rng.integers(0, 9)), int(rng.integers(9, 60)), unit=int(rng.integers(1, 4))),
            causal,
        ]
        clauses.append([made[int(i)]() for i in rng.integers(0, len(made), int(rng.integers(1, 4)))])
    sizes = Sizes(int(rng.integers(1, 90)), own=tuple(rng.integers(0, 90, 3).tolist()) if seed % 2 else None)
    check(sizes(rng, np.dtype(np.int32)), attributes_of(clauses, int(rng.choice([8, 16, 24, 40]))), seed=seed)
