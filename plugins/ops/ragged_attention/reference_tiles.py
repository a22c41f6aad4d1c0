"""Which keys a tile list shows to the queries of one sequence and head (part of RaggedAttention's reference)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from raggedrt.plugins.layout.bitmaps import FULL, BoolArray, unpack_bits
from raggedrt.plugins.ops.arrays import Array


def visible_in_tiles(
    given: Mapping[str, Array], block_size: int, row: int, head: int, place_q: Array, place_k: Array
) -> BoolArray:
    """Bool [Lq, Lk] for query places [Lq, 1] and key places [1, Lk]; all true without a tile list."""
    visible = np.ones(np.broadcast_shapes(place_q.shape, place_k.shape), np.bool_)
    if "tile_ptr" not in given:
        return visible
    ptr = given["tile_ptr"]
    group = int(given["head_group"][head]) if "head_group" in given else head % ptr.shape[1]
    rows = ptr[min(row, len(ptr) - 1), group]  # [R + 1]
    tiles = unpack_bits(given["tile_bits"], block_size)  # [P, s, s]
    for index, position in enumerate(place_q[:, 0].tolist()):
        tile_row = position // block_size
        tag_of = {}
        if 0 <= tile_row < len(rows) - 1:
            entries = slice(rows[tile_row], rows[tile_row + 1])
            tag_of = dict(zip(given["tile_col"][entries].tolist(), given["tile_tag"][entries].tolist(), strict=True))
        for key, place in enumerate(place_k[0].tolist()):
            tag = tag_of.get(place // block_size)
            seen = tag is not None and place >= 0
            if seen and tag != FULL:
                seen = tiles[tag, position % block_size, place % block_size]
            visible[index, key] = seen
    return visible
