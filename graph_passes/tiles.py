"""Masks that need tiles: a `BlockMask` node for analytic patterns, constants for lists made for one length."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from raggedrt.graph_passes.attention_host import AttentionHost
from raggedrt.graph_passes.axes.rule import PackingRefused
from raggedrt.graph_passes.masks.algebra import And, Or, Term
from raggedrt.graph_passes.masks.bigbird import BigBird
from raggedrt.graph_passes.masks.block_list import FULL, BlockList
from raggedrt.graph_passes.masks.expressions import all_terms, any_term
from raggedrt.graph_passes.masks.pairs import OWN
from raggedrt.graph_passes.masks.rules import Clauses, clauses_of
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.plugins.contract import mask_rules

DEFAULT_BLOCK = 64
"""Tile size of patterns that have no blocks of their own."""
TILE_MULTIPLE = 8
MAX_RULES = 256
"""Most rules of one clause; a longer list of global tokens is no analytic mask any more."""


@dataclasses.dataclass(frozen=True)
class TileForm:
    """How a pattern becomes tiles: rules evaluated at run time, or a list made for one length.

    Attributes:
        block_size: rows and columns of a tile.
        clauses: rules.
        listed: tile columns of each tile row (-1: none) that clause 0 shows as well.
        blocks: the list made for one length, in place of rules.
        own_ends: rules count from the end of each sequence, and sequences have ends of their own.
    """

    block_size: int
    clauses: Clauses = ()
    listed: tuple[tuple[int, ...], ...] = ()
    blocks: BlockList | None = None
    own_ends: bool = False


def tile_form(spec: MaskSpec) -> TileForm | None:
    """The tiles of a spec's pattern (causality stays an attribute); None where it has none."""
    if isinstance(spec.pattern, BlockList):
        fits = spec.pattern.block % TILE_MULTIPLE == 0
        return TileForm(spec.pattern.block, blocks=spec.pattern) if fits else None
    first, rest = _drawing_first(spec.pattern)
    drawing = _drawing(first)
    parts = [clauses_of(part) for part in (_without_draws(first), rest)]
    clauses = tuple(clause for part in parts if part is not None for clause in part)
    if None in parts or any(not 0 < len(clause) <= MAX_RULES for clause in clauses):
        return None
    own_ends = spec.of == OWN and any(_counts_from_end(rule) for clause in clauses for rule in clause)
    if drawing is not None:
        if not drawing.length or drawing.block % TILE_MULTIPLE or len(parts[0] or ()) != 1:
            return None  # listed blocks are of one clause
        listed = tuple(tuple(row) for row in drawing.drawn().tolist())
        return TileForm(drawing.block, clauses, listed, own_ends=own_ends)
    units = {rule.unit for clause in clauses for rule in clause if rule.unit > 1}
    tiles = [unit for unit in units if unit % TILE_MULTIPLE == 0 and unit <= 2 * DEFAULT_BLOCK]
    return TileForm(max(tiles, default=DEFAULT_BLOCK), clauses, own_ends=own_ends)


def _drawing_first(pattern: Term) -> tuple[Term, Term]:
    """A pattern as two terms that both hold: one with blocks drawn at random (if there is one), and the others."""
    parts = list(pattern.operands) if isinstance(pattern, And) else [pattern]
    first = next((part for part in parts if _drawing(part) is not None), parts[0])
    return first, all_terms(*(part for part in parts if part is not first))


def _drawing(term: Term) -> BigBird | None:
    """The term that draws blocks at random, on its own or within or."""
    operands = term.operands if isinstance(term, Or) else (term,)
    found = [operand for operand in operands if isinstance(operand, BigBird) and operand.random]
    return found[0] if len(found) == 1 else None


def _without_draws(term: Term) -> Term:
    drawing = _drawing(term)
    if drawing is None:
        return term
    operands = term.operands if isinstance(term, Or) else (term,)
    return any_term(*(dataclasses.replace(o, random=0) if o is drawing else o for o in operands))


def _counts_from_end(rule: mask_rules.Rule) -> bool:
    return any(bound < 0 for bounds in (rule.query, rule.key) for bound in bounds[:2])


def tile_operands(site_name: str, form: TileForm, region: AttentionHost) -> dict[str, ir.Value | None]:
    """`tile_ptr`, `tile_col`, `tile_tag`, `tile_bits`; one node (or constant) for all sites with that form."""
    known = region.tiles.get(form)
    if known is None:
        known = _constants(form.blocks, region.tape) if form.blocks is not None else _node(form, region)
        if known is None:
            raise PackingRefused(site_name, "its tile list is empty")
        region.tiles[form] = known
    return dict(known)


def _node(form: TileForm, region: AttentionHost) -> dict[str, ir.Value]:
    rules = mask_rules.encode(form.clauses)
    attributes: dict[str, int | Sequence[int]] = {"block_size": form.block_size, "rules": rules}
    inputs: dict[str, ir.Value | None] = {"max_seqlen": region.plan.max_seqlen}
    if form.listed:
        inputs["blocks"] = region.tape.array(np.array([form.listed], np.int32), "drawn_blocks")
    if form.own_ends:
        inputs["cu_seqlens"] = region.plan.own_cu_seqlens
    node = region.tape.custom("BlockMask", inputs, attributes, stem="mask")
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
