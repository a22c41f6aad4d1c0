"""FlexAttention masks to tile layouts and back."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from helpers.mask_strategies import block_masks
from raggedrt.errors import InputError
from raggedrt.plugins.layout.build import from_mask
from raggedrt.plugins.layout.flex_attention import from_block_mask, from_mask_mod, to_block_mask
from raggedrt.plugins.layout.tile_layout import same_layout

torch = pytest.importorskip("torch")
flex = pytest.importorskip("torch.nn.attention.flex_attention")
pytestmark = pytest.mark.ort_cpu

LENGTHS = [96, 100, 17]
DOCUMENT = torch.tensor([0] * 30 + [1] * 50 + [2] * 20)
MASK_MODS: dict[str, Any] = {
    "causal": lambda b, h, q, k: q >= k,
    "window": lambda b, h, q, k: (q - k).abs() <= 9,
    "per_head": lambda b, h, q, k: (q - k).abs() <= 5 * (h + 1),
    "per_sequence": lambda b, h, q, k: (k < 40 * (b + 1)) & (q >= k),
    "document": lambda b, h, q, k: DOCUMENT[q] == DOCUMENT[k],
}


def visible(mask_mod: Any, queries: int, keys: int) -> Any:
    return flex.create_mask(mask_mod, 2, 3, queries, keys, device="cpu").numpy()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", MASK_MODS)
def test_block_masks_go_there_and_back(name: str, length: int) -> None:
    mask_mod = MASK_MODS[name]
    original = flex.create_block_mask(mask_mod, 2, 3, length, length, device="cpu", BLOCK_SIZE=16)
    layout = from_block_mask(original)
    assert same_layout(layout, from_mask(visible(mask_mod, length, length), 16))
    assert same_layout(layout, from_mask_mod(mask_mod, (length, length), 16, batch=2, heads=3))
    back = to_block_mask(layout, heads=3)
    np.testing.assert_array_equal(visible(back.mask_mod, length, length), layout.to_dense())
    assert back.seq_lengths == original.seq_lengths
    for field in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(back, field), getattr(original, field)), field
    assert torch.equal(back.to_dense(), original.to_dense())


def test_different_block_sizes_and_lengths() -> None:
    original = flex.create_block_mask(MASK_MODS["causal"], None, None, 90, 200, device="cpu", BLOCK_SIZE=(16, 40))
    layout = from_block_mask(original)
    assert (layout.block_size, layout.query_length, layout.key_length) == (8, 90, 200)
    np.testing.assert_array_equal(layout.to_dense()[0, 0], np.tri(90, 200, dtype=bool))
    assert same_layout(from_block_mask(original, 64), from_mask(np.tri(90, 200, dtype=bool), 64))


def test_block_sizes_without_a_tile_are_refused() -> None:
    mask = flex.create_block_mask(MASK_MODS["causal"], None, None, 60, 60, device="cpu", BLOCK_SIZE=20)
    with pytest.raises(InputError, match="block size 20; expected a multiple of 8"):
        from_block_mask(mask)


def test_full_blocks_do_not_ask_the_mask_mod() -> None:
    one, zero = torch.ones(1, 1, 2, dtype=torch.int32), torch.zeros(1, 1, 2, dtype=torch.int32)
    columns = torch.tensor([[[[0, 1], [1, 0]]]], dtype=torch.int32)
    mask = flex.BlockMask.from_kv_blocks(
        zero, columns, one, columns, BLOCK_SIZE=8, mask_mod=lambda b, h, q, k: q < 0, seq_lengths=(16, 16)
    )
    expected = np.kron(np.eye(2), np.ones((8, 8))).astype(bool)
    np.testing.assert_array_equal(from_block_mask(mask).to_dense()[0, 0], expected)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(block_masks(8))
def test_any_layout_goes_there_and_back(mask: Any) -> None:
    layout = from_mask(mask, 8)
    if not layout.query_length or not layout.key_length:
        return  # FlexAttention has no empty masks
    assert same_layout(from_block_mask(to_block_mask(layout, heads=layout.groups)), layout)


def test_head_groups_become_heads() -> None:
    masks = np.stack([np.tri(20, dtype=bool), np.ones((20, 20), bool)])
    layout = dataclasses.replace(from_mask(masks, 8), head_group=np.array([1, 0, 0]))
    block_mask = to_block_mask(layout, heads=3)
    found = flex.create_mask(block_mask.mask_mod, 1, 3, 20, 20, device="cpu").numpy()[0]
    np.testing.assert_array_equal(found, masks[[1, 0, 0]])
    with pytest.raises(InputError, match="attention has 2 heads"):
        to_block_mask(layout, heads=2)
