"""The padding mask means non-zero at valid tokens, or conversion stops: sessions fill in and read it so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from raggedrt.errors import InputError
from raggedrt.export.mask_polarity import refuse_inverted_mask
from raggedrt.export.numerics import Arrays, Case, Runner
from raggedrt.export.padding_cases import InputSpec, padding_cases

pytestmark = pytest.mark.none
Floats = np.ndarray
Pooling = Callable[[Floats, Floats], Floats]

POOLINGS: dict[str, Pooling] = {
    "tokens": lambda x, mask: x,
    "first token": lambda x, mask: x[:, 0],
    "last slot": lambda x, mask: x[:, -1],
    "unmasked mean": lambda x, mask: x.mean(axis=1),
}


def attention(visible: Callable[[Floats], Floats], pooling: str = "tokens") -> Runner:
    """One attention over random embeddings of the ids; `visible` says from the mask [B, S] which keys [B, Q, K]."""
    table = np.random.default_rng(0).standard_normal((50, 8))

    def run(feeds: Arrays) -> Arrays:
        x, mask = table[feeds["ids"]], feeds["mask"]
        scores = x @ x.swapaxes(1, 2) + np.where(visible(mask), 0.0, -1e9)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return {"out": POOLINGS[pooling](x + weights / weights.sum(axis=-1, keepdims=True) @ x, mask)}

    return run


def cases() -> list[Case]:
    axes = ("batch", "sequence")
    mask = InputSpec("mask", np.dtype(np.int64), axes, "mask")
    return padding_cases([InputSpec("ids", np.dtype(np.int64), axes, "ids", 0, 50), mask])


VALID: dict[str, Callable[[Floats], Floats]] = {
    "padding": lambda mask: mask[:, None, :] != 0,
    "none": lambda mask: np.ones((len(mask), 1, mask.shape[1]), bool),
    "causal": lambda mask: (mask[:, None, :] != 0) & np.tri(mask.shape[1], dtype=bool),
    "window": lambda mask: (mask[:, None, :] != 0) & np.tri(mask.shape[1], k=2, dtype=bool),
    "own token": lambda mask: np.eye(mask.shape[1], dtype=bool)[None],
}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", VALID)
def test_a_mask_that_does_not_hide_valid_tokens_passes(name: str, pooling: str) -> None:
    calls: list[Arrays] = []
    run = attention(VALID[name], pooling)

    def recorded(feeds: Arrays) -> Arrays:
        calls.append(feeds)
        return run(feeds)

    refuse_inverted_mask("mask", cases(), recorded)
    assert len(calls) == 3  # it was tried
    assert (calls[1]["ids"] != calls[0]["ids"]).any()
    assert (calls[2]["ids"] != calls[0]["ids"]).any()


@pytest.mark.parametrize("pooling", ["tokens", "first token", "last slot"])
def test_a_mask_that_hides_valid_tokens_is_refused(pooling: str) -> None:
    with pytest.raises(InputError, match=r"'mask' hides the tokens where it is non-zero.*mask == 0"):
        refuse_inverted_mask("mask", cases(), attention(lambda mask: mask[:, None, :] == 0, pooling))


def test_without_padded_rows_nothing_can_be_said() -> None:
    full = [case for case in cases() if case.valid.all()]
    assert full
    refuse_inverted_mask("mask", full, attention(lambda mask: mask[:, None, :] == 0))
