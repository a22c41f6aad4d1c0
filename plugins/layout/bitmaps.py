"""Bits of a partial tile: word w, bit k of a bitmap is element 32 * w + k of the tile in row-major order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from raggedrt.errors import InputError

Array = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]
FULL = -1
"""Tag of a tile in which every pair of positions is visible."""
WORD_BITS = 32
BLOCK_STEP = 8
LARGEST_BLOCK = 1024


def check_block_size(block_size: int) -> int:
    """`block_size`, if tiles may have it.

    Raises:
        InputError: It is no multiple of 8 (bits would not fill words), or out of range.
    """
    if block_size % BLOCK_STEP or not BLOCK_STEP <= block_size <= LARGEST_BLOCK:
        raise InputError(
            f"A mask has block size {block_size}; expected a multiple of {BLOCK_STEP} from {BLOCK_STEP} to "
            f"{LARGEST_BLOCK}."
        )
    return int(block_size)


def words_per_tile(block_size: int) -> int:
    """Words W of one bitmap."""
    return block_size * block_size // WORD_BITS


def pack_bits(tiles: BoolArray) -> Array:
    """Bitmaps int32 [P, W] of tiles bool [P, block_size, block_size]."""
    elements = tiles.shape[1] * tiles.shape[2]
    packed = np.packbits(tiles.reshape(len(tiles), elements), axis=1, bitorder="little")
    words = packed.reshape(len(tiles), elements // WORD_BITS, 4).view("<u4")[..., 0]
    return words.astype(np.uint32).view(np.int32)


def unpack_bits(words: Array, block_size: int) -> BoolArray:
    """Tiles bool [P, block_size, block_size] of bitmaps int32 [P, W]."""
    little = np.ascontiguousarray(words).astype("<i4")
    bits = np.unpackbits(little.view(np.uint8).reshape(len(words), 4 * words.shape[1]), axis=1, bitorder="little")
    return bits.astype(np.bool_).reshape(len(words), block_size, block_size)


def deduplicate(words: Array) -> tuple[Array, Array]:
    """Distinct bitmaps int32 [P, W] in order of first occurrence, and the index of each of `words` among them."""
    if not len(words):
        return words, np.zeros(0, np.int32)
    _, first, inverse = np.unique(words, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return words[first[order]], rank[inverse.reshape(-1)].astype(np.int32)
