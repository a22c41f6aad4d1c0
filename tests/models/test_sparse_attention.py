"""The PyTorch op: its reference against a mask written out pair by pair, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from helpers.tolerances import Tolerance, assert_close  # noqa: E402
from raggedrt.errors import InputError  # noqa: E402
from raggedrt.models.sparse_attention import sparse_attention  # noqa: E402

pytestmark = pytest.mark.none
SLOTS = 21


def _in_band(q: int, k: int) -> bool:
    ends = {0, (SLOTS - 1) // 4}
    return abs(q // 4 - k // 4) <= 1 or q // 4 in ends or k // 4 in ends


PATTERNS: dict[str, tuple[dict[str, Any], Any]] = {
    "dense": ({}, lambda q, k: True),
    "causal": ({"causal": True}, lambda q, k: k <= q),
    "window": ({"window": (3, 1)}, lambda q, k: -3 <= k - q <= 1),
    "one side": ({"window": (-1, 2)}, lambda q, k: k - q <= 2),
    "dilated": ({"window": (6, 6), "dilation": 3}, lambda q, k: abs(k - q) <= 6 and (k - q) % 3 == 0),
    "globals": ({"window": (1, 1), "global_tokens": [0, 7]}, lambda q, k: abs(q - k) <= 1 or {q, k} & {0, 7}),
    "causal globals": (
        {"window": (1, -1), "causal": True, "global_tokens": [2]},
        lambda q, k: k <= q and (q - k <= 1 or 2 in (q, k)),
    ),
    "blocks": ({"block_size": 4}, _in_band),
    "dense up to": ({"block_size": 4, "dense_up_to": SLOTS}, lambda q, k: True),
    "sparse above": ({"block_size": 4, "dense_up_to": SLOTS - 1}, _in_band),
}


def _tensors(heads: int = 2, key_heads: int = 2) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, heads, SLOTS, 8), (2, key_heads, SLOTS, 8), (2, key_heads, SLOTS, 4)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_reference_shows_what_the_pattern_says(pattern: str) -> None:
    arguments, shows = PATTERNS[pattern]
    query, key, value = _tensors()
    padding = torch.ones(2, SLOTS, dtype=torch.int64)
    padding[1, 15:] = 0
    visible = torch.tensor([[bool(shows(q, k)) for k in range(SLOTS)] for q in range(SLOTS)])
    visible = visible & (padding != 0)[:, None, None, :]
    scores = (query @ key.transpose(-1, -2) * 0.3).masked_fill(~visible, float("-inf"))
    expected = torch.nan_to_num(torch.softmax(scores, dim=-1)) @ value
    found = sparse_attention(query, key, value, padding, scale=0.3, **arguments)
    assert_close(found.numpy(), expected.numpy(), Tolerance(1e-6, 1e-5))


def test_a_query_that_sees_nothing_yields_zeros() -> None:
    padding = torch.zeros(2, SLOTS, dtype=torch.bool)
    padding[:, 0] = True
    found = sparse_attention(*_tensors(), padding, window=(1, 1))
    assert bool((found[:, :, 2:] == 0).all())
    assert bool((found[:, :, :2] != 0).all())


def test_heads_share_key_heads() -> None:
    query, key, value = _tensors(heads=4)
    found = sparse_attention(query, key, value, window=(2, 2))
    repeated = [tensor.repeat_interleave(2, dim=1) for tensor in (key, value)]
    expected = sparse_attention(query, *repeated, window=(2, 2))
    assert_close(found.numpy(), expected.numpy(), Tolerance(1e-6, 1e-5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": (-2, 0)}, "window is below"),
        ({"dilation": 0}, "dilation is below"),
        ({"global_tokens": [-1]}, "global_tokens is below"),
        ({"block_size": 8, "block_window": 2}, "block_window is 2; expected an odd"),
        ({"block_size": 8, "window": (1, 1)}, "exclude each other"),
        ({"attention_mask": torch.ones(2, 1, SLOTS, SLOTS)}, "attention_mask has 4 dimensions"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sparse_attention(*_tensors(), **arguments)


def test_shapes_that_do_not_fit_are_refused() -> None:
    query, key, value = _tensors()
    with pytest.raises(InputError, match=r"expected \[batch, heads, slots, head size\]"):
        sparse_attention(query[0], key, value)
    with pytest.raises(InputError, match="heads or head sizes do not fit"):
        sparse_attention(query[..., :4], key, value)
    with pytest.raises(InputError, match=r"hold the same slots \(no cache\)"):
        sparse_attention(query[:, :, :1], key, value)
