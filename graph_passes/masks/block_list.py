"""Static block masks: which tiles of a fixed length are visible, and the exact bits of partly visible ones."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import pathlib
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from raggedrt.errors import InputError
from raggedrt.graph_passes.masks.pairs import BoolArray, Pairs

FULL = -1
"""Tag of a tile that is visible as a whole; any other tag is the number of its bitmap."""

BLOCK_SIZES = (128, 64, 32, 16)
"""Tile sizes that a mask is frozen to, largest first."""

WASTE = 1.05
"""A larger tile is taken where its tiles cover at most this much more than the smallest ones."""


@dataclasses.dataclass(frozen=True, repr=False)
class BlockList:
    """A CSR of visible tiles; beyond `length` nothing is visible.

    Attributes:
        block: rows and columns of a tile, in tokens.
        length: tokens it is made for.
        row_ptr: start of each tile row in `columns`, one more than there are rows.
        columns: tile columns, ascending in each row.
        tags: `FULL` or a number of `bitmaps`, one per entry; () where all are full.
        bitmaps: bits of a partly visible tile, row-major, most significant bit first (numpy.packbits).
    """

    name: ClassVar[str] = "blocks"
    block: int
    length: int
    row_ptr: tuple[int, ...]
    columns: tuple[int, ...]
    tags: tuple[int, ...] = ()
    bitmaps: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        rows = self.rows if self.block > 0 and self.length > 0 else 0
        sizes = np.diff(self.row_ptr) if len(self.row_ptr) else np.array([-1])
        bitmap_bytes = (self.block * self.block + 7) // 8
        problems = (
            (rows == 0, "block and length are at least 1"),
            (len(self.row_ptr) != rows + 1, f"row_ptr has {rows + 1} entries at length {self.length}"),
            (bool((sizes < 0).any()) or self.row_ptr[:1] != (0,), "row_ptr starts at 0 and does not fall"),
            (self.row_ptr[-1:] != (len(self.columns),), f"row_ptr ends at the number of columns, {len(self.columns)}"),
            (any(not 0 <= column < rows for column in self.columns), f"columns are from 0 to {rows - 1}"),
            (not self._ascending(), "the columns of a row ascend, without duplicates"),
            (bool(self.tags) and len(self.tags) != len(self.columns), "there is one tag per column"),
            (any(not FULL <= tag < len(self.bitmaps) for tag in self.tags), "tags are -1 or the number of a bitmap"),
            (any(len(bits) != bitmap_bytes for bits in self.bitmaps), f"a bitmap has {bitmap_bytes} bytes"),
        )  # fmt: skip
        for wrong, expected in problems:
            if wrong:
                raise InputError(f"The block list is not usable: {expected}.")
        if all(tag == FULL for tag in self.tags):
            object.__setattr__(self, "tags", ())

    def _ascending(self) -> bool:
        if len(self.row_ptr) < 2 or self.row_ptr[-1] != len(self.columns):
            return True  # told elsewhere
        steps = np.diff(self.columns) > 0
        starts = [start - 1 for start in self.row_ptr[1:-1] if 0 < start < len(self.columns)]
        steps[starts] = True
        return bool(steps.all())

    @property
    def rows(self) -> int:
        """Tile rows (and columns)."""
        return -(-self.length // self.block)

    @classmethod
    def of_tiles(cls, tiles: BoolArray, block: int, length: int) -> BlockList:
        """From bool [R, R]: whole tiles."""
        rows, columns = np.nonzero(tiles)
        counts = np.bincount(rows, minlength=len(tiles))
        return cls(block, length, (0, *np.cumsum(counts).tolist()), tuple(columns.tolist()))

    @classmethod
    def of_matrix(cls, visible: BoolArray, block: int) -> BlockList:
        """From bool [S, S], exactly; tiles at the end may reach beyond S."""
        length = len(visible)
        rows = -(-length // block)
        whole = np.zeros((rows * block, rows * block), dtype=np.bool_)
        whole[:length, :length] = visible
        inside = np.zeros_like(whole)
        inside[:length, :length] = True
        tiles = whole.reshape(rows, block, rows, block).swapaxes(1, 2)
        partial = (tiles != inside.reshape(rows, block, rows, block).swapaxes(1, 2)).any(axis=(2, 3))
        kept = cls.of_tiles(np.asarray(tiles.any(axis=(2, 3))), block, length)
        bitmaps: dict[bytes, int] = {}
        tags = []
        for row in range(rows):
            for column in kept.columns[kept.row_ptr[row] : kept.row_ptr[row + 1]]:
                bits = np.packbits(tiles[row, column]).tobytes()
                tags.append(bitmaps.setdefault(bits, len(bitmaps)) if partial[row, column] else FULL)
        return dataclasses.replace(kept, tags=tuple(tags), bitmaps=tuple(bitmaps))

    @classmethod
    def frozen(cls, visible: BoolArray) -> BlockList | None:
        """From bool [S, S] with tiles that divide S: the largest ones that waste little; None where none divides."""
        fitting = [block for block in BLOCK_SIZES if len(visible) % block == 0]
        if not fitting:
            return None
        lists = [cls.of_matrix(visible, block) for block in fitting]
        least = min(found.covered for found in lists)
        return next(found for found in lists if found.covered <= WASTE * least)

    @property
    def covered(self) -> int:
        """Query-key pairs in visible tiles."""
        return len(self.columns) * self.block * self.block

    def tiles(self) -> tuple[BoolArray, npt.NDArray[np.int64]]:
        """Visible tiles bool [R, R], and their tags int64 [R, R]."""
        visible = np.zeros((self.rows, self.rows), dtype=np.bool_)
        tags = np.full((self.rows, self.rows), FULL, dtype=np.int64)
        at = np.repeat(np.arange(self.rows), np.diff(self.row_ptr)), np.asarray(self.columns, dtype=np.int64)
        visible[at] = True
        if self.tags:
            tags[at] = self.tags
        return visible, tags

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        query, key = np.broadcast_arrays(pairs.query, pairs.key)
        inside = (query >= 0) & (query < self.length) & (key >= 0) & (key < self.length)
        query, key = np.where(inside, query, 0), np.where(inside, key, 0)
        visible, tags = self.tiles()
        at = query // self.block, key // self.block
        result: BoolArray = inside & visible[at]
        if self.bitmaps:
            side = self.block
            bits = np.stack([np.unpackbits(np.frombuffer(raw, np.uint8))[: side * side] for raw in self.bitmaps])
            tag = tags[at]
            found = bits[np.maximum(tag, 0), query % side * side + key % side] != 0
            result &= (tag == FULL) | found
        return result

    @property
    def digest(self) -> str:
        """A short name of the content."""
        raw = repr((self.block, self.length, self.row_ptr, self.columns, self.tags)).encode() + b"".join(self.bitmaps)
        return hashlib.sha256(raw).hexdigest()[:12]

    @property
    def words(self) -> str:
        """In prose."""
        partial = sum(tag != FULL for tag in self.tags)
        return (
            f"one of {len(self.columns)} of {self.rows**2} tiles of {self.block} x {self.block} at {self.length} tokens"
            f"{f', {partial} of them in part' if partial else ''}"
        )

    def __str__(self) -> str:
        return f"blocks({self.block} x {self.block} at {self.length}: {self.digest})"

    __repr__ = __str__

    def to_fields(self) -> dict[str, Any]:
        """The fields for JSON; bitmaps in base64."""
        return {
            "block": self.block,
            "length": self.length,
            "row_ptr": list(self.row_ptr),
            "columns": list(self.columns),
            "tags": list(self.tags),
            "bitmaps": [base64.b64encode(bits).decode() for bits in self.bitmaps],
        }

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> BlockList:
        """The inverse of `to_fields`."""
        lists = {name: tuple(int(item) for item in fields[name]) for name in ("row_ptr", "columns", "tags")}
        bitmaps = tuple(base64.b64decode(text, validate=True) for text in fields["bitmaps"])
        return cls(int(fields["block"]), int(fields["length"]), **lists, bitmaps=bitmaps)


def load_block_list(path: pathlib.Path) -> BlockList:
    """Read a layout file: .npz with `block`, and `mask` bool [S, S], `tiles` bool [R, R] or `row_ptr` and `columns`.

    `length` is optional for tiles and CSR: rows x block where it is absent.

    Raises:
        InputError: it is missing, is no such file, or its arrays do not fit together.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError, EOFError) as error:
        raise InputError(f"The layout file {path} cannot be read: {error}. Write it with numpy.savez.") from error
    expected = "expected 'block' (one integer) and 'mask' [S, S], 'tiles' [R, R] or 'row_ptr' [R+1] with 'columns' [E]"
    if "block" not in arrays or arrays["block"].size != 1 or arrays["block"].dtype.kind not in "iu":
        raise InputError(f"The layout file {path} holds {', '.join(arrays) or 'nothing'}; {expected}.")
    block = int(arrays["block"].item())
    square = arrays.get("mask", arrays.get("tiles"))
    if block < 1 or (square is not None and (square.ndim != 2 or square.shape[0] != square.shape[1])):
        shape = [] if square is None else list(square.shape)
        raise InputError(f"The layout file {path} has block {block} and an array of shape {shape}; {expected}.")
    try:
        if "mask" in arrays:
            return BlockList.of_matrix(arrays["mask"] != 0, block)
        if "tiles" in arrays:
            return BlockList.of_tiles(arrays["tiles"] != 0, block, _length(arrays, len(arrays["tiles"]) * block))
        if "row_ptr" in arrays and "columns" in arrays:
            return _from_csr(arrays, block)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    raise InputError(f"The layout file {path} holds {', '.join(arrays)}; {expected}.")


def _from_csr(arrays: dict[str, npt.NDArray[Any]], block: int) -> BlockList:
    row_ptr, columns = arrays["row_ptr"], arrays["columns"]
    if any(array.ndim != 1 or array.dtype.kind not in "iu" for array in (row_ptr, columns)):
        raise InputError("row_ptr and columns are integer vectors.")
    length = _length(arrays, (len(row_ptr) - 1) * block)
    return BlockList(block, length, tuple(row_ptr.tolist()), tuple(columns.tolist()))


def _length(arrays: dict[str, npt.NDArray[Any]], default: int) -> int:
    found = arrays.get("length")
    return default if found is None or found.size != 1 else int(found.item())
