"""Tile layouts as `.npz` files, as `--sparsity "blocks(layout.npz)"` reads them."""

from __future__ import annotations

import os
import zipfile

import numpy as np

from raggedrt.errors import InputError
from raggedrt.plugins.layout.bitmaps import Array
from raggedrt.plugins.layout.tile_layout import TENSORS, TileLayout

_SIZES = ("block_size", "query_length", "key_length")


def save_layout(layout: TileLayout, path: str | os.PathLike[str]) -> None:
    """Write the layout: its tensors under their names, and `block_size`, `query_length`, `key_length`."""
    sizes = {name: np.array(getattr(layout, name), np.int64) for name in _SIZES}
    with open(path, "wb") as file:  # an open file keeps its name, whatever it ends in
        np.savez_compressed(file, allow_pickle=False, **sizes, **layout.tensors())


def load_layout(path: str | os.PathLike[str]) -> TileLayout:
    """Read what `save_layout` wrote.

    Raises:
        InputError: The file is unreadable, lacks an array, or its arrays are no layout.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise InputError(f"{os.fspath(path)}: not a readable .npz file of a tile layout ({error}).") from error
    missing = [name for name in (*_SIZES, *TENSORS) if name not in arrays]
    if missing:
        expected = ", ".join((*_SIZES, *TENSORS))
        raise InputError(f"{os.fspath(path)}: lacks the array {missing[0]!r}; a tile layout has {expected}.")
    try:
        size, queries, keys = (_size(name, arrays[name]) for name in _SIZES)
        ptr, column, tag, bits = (arrays[name] for name in TENSORS)
        return TileLayout(size, queries, keys, ptr, column, tag, bits, arrays.get("head_group"))
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from error


def _size(name: str, array: Array) -> int:
    if array.size != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{name} is {array.dtype} of shape {array.shape}, expected one integer.")
    return int(array.reshape(-1)[0])
