"""What the tensor-core kernels compute for given lengths: closed forms, held against the emulator's counters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from raggedrt.plugins.kernel_packs.variants import Variant

GROUP = 16
"""Keys that are skipped or computed together, and rows of one mma."""


@dataclasses.dataclass
class Work:
    """Instructions of warps, and bytes, of one head."""

    mma: int = 0
    load_matrix: int = 0
    """8x8 matrices that ldmatrix reads."""
    copied_bytes: int = 0
    """What asynchronous copies read from global memory."""
    exp2: int = 0
    """Of single lanes."""

    def add(self, other: Work) -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def ceil_divide(value: int, divisor: int) -> int:
    return -(-value // divisor)


def items_of(length: int, rows: int) -> list[int]:
    """Query rows of the items of a sequence."""
    return [min(rows, length - first) for first in range(0, length, rows)]


def dense_work(lengths: Sequence[int], variant: Variant) -> Work:
    """Work of self-attention without a mask over sequences of these lengths."""
    total = Work()
    for length in lengths:
        for rows in items_of(length, variant.query_rows):
            total.add(_item(rows, length, variant))
    return total


def _item(rows: int, keys: int, variant: Variant) -> Work:
    slices = variant.head_size // GROUP
    warps = ceil_divide(rows, GROUP * variant.row_blocks)  # that have a query
    blocks = warps * variant.row_blocks
    groups = ceil_divide(keys, GROUP)
    tiles = ceil_divide(keys, variant.key_tile)
    held = variant.row_blocks * (12 * slices + variant.key_tile // 2) < 176  # kQueriesInRegisters
    whole, rest = divmod(keys, variant.key_tile)
    query_loads = 1 if held else whole + ceil_divide(rest, GROUP)
    per_thread = variant.row_blocks * 2 * (variant.key_tile // 4 + 1)  # exponentials of a tile, and rescaling
    return Work(
        mma=blocks * groups * slices * 4,
        load_matrix=4 * slices * (warps * groups * 2 + blocks * query_loads),
        copied_bytes=2 * variant.head_size * (rows + 2 * keys),
        exp2=32 * warps * tiles * per_thread,
    )


def useful_share(lengths: Sequence[int], variant: Variant) -> float:
    """Share of the multiplications in mma instructions that belong to a query and a key that exist."""
    useful = 4 * variant.head_size * sum(length * length for length in lengths)  # operations, both products
    return useful / (dense_work(lengths, variant).mma * 2 * 16 * 8 * 16)


@dataclasses.dataclass(frozen=True)
class Multiprocessor:
    """What one multiprocessor does per clock."""

    mma_operations: int
    exponentials: int = 16
    shared_bytes: int = 128


A100 = Multiprocessor(mma_operations=2048)


def clocks(work: Work, head_size: int, machine: Multiprocessor) -> dict[str, float]:
    """Clocks that each unit needs at the least for `work`; the largest is the bound."""
    row_bytes = 2 * head_size
    stored = work.copied_bytes // row_bytes * row_bytes  # copies write shared memory, too
    return {
        "mma": work.mma * 2 * 16 * 8 * 16 / machine.mma_operations,
        "shared": (work.load_matrix * 128 + stored) / machine.shared_bytes,
        "exp2": work.exp2 / machine.exponentials,
    }
