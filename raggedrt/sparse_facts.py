"""What the masks of a report cost and save: tiles, FLOPs, and where sparsity does not pay."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggedrt.errors import InputError
from raggedrt.graph_passes.masks.algebra import BlockBand
from raggedrt.graph_passes.masks.bigbird import BigBird
from raggedrt.graph_passes.masks.block_list import BlockList
from raggedrt.graph_passes.masks.expressions import leaves
from raggedrt.graph_passes.masks.spec import MaskSpec

EMPTY, PARTIAL, FULL = 0, 1, 2
"""Classes of a tile."""
TILE = 64
"""Rows and columns of a tile where a mask has no blocks of its own."""
MOST_TILES = 1024
"""Tile rows that are classified; above, tiles are drawn together."""
PAYS_BELOW = 0.85
"""Share of visited pairs above which skipping tiles saves less than it costs to know them."""
LONGEST = 65536
"""Longest length that is classified pair by pair."""


def mask_facts(report: Mapping[str, Any], length: int | None = None) -> list[dict[str, Any]]:
    """One dictionary per distinct mask of a report, in order of first use.

    Args:
        report: `RewriteReport.to_json()`.
        length: tokens to look at; None: what each site's density is stated for.

    Returns:
        `mask` (words), `spec`, `imposed`, `sites` (their nodes), `length`, `density` (kept pairs), `tiles` (`size`,
        `empty`, `partial`, `full`, `visited`: share of pairs in tiles that are not empty), `flops` (`kept`, `dense`:
        of one layer and one sequence of that length), `advice` (why sparsity does not pay, None where it does).

    Raises:
        InputError: a length that is not positive, or too long to look at.
    """
    if length is not None and not 1 <= length <= LONGEST:
        raise InputError(f"--length {length}: expected 1 to {LONGEST} tokens")
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in report["attention"]:
        if entry.get("mask_spec") is not None:
            groups.setdefault(json.dumps(entry["mask_spec"], sort_keys=True), []).append(entry)
    return [_facts(entries, length) for entries in groups.values()]


def tile_classes(spec: MaskSpec, length: int, size: int) -> NDArray[np.int8]:
    """The class of every tile of `size` positions, int8 [R, R], without padding; evaluated a row of tiles at a time."""
    rows = -(-length // size)
    classes = np.zeros((rows, rows), dtype=np.int8)
    keys = np.arange(length)
    starts = np.arange(0, length, size)
    for row in range(rows):
        queries = keys[row * size : (row + 1) * size]
        visible = spec.visible_at(queries, keys, length)
        seen = np.add.reduceat(visible.sum(axis=0), starts)
        existing = len(queries) * np.diff(starts, append=length)
        classes[row] = np.where(seen == 0, EMPTY, np.where(seen == existing, FULL, PARTIAL))
    return classes


def _facts(entries: Sequence[Mapping[str, Any]], length: int | None) -> dict[str, Any]:
    first = entries[0]
    spec = MaskSpec.from_json(first["mask_spec"])
    length = length or first["density_at"]
    density = first["density"] if length == first["density_at"] else spec.density(length)
    size = block_of(spec)
    kept = {"kept": _flops(first, density * length**2), "dense": _flops(first, float(length**2))}
    tiles = None if length > LONGEST else _tiles(spec, length, size)
    return {
        "mask": first["mask"],
        "spec": first["mask_spec"],
        "imposed": first.get("sparsity"),
        "sites": [entry["node"] for entry in entries],
        "length": length,
        "density": density,
        "tiles": tiles,
        "flops": kept,
        "advice": _advice(length, size, density, tiles),
    }


def block_of(spec: MaskSpec) -> int:
    """Tile size of a mask: its own blocks where it has some."""
    kinds = (BlockList, BigBird, BlockBand)
    blocks = [term.block for term in leaves(spec.pattern) if isinstance(term, kinds) and term.block % 8 == 0]
    return max((block for block in blocks if block <= 2 * TILE), default=TILE)


def _tiles(spec: MaskSpec, length: int, size: int) -> dict[str, Any]:
    while -(-length // size) > MOST_TILES:
        size *= 2
    classes = tile_classes(spec, length, size)
    sizes = np.minimum(size, length - np.arange(0, length, size))
    visited = int(sizes @ (classes != EMPTY).astype(np.int64) @ sizes)
    counts = {name: int((classes == kind).sum()) for name, kind in (("empty", EMPTY), ("partial", PARTIAL))}
    return {"size": size, **counts, "full": int((classes == FULL).sum()), "visited": visited / length**2}


def _flops(entry: Mapping[str, Any], pairs: float) -> float | None:
    """Multiply-adds of both products count as two operations each."""
    heads, width = entry["heads"], entry["head_size"]
    if heads is None or width is None:
        return None
    return float(2.0 * pairs * heads * (width + (entry.get("value_head_size") or width)))


def _advice(length: int, size: int, density: float, tiles: Mapping[str, Any] | None) -> str | None:
    """Why sparsity does not pay at a length."""
    if density >= 1.0:
        return "the mask keeps every pair: nothing can be skipped but padding"
    if length <= size:
        return f"{length} tokens fit into one tile of {size}: there is no tile to skip"
    if tiles is None or tiles["visited"] <= PAYS_BELOW:
        return None
    return (
        f"the tiles it visits hold {tiles['visited']:.0%} of the pairs at {length} tokens, so hardly any work is "
        f"skipped; it pays where that is below {PAYS_BELOW:.0%}: at longer sequences, or with a narrower mask"
    )
