"""Tile layouts as `.npz` files, as `--sparsity "blocks(layout.npz)"` reads them.

A file has `block_size` and one of: the tensors of a layout with `query_length` and `key_length` (what `save_layout`
writes); `mask`, bool [.., S, S]; `tiles`, bool [.., R, R], whole blocks; `row_ptr` and `columns`, the same as CSR.
`length` says how many positions whole blocks cover, all of the last block unless given; `head_group` is optional.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from raggedrt.errors import InputError
from raggedrt.plugins.layout.bitmaps import Array
from raggedrt.plugins.layout.build import from_block_list, from_mask
from raggedrt.plugins.layout.tile_layout import TENSORS, TileLayout

_LENGTHS = ("query_length", "key_length")


def save_layout(layout: TileLayout, path: str | os.PathLike[str]) -> None:
    """Write the layout: its tensors under their names, and `block_size`, `query_length`, `key_length`."""
    sizes = {name: np.array(getattr(layout, name), np.int64) for name in ("block_size", *_LENGTHS)}
    with open(path, "wb") as file:  # an open file keeps its name, whatever it ends in
        np.savez_compressed(file, allow_pickle=False, **sizes, **layout.tensors())


def load_layout(path: str | os.PathLike[str]) -> TileLayout:
    """Read a layout file.

    Raises:
        InputError: The file is unreadable, lacks an array, or its arrays are no layout.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise InputError(f"{os.fspath(path)}: not a readable .npz file of a tile layout ({error}).") from error
    try:
        return layout_of_arrays(arrays)
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from error


def layout_of_arrays(arrays: Mapping[str, Array]) -> TileLayout:
    """The layout that the arrays of a file describe.

    Raises:
        InputError: An array is missing, or they are no layout.
    """
    for form, (needed, make) in _FORMS.items():
        if form in arrays:
            if missing := [name for name in ("block_size", *needed) if name not in arrays]:
                raise InputError(f"{form} is there without {missing[0]!r}; expected block_size, {', '.join(needed)}.")
            return make(arrays)
    found = ", ".join(arrays) or "nothing"
    raise InputError(f"holds {found}; a layout file has block_size and one of {', '.join(_FORMS)}.")


def _of_tensors(arrays: Mapping[str, Array]) -> TileLayout:
    size, queries, keys = (_integer(name, arrays[name]) for name in ("block_size", *_LENGTHS))
    ptr, column, tag, bits = (arrays[name] for name in TENSORS)
    return TileLayout(size, queries, keys, ptr, column, tag, bits, arrays.get("head_group"))


def _of_mask(arrays: Mapping[str, Array]) -> TileLayout:
    mask = _switches("mask", arrays["mask"])
    return from_mask(mask, _integer("block_size", arrays["block_size"]), head_group=arrays.get("head_group"))


def _of_tiles(arrays: Mapping[str, Array]) -> TileLayout:
    tiles = _switches("tiles", arrays["tiles"])
    ends = np.concatenate([[0], tiles.sum(axis=-1).reshape(-1).cumsum()])
    rows = tiles.shape[-2]
    starts = np.arange(tiles.size // max(1, rows**2)).reshape(tiles.shape[:-2])
    ptr = ends[starts[..., None] * rows + np.arange(rows + 1)]
    return _of_blocks({**arrays, "row_ptr": ptr, "columns": np.nonzero(tiles)[-1]})


def _of_blocks(arrays: Mapping[str, Array]) -> TileLayout:
    size, ptr = _integer("block_size", arrays["block_size"]), arrays["row_ptr"]
    rows = ptr.shape[-1] - 1 if ptr.ndim else 0
    length = _integer("length", arrays["length"]) if "length" in arrays else rows * size
    return from_block_list(ptr, arrays["columns"], length, size, head_group=arrays.get("head_group"))


_FORMS: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Array]], TileLayout]]] = {
    "tile_ptr": ((*_LENGTHS, *TENSORS), _of_tensors),
    "mask": (("mask",), _of_mask),
    "tiles": (("tiles",), _of_tiles),
    "row_ptr": (("row_ptr", "columns"), _of_blocks),
}


def _integer(name: str, array: Array) -> int:
    if array.size != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{name} is {array.dtype} of shape {array.shape}, expected one integer.")
    return int(array.reshape(-1)[0])


def _switches(name: str, array: Array) -> Array:
    """A square array of booleans, or of numbers that are 0 or not."""
    if array.dtype.kind not in "biuf" or not 2 <= array.ndim <= 4 or array.shape[-1] != array.shape[-2]:
        raise InputError(f"{name} is {array.dtype} of shape {array.shape}, expected bool [.., n, n], 2 to 4 axes.")
    return np.asarray(array != 0, np.bool_)
