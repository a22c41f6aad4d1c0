"""Tile layouts from and to PyTorch FlexAttention: `BlockMask` and `mask_mod`. PyTorch is imported where it is used."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.layout.bitmaps import FULL, Array, BoolArray, check_block_size, unpack_bits
from raggedrt.plugins.layout.build import from_rows
from raggedrt.plugins.layout.tile_layout import TileLayout

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

MaskMod = Callable[[Any, Any, Any, Any], Any]
"""mask_mod(sequence, head, query position, key position) is a boolean tensor: True where the query sees the key."""
_EMPTY = -2


def from_mask_mod(
    mask_mod: MaskMod,
    lengths: tuple[int, int],
    block_size: int,
    *,
    batch: int = 1,
    heads: int = 1,
    device: str = "cpu",
) -> TileLayout:
    """The layout of a `mask_mod`, evaluated one tile row at a time.

    Args:
        mask_mod: As FlexAttention takes it.
        lengths: Query and key positions.
        block_size: Rows and columns of a tile.
        batch: Sequences with a mask of their own; 1 where `mask_mod` reads no sequence.
        heads: Heads with a mask of their own, each a group; 1 where `mask_mod` reads no head.
        device: Where the tensors lie that `mask_mod` reads.
    """
    columns = np.arange(lengths[1])

    def mask_rows(sequence: int, head: int, first: int, end: int) -> BoolArray:
        return _evaluated(mask_mod, sequence, head, (first, end), columns, device)

    return from_rows(mask_rows, lengths, block_size, batch=batch, groups=heads)


def from_block_mask(block_mask: BlockMask, block_size: int | None = None) -> TileLayout:
    """The layout of a FlexAttention `BlockMask`: listed blocks, `mask_mod` within those not listed as full.

    Args:
        block_mask: What `create_block_mask` makes, on any device.
        block_size: Rows and columns of a tile; the largest that fits the mask's own blocks unless given.

    Raises:
        InputError: No such block size exists, or a listed block lies outside.
    """
    flex_q, flex_k = (int(size) for size in block_mask.BLOCK_SIZE)
    lengths = (int(block_mask.seq_lengths[0]), int(block_mask.seq_lengths[1]))
    device = str(block_mask.kv_num_blocks.device)
    size = check_block_size(math.gcd(flex_q, flex_k) if block_size is None else block_size)
    partial = _listed(block_mask.kv_num_blocks, block_mask.kv_indices)  # [B, H, rows, columns]
    full = np.zeros_like(partial)
    if block_mask.full_kv_num_blocks is not None:
        full = _listed(block_mask.full_kv_num_blocks, block_mask.full_kv_indices)
    if partial.shape[2] * flex_q < lengths[0] or partial.shape[3] * flex_k < lengths[1]:
        raise InputError(
            f"A BlockMask lists blocks of {flex_q} x {flex_k} for {partial.shape[2]} rows and {partial.shape[3]} "
            f"columns, which do not cover its {lengths[0]} x {lengths[1]} positions."
        )

    def mask_rows(sequence: int, head: int, first: int, end: int) -> BoolArray:
        row, column = np.arange(first, end) // flex_q, np.arange(lengths[1]) // flex_k
        visible: BoolArray = full[sequence, head][row][:, column]
        evaluated = partial[sequence, head][row][:, column]
        columns = np.flatnonzero(evaluated.any(axis=0))
        if len(columns):
            found = _evaluated(block_mask.mask_mod, sequence, head, (first, end), columns, device)
            visible[:, columns] |= evaluated[:, columns] & found
        return visible

    return from_rows(mask_rows, lengths, size, batch=partial.shape[0], groups=partial.shape[1])


def to_block_mask(layout: TileLayout, *, heads: int = 1, device: str = "cpu") -> BlockMask:
    """A FlexAttention `BlockMask` of a layout; its `mask_mod` looks pairs up by position.

    Args:
        layout: The layout.
        heads: Heads of the attention; read where the layout has several groups.
        device: Where its tensors lie.

    Raises:
        InputError: The groups do not fit that many heads.
    """
    torch = _torch()
    from torch.nn.attention.flex_attention import BlockMask

    tags = _tags_by_tile(layout)  # [B, G, rows, columns]
    if layout.groups > 1 or layout.head_group is not None:
        tags = tags[:, layout.group_of_head(heads)]
    full = (tags == FULL) & ~_cut(layout)  # FlexAttention takes a block that the end cuts for partial
    (counts, indices), (full_counts, full_indices) = (
        [torch.tensor(array, device=device, dtype=torch.int32) for array in _lists(listed)]
        for listed in ((tags != _EMPTY) & ~full, full)
    )
    return BlockMask.from_kv_blocks(
        counts,
        indices,
        full_counts,
        full_indices,
        BLOCK_SIZE=layout.block_size,
        mask_mod=_mask_mod(layout, tags, device),
        seq_lengths=(layout.query_length, layout.key_length),
    )


def _torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise TargetError("FlexAttention masks need PyTorch: pip install 'raggedrt[hf]'.") from error
    return torch


def _evaluated(
    mask_mod: MaskMod, sequence: int, head: int, rows: tuple[int, int], columns: Array, device: str
) -> BoolArray:
    """The mask of some rows and columns: bool [end - first, columns]."""
    torch = _torch()
    from torch.nn.attention.flex_attention import create_mask

    keys = torch.as_tensor(columns, device=device)

    def shifted(b: Any, h: Any, q: Any, k: Any) -> Any:
        return mask_mod(b + sequence, h + head, q + rows[0], keys[k])

    mask = create_mask(shifted, 1, 1, rows[1] - rows[0], len(columns), device=device)
    return np.asarray(mask[0, 0].cpu().numpy(), np.bool_)


def _listed(counts: Any, indices: Any) -> BoolArray:
    """Which blocks are listed: bool [B, H, rows, columns]."""
    count, index = (tensor.detach().cpu().numpy() for tensor in (counts, indices))
    count, index = (array.reshape((1,) * (axes - array.ndim) + array.shape) for array, axes in ((count, 3), (index, 4)))
    listed = np.zeros(index.shape, np.bool_)
    used = np.arange(index.shape[-1]) < count[..., None]
    columns = index[used]
    if ((columns < 0) | (columns >= index.shape[-1])).any():
        raise InputError(f"A BlockMask lists a block column outside 0 to {index.shape[-1] - 1}.")
    listed[(*np.nonzero(used)[:-1], columns)] = True
    return listed


def _tags_by_tile(layout: TileLayout) -> Array:
    """Tag of every tile, -2 where it is empty: int32 [B, G, rows, columns]."""
    tags = np.full((layout.batch * layout.groups * layout.tile_rows, layout.tile_columns), _EMPTY, np.int32)
    tags[layout.entry_rows(), layout.tile_col] = layout.tile_tag
    return tags.reshape(layout.batch, layout.groups, layout.tile_rows, layout.tile_columns)


def _cut(layout: TileLayout) -> BoolArray:
    """Tiles that the last position cuts: bool [rows, columns]."""
    rows, columns = layout.query_length // layout.block_size, layout.key_length // layout.block_size
    return (np.arange(layout.tile_rows)[:, None] >= rows) | (np.arange(layout.tile_columns) >= columns)


def _lists(listed: BoolArray) -> tuple[Array, Array]:
    """Number of listed blocks in each row, and their columns before all others."""
    return listed.sum(axis=-1), np.argsort(~listed, axis=-1, kind="stable")


def _mask_mod(layout: TileLayout, tags: Array, device: str) -> MaskMod:
    """Looks a pair up in the tags, then in the bitmaps."""
    torch, size = _torch(), layout.block_size
    table = torch.tensor(tags, device=device, dtype=torch.long)
    # a bitmap of zeros first, so that there is one to read and tags of tiles kept whole or not at all read it
    bitmaps = np.concatenate([np.zeros((1, size, size), np.bool_), unpack_bits(layout.tile_bits, size)])
    bits = torch.tensor(bitmaps, device=device)
    shared_sequence, shared_head = len(tags) == 1, tags.shape[1] == 1

    def mask_mod(b: Any, h: Any, q: Any, k: Any) -> Any:
        sequence, head = (b * 0 if shared_sequence else b), (h * 0 if shared_head else h)
        tag = table[sequence, head, q // size, k // size]
        return (tag == FULL) | bits[torch.clamp(tag + 1, min=0), q % size, k % size]

    return mask_mod
