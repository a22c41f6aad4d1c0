"""Masks that need tiles: a `BlockMask` node for analytic patterns, constants for lists made for one length."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from raggedrt.graph_passes.axes.rule import PackingRefused
from raggedrt.graph_passes.masks.block_list import FULL, BlockList
from raggedrt.graph_passes.masks.rules import Clauses, clauses_of
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.packing.region import PackedRegion
from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.plugins.contract import mask_rules

DEFAULT_BLOCK = 64
"""Tile size of patterns that have no blocks of their own."""
TILE_MULTIPLE = 8
MAX_RULES = 256
"""Most rules of one clause; a longer list of global tokens is no analytic mask any more."""


@dataclasses.dataclass(frozen=True)
class TileForm:
    """How a pattern becomes tiles: rules evaluated at run time, or a list made for one length."""

    block_size: int
    clauses: Clauses = ()
    blocks: BlockList | None = None


def tile_form(spec: MaskSpec) -> TileForm | None:
    """The tiles of a spec's pattern (causality stays an attribute); None where it has none."""
    if isinstance(spec.pattern, BlockList):
        fits = spec.pattern.block % TILE_MULTIPLE == 0
        return TileForm(spec.pattern.block, blocks=spec.pattern) if fits else None
    clauses = clauses_of(spec.pattern)
    if clauses is None or any(not 0 < len(clause) <= MAX_RULES for clause in clauses):
        return None
    units = {rule.unit for clause in clauses for rule in clause if rule.unit > 1}
    tiles = [unit for unit in units if unit % TILE_MULTIPLE == 0 and unit <= 2 * DEFAULT_BLOCK]
    return TileForm(max(tiles, default=DEFAULT_BLOCK), clauses)


def tile_operands(site_name: str, form: TileForm, region: PackedRegion) -> dict[str, ir.Value | None]:
    """`tile_ptr`, `tile_col`, `tile_tag`, `tile_bits`; one node (or constant) for all sites with that form."""
    known = region.tiles.get(form)
    if known is None:
        known = _constants(form.blocks, region.tape) if form.blocks is not None else _node(form, region)
        if known is None:
            raise PackingRefused(site_name, "its tile list is empty")
        region.tiles[form] = known
    return dict(known)


def _node(form: TileForm, region: PackedRegion) -> dict[str, ir.Value]:
    rules = mask_rules.encode(form.clauses)
    attributes: dict[str, int | Sequence[int]] = {"block_size": form.block_size, "rules": rules}
    node = region.tape.custom("BlockMask", {"max_seqlen": region.plan.max_seqlen}, attributes, stem="mask")
    names = ("tile_ptr", "tile_col", "tile_tag", "tile_bits")
    return dict(zip(names, node.outputs, strict=True))


def _constants(blocks: BlockList, tape: Tape) -> dict[str, ir.Value] | None:
    """The list as tensors, in the op's bit order (bit k of word w is element 32 * w + k)."""
    if not blocks.columns:
        return None
    elements = blocks.block * blocks.block
    bits = np.array([np.unpackbits(np.frombuffer(b, np.uint8))[:elements] for b in blocks.bitmaps], np.uint8)
    words = np.packbits(bits.reshape(len(blocks.bitmaps), elements), axis=1, bitorder="little")
    tags = blocks.tags or (FULL,) * len(blocks.columns)
    return {
        "tile_ptr": tape.array(np.array(blocks.row_ptr, np.int32).reshape(1, 1, -1), "tile_ptr"),
        "tile_col": tape.array(np.array(blocks.columns, np.int32), "tile_col"),
        "tile_tag": tape.array(np.array(tags, np.int32), "tile_tag"),
        "tile_bits": tape.array(words.view(np.int32).reshape(len(blocks.bitmaps), elements // 32), "tile_bits"),
    }
