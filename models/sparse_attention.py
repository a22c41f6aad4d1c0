"""Sparse attention as one PyTorch op, `torch.ops.raggedrt.sparse_attention`, for modules meant to be exported.

`torch.onnx` turns the op into one node that the graph passes read as attention with a known mask, whatever the pattern.
Here it has a reference implementation, so that such a module also runs (slowly) and trains nothing in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raggedrt.errors import InputError

QUERY_ROWS = 1024
"""Query rows that the reference computes at a time: it holds their scores with all keys."""


@torch.library.custom_op("raggedrt::sparse_attention", mutates_args=())
def _sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scale: float,
    causal: bool,
    window_left: int,
    window_right: int,
    dilation: int,
    global_tokens: Sequence[int],
    block_size: int,
    block_window: int,
    global_blocks: int,
    dense_up_to: int,
) -> Tensor:
    """See `sparse_attention`."""
    length = query.shape[2]
    groups = query.shape[1] // key.shape[1]
    keys, values = (tensor.float().repeat_interleave(groups, dim=1) for tensor in (key, value))
    slots = torch.arange(length, device=query.device)
    pieces = []
    for start in range(0, length, QUERY_ROWS):
        rows = slots[start : start + QUERY_ROWS, None]
        visible = _visible(
            rows, slots[None, :], length, causal, window_left, window_right, dilation, global_tokens,
            block_size, block_window, global_blocks, dense_up_to,
        )  # fmt: skip
        if attention_mask is not None:
            visible = visible & (attention_mask != 0)[:, None, None, :]
        scores = query[:, :, start : start + QUERY_ROWS].float() @ keys.transpose(-1, -2) * scale
        weights = torch.softmax(scores.masked_fill(~visible, torch.finfo(torch.float32).min), dim=-1)
        pieces.append(weights.masked_fill(~visible, 0.0) @ values)
    return torch.cat(pieces, dim=2).to(query.dtype)


def _visible(
    query: Tensor,
    key: Tensor,
    length: int,
    causal: bool,
    window_left: int,
    window_right: int,
    dilation: int,
    global_tokens: Sequence[int],
    block_size: int,
    block_window: int,
    global_blocks: int,
    dense_up_to: int,
) -> Tensor:
    """Bool [Q, K] for query slots [Q, 1] and key slots [1, K]."""
    distance = key - query
    visible = distance % dilation == 0
    if window_left >= 0:
        visible &= distance >= -window_left
    if window_right >= 0:
        visible &= distance <= window_right
    for token in global_tokens:
        visible |= (query == token) | (key == token)
    if block_size:
        blocks = -(-length // block_size)
        q, k = query // block_size, key // block_size
        front, back = (global_blocks + 1) // 2, blocks - global_blocks // 2
        visible &= ((q - k).abs() <= block_window // 2) | (q < front) | (q >= back) | (k < front) | (k >= back)
    if length <= dense_up_to:
        visible |= True
    return visible & (distance <= 0) if causal else visible


@_sparse_attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scale: float,
    causal: bool,
    window_left: int,
    window_right: int,
    dilation: int,
    global_tokens: Sequence[int],
    block_size: int,
    block_window: int,
    global_blocks: int,
    dense_up_to: int,
) -> Tensor:
    return query.new_empty((*query.shape[:3], value.shape[3]))


def sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scale: float | None = None,
    causal: bool = False,
    window: tuple[int, int] = (-1, -1),
    dilation: int = 1,
    global_tokens: Sequence[int] = (),
    block_size: int = 0,
    block_window: int = 3,
    global_blocks: int = 2,
    dense_up_to: int = 0,
) -> Tensor:
    """Attention in which each query sees the keys that a pattern of slots shows it.

    Args:
        query: float [batch, heads, slots, head size].
        key: float [batch, key heads, slots, head size]; key heads divide heads, head n reads key head
            n // (heads / key heads).
        value: float [batch, key heads, slots, value head size].
        attention_mask: [batch, slots], non-zero where a slot holds a token; padded keys are never seen. None: none is.
        scale: Factor on query key^T; None: 1 / sqrt(head size).
        causal: Keys after the query are hidden, whatever else is said.
        window: How many slots before and after itself a query sees, inclusive; -1: all. (`sliding_window` of
            transformers counts the token itself: its w is `window=(w - 1, w - 1)`.)
        dilation: Within the window only keys at multiples of this distance.
        global_tokens: Slots that see and are seen by all.
        block_size: Blocks of this many slots: only keys in a band of blocks or in global blocks are seen. 0: none.
        block_window: Blocks of the band, odd: the query's own and as many on either side.
        global_blocks: Blocks that see and are seen by all: the first half (rounded up) at the start of the row, the
            others at its end, which is the padded one.
        dense_up_to: A row of at most this many slots, padding included, is dense.

    Returns:
        float [batch, heads, slots, value head size]. A query that sees no key yields zeros.

    Raises:
        InputError: Shapes or numbers do not fit together.
    """
    _check(query, key, value, attention_mask)
    numbers = {"window": min(window) + 1, "dilation": dilation - 1, "block_size": block_size}
    numbers |= {
        "global_blocks": global_blocks,
        "dense_up_to": dense_up_to,
        "global_tokens": min(global_tokens, default=0),
    }
    for name, number in numbers.items():
        if number < 0:
            raise InputError(f"sparse_attention: {name} is below its least value.")
    if block_window < 1 or block_window % 2 == 0:
        raise InputError(f"sparse_attention: block_window is {block_window}; expected an odd number of blocks.")
    if block_size and (tuple(window) != (-1, -1) or dilation != 1 or global_tokens):
        raise InputError(
            "sparse_attention: blocks (block_size) and windows, dilation or global tokens exclude each other."
        )
    result: Tensor = _sparse_attention(
        query,
        key,
        value,
        attention_mask,
        query.shape[-1] ** -0.5 if scale is None else float(scale),
        causal,
        window[0],
        window[1],
        dilation,
        list(global_tokens),
        block_size,
        block_window if block_size else 0,
        global_blocks if block_size else 0,
        dense_up_to,
    )
    return result


def _check(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None) -> None:
    shapes = f"query {list(query.shape)}, key {list(key.shape)}, value {list(value.shape)}"
    if query.dim() != 4 or key.dim() != 4 or value.dim() != 4:
        raise InputError(f"sparse_attention: expected [batch, heads, slots, head size], found {shapes}.")
    if query.shape[3] != key.shape[3] or key.shape[1] != value.shape[1] or query.shape[1] % key.shape[1]:
        raise InputError(f"sparse_attention: heads or head sizes do not fit together: {shapes}.")
    if query.shape[2] != key.shape[2] or key.shape[2] != value.shape[2]:
        raise InputError(f"sparse_attention: query, key and value hold the same slots (no cache), found {shapes}.")
    if attention_mask is not None and attention_mask.dim() != 2:
        raise InputError(
            f"sparse_attention: attention_mask has {attention_mask.dim()} dimensions; expected [batch, slots], "
            "non-zero where a slot holds a token. What a larger mask says beyond padding, other arguments say."
        )
