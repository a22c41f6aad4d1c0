"""BigBird's pattern: a band of blocks, global blocks at both ends, and blocks drawn at random."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from raggedrt.errors import InputError
from raggedrt.graph_passes.masks.block_list import BlockList
from raggedrt.graph_passes.masks.pairs import BoolArray, Pairs


@dataclasses.dataclass(frozen=True)
class BigBird:
    """Blocks of a row of R blocks that see each other.

    Random blocks are the same everywhere and always. Row r of R numbers its candidates, the block columns that band
    and global blocks leave, in ascending order with ``numpy.random.PCG64([seed, R, r]).random_raw(candidates)`` and
    takes those with the smallest numbers, all where there are fewer. (The bit generator is used as it is because its
    numbers do not change between versions of NumPy; those of `Generator.choice` may.)

    Attributes:
        block: tokens of a block.
        window: blocks of the band, odd: the block itself and as many on either side.
        global_blocks: blocks that see and are seen by all: the first half of them (rounded up) stands at the start,
            the others at the end (2: the first and the last).
        random: blocks drawn per row; global rows draw none.
        seed: of the draw.
        length: tokens of the row that the random blocks are drawn for; a shorter row has those before its end, and in
            a longer one the rows behind have none. 0: they are drawn for the length of each row.
    """

    name: ClassVar[str] = "bigbird"
    block: int = 64
    window: int = 3
    global_blocks: int = 2
    random: int = 3
    seed: int = 0
    length: int = 0

    def __post_init__(self) -> None:
        if self.block < 1 or self.window < 1 or self.window % 2 == 0:
            raise InputError(f"{self}: a block has at least 1 token, and the window is an odd number of blocks.")
        if min(self.global_blocks, self.random, self.seed, self.length) < 0:
            raise InputError(f"{self}: global, random, seed and length are at least 0.")

    def tiles(self, length: int) -> BoolArray:
        """Visible blocks bool [R, R] of a row of `length` tokens."""
        return _tiles(self, -(-length // self.block))

    @property
    def front(self) -> int:
        """Global blocks at the start."""
        return (self.global_blocks + 1) // 2

    @property
    def back(self) -> int:
        """Global blocks at the end."""
        return self.global_blocks // 2

    def drawn(self) -> npt.NDArray[np.int32]:
        """Columns [R, random] drawn for each block row at `length`, ascending; -1 where there are fewer."""
        rows = -(-self.length // self.block)
        listed = np.full((rows, self.random), -1, dtype=np.int32)
        for row, columns in _draws(self, rows):
            listed[row, : len(columns)] = np.sort(columns)
        return listed

    def at(self, length: int) -> BlockList:
        """The block list of a row of `length` tokens."""
        return BlockList.of_tiles(self.tiles(length), self.block, length)

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        if pairs.length < 1:
            raise InputError("BigBird's blocks depend on the length of the row; give it.")
        query, key = np.broadcast_arrays(pairs.query, pairs.key)
        inside = (query >= 0) & (query < pairs.length) & (key >= 0) & (key < pairs.length)
        at = np.where(inside, query, 0) // self.block, np.where(inside, key, 0) // self.block
        return np.asarray(inside & self.tiles(pairs.length)[at])

    @property
    def words(self) -> str:
        """In prose."""
        return (
            f"BigBird's blocks of {self.block}: {self.window} in a band, {self.global_blocks} global, "
            f"{self.random} at random (seed {self.seed})"
        )

    def __str__(self) -> str:
        drawn = f", length={self.length}" if self.length else ""
        return (
            f"bigbird(block={self.block}, window={self.window}, global={self.global_blocks}, "
            f"random={self.random}, seed={self.seed}{drawn})"
        )


@functools.lru_cache(maxsize=32)
def _tiles(pattern: BigBird, rows: int) -> BoolArray:
    visible = _fixed(pattern, rows)
    for row, columns in _draws(pattern, -(-pattern.length // pattern.block) or rows):
        if row < rows:
            visible[row, columns[columns < rows]] = True
    visible.flags.writeable = False
    return visible


def _fixed(pattern: BigBird, rows: int) -> BoolArray:
    """Band and global blocks, bool [R, R]."""
    numbers = np.arange(rows)
    everywhere = _everywhere(pattern, rows)
    visible: BoolArray = np.abs(numbers[:, None] - numbers[None, :]) <= pattern.window // 2
    visible |= everywhere[None, :] | everywhere[:, None]
    return visible


def _everywhere(pattern: BigBird, rows: int) -> BoolArray:
    numbers = np.arange(rows)
    return np.asarray((numbers < pattern.front) | (numbers >= rows - pattern.back))


@functools.lru_cache(maxsize=32)
def _draws(pattern: BigBird, rows: int) -> tuple[tuple[int, npt.NDArray[np.int64]], ...]:
    """Block rows that draw, each with the columns that it draws."""
    if not pattern.random:
        return ()
    fixed, found = _fixed(pattern, rows), []
    for row in np.flatnonzero(~_everywhere(pattern, rows)).tolist():
        candidates = np.flatnonzero(~fixed[row])
        draw = np.random.PCG64([pattern.seed, rows, row]).random_raw(len(candidates))
        found.append((row, candidates[np.argsort(draw, kind="stable")[: pattern.random]]))
    return tuple(found)
