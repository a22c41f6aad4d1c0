"""A mask as tiles: a CSR list of the tiles that are not empty, with bitmaps for those kept in part."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from raggedrt.errors import InputError
from raggedrt.plugins.layout.bitmaps import FULL, Array, BoolArray, unpack_bits
from raggedrt.plugins.layout.checks import checked_arrays

TENSORS = ("tile_ptr", "tile_col", "tile_tag", "tile_bits")
"""Names of the tensors, as inputs of RaggedAttention and outputs of BlockMask."""


@dataclasses.dataclass(frozen=True, eq=False)
class TileLayout:
    """Which keys each query sees, by original positions.

    Position p lies in tile row (or column) p // block_size. Only positions below the lengths exist: they alone make a
    tile full, and bits of others are 0.

    Attributes:
        block_size: rows and columns of a tile, in positions.
        query_length: positions covered by the R tile rows.
        key_length: positions covered by the tile columns.
        tile_ptr: int32 [B|1, G, R+1], first entry of each tile row, then its end; rows follow one another without gap.
            B|1: 1 is shared by all sequences. G: groups of heads.
        tile_col: int32 [E], tile column of each entry, ascending within a row.
        tile_tag: int32 [E], -1 for a full tile, else the index of its bitmap.
        tile_bits: int32 [P, W], bitmaps (see `bitmaps`); builders store none twice, in the order of first use.
        head_group: int32 [N], group of each head; None: one group for all heads, or one per head.
    """

    block_size: int
    query_length: int
    key_length: int
    tile_ptr: Array
    tile_col: Array
    tile_tag: Array
    tile_bits: Array
    head_group: Array | None = None

    def __post_init__(self) -> None:
        for name, array in checked_arrays(self).items():
            object.__setattr__(self, name, array)

    @property
    def batch(self) -> int:
        """Sequences with a mask of their own; 1: shared."""
        return int(self.tile_ptr.shape[0])

    @property
    def groups(self) -> int:
        """Groups of heads with a mask of their own."""
        return int(self.tile_ptr.shape[1])

    @property
    def tile_rows(self) -> int:
        """Tile rows R."""
        return int(self.tile_ptr.shape[2]) - 1

    @property
    def tile_columns(self) -> int:
        """Tile columns."""
        return -(-self.key_length // self.block_size)

    @property
    def kept_tiles(self) -> int:
        """Tiles that are not empty, over all sequences and groups."""
        return len(self.tile_col)

    @property
    def kept_pairs(self) -> int:
        """Query-key pairs that see each other, over all sequences and groups."""
        row = self.entry_rows() % max(1, self.tile_rows)
        full = self.tile_tag == FULL
        area = self._edge(row, self.query_length) * self._edge(self.tile_col, self.key_length)
        ones = unpack_bits(self.tile_bits, self.block_size).sum(axis=(1, 2), dtype=np.int64)
        return int(area[full].sum() + ones[self.tile_tag[~full]].sum())

    @property
    def density(self) -> float:
        """Kept share of the query-key pairs; 1.0 where there are none."""
        pairs = self.batch * self.groups * self.query_length * self.key_length
        return self.kept_pairs / pairs if pairs else 1.0

    @property
    def tile_density(self) -> float:
        """Kept share of the tiles: what a kernel visits. 1.0 where there are none."""
        tiles = self.batch * self.groups * self.tile_rows * self.tile_columns
        return self.kept_tiles / tiles if tiles else 1.0

    def kept_flops(self, head_size: int, value_head_size: int | None = None) -> int:
        """Floating-point operations of both products over the kept tiles, whole, with one head per group."""
        pairs = self.kept_tiles * self.block_size**2
        return 2 * pairs * (head_size + (value_head_size or head_size))

    def entry_rows(self) -> Array:
        """Tile row of each entry, counted through sequences and groups: int64 [E]."""
        counts = np.diff(self.tile_ptr, axis=2).reshape(-1)
        return np.repeat(np.arange(len(counts)), counts)

    def tensors(self) -> dict[str, Array]:
        """Inputs of a RaggedAttention node by name."""
        arrays = {name: getattr(self, name) for name in TENSORS}
        return arrays if self.head_group is None else {**arrays, "head_group": self.head_group}

    def group_of_head(self, heads: int) -> Array:
        """Group of each of `heads` heads: int64 [heads].

        Raises:
            InputError: The groups do not fit that many heads.
        """
        if self.head_group is not None and len(self.head_group) == heads:
            return self.head_group.astype(np.int64)
        if self.head_group is None and self.groups in (1, heads):
            return np.arange(heads) % self.groups
        given = "no head_group" if self.head_group is None else f"head_group of {len(self.head_group)} heads"
        raise InputError(f"A tile layout has {self.groups} groups and {given}, and attention has {heads} heads.")

    def to_dense(self) -> BoolArray:
        """The mask, bool [batch, groups, query_length, key_length]."""
        shape = (self.batch, self.groups, self.query_length, self.key_length)
        dense = np.zeros(shape, np.bool_)
        planes = dense.reshape(self.batch * self.groups, self.query_length, self.key_length)
        for plane, start, band in self.row_bands():
            planes[plane, start : start + len(band)] = band
        return dense

    def row_bands(self) -> Iterator[tuple[int, int, BoolArray]]:
        """The dense mask, one tile row at a time.

        Yields:
            Plane (sequence * groups + group), first query position, and mask bool [<= block_size, key_length].
        """
        size, ends = self.block_size, self.tile_ptr.reshape(self.batch * self.groups, self.tile_rows + 1)
        for plane, row in np.ndindex(len(ends), self.tile_rows):
            band = np.zeros((size, self.tile_columns, size), np.bool_)
            entries = slice(ends[plane, row], ends[plane, row + 1])
            columns, tags = self.tile_col[entries], self.tile_tag[entries]
            band[:, columns[tags == FULL]] = True
            partial = tags != FULL
            band[:, columns[partial]] = unpack_bits(self.tile_bits[tags[partial]], size).transpose(1, 0, 2)
            rows = min(size, self.query_length - row * size)
            yield plane, row * size, band.reshape(size, -1)[:rows, : self.key_length]

    def _edge(self, tile: Array, length: int) -> Array:
        """Positions of each tile row or column that exist."""
        return np.minimum(self.block_size, length - tile.astype(np.int64) * self.block_size)


def same_layout(first: TileLayout, second: TileLayout) -> bool:
    """Whether two layouts are equal in every field."""
    fields = [field.name for field in dataclasses.fields(TileLayout)]
    pairs = [(getattr(first, name), getattr(second, name)) for name in fields]
    return all((a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in pairs)
