"""Slots chosen at run time: what they see is evaluated, and a row whose slot sees no token is not silently wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from helpers.encoder_graphs import PAD, EncoderSpec, build_encoder
from helpers.encoder_runs import FP32, LENGTHS, MASK, assert_same_ragged, padded_feed, plain_session, rewritten, run
from helpers.tolerances import assert_close
from raggedrt.errors import FeatureError
from raggedrt.plugins.runtime.ort import ort_session

pytestmark = pytest.mark.ort_cpu


def _pooled(spec: EncoderSpec, ids: npt.NDArray[Any], mask: npt.NDArray[Any]) -> tuple[Any, Any]:
    pair = rewritten(build_encoder(spec), features=("pack",))
    feed = padded_feed(spec, mask) | {"input_ids": ids}
    sessions = (plain_session(pair.original), ort_session(pair.model, native=False))
    want, got = (run(session, feed)["pooled"] for session in sessions)
    return want, got


def test_padding_ids_choose_the_last_token_under_every_padding() -> None:
    ids = np.where(MASK != 0, padded_feed(EncoderSpec())["input_ids"], PAD)
    want, got = _pooled(EncoderSpec(head="last_by_ids", mask="causal_padding"), ids, MASK)
    rows = MASK.any(axis=1)
    assert_close(got[rows], want[rows], FP32)


def test_a_row_whose_chosen_slot_sees_no_token_is_nan() -> None:
    mask = np.array([[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    ids = np.array([[5, PAD, PAD, PAD], [PAD, 5, PAD, PAD], [PAD, PAD, PAD, PAD]])
    want, got = _pooled(EncoderSpec(head="last_by_ids", mask="causal_padding"), ids, mask)
    assert np.isnan(got[0]).all()
    assert_close(got[1], want[1], FP32)
    assert np.isfinite(got[2]).all()


def test_a_window_counts_in_what_a_slot_sees() -> None:
    mask = np.array([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0]])
    ids = np.array([[5, 5, 5, 5, PAD], [5, 5, 5, 5, PAD]])  # slot 3 looks back to slot 1
    want, got = _pooled(EncoderSpec(head="last_by_ids", mask="window"), ids, mask)
    assert np.isnan(got[0]).all()
    assert_close(got[1], want[1], FP32)


@pytest.mark.parametrize("head", ["last_by_ids", "last_token", "last_by_length"])
def test_ragged_rows_choose_among_their_own_tokens(head: str) -> None:
    spec = EncoderSpec(head=head, mask="causal_padding")
    pair = rewritten(build_encoder(spec), features=("pack",), io="ragged")
    assert_same_ragged(pair, spec, per_sequence=("pooled",), lengths=LENGTHS)


@pytest.mark.parametrize("mask", ["window", "causal_padding"])
def test_what_a_refused_fixed_slot_is_told_to_do_works(mask: str) -> None:
    first, chosen = EncoderSpec(head="cls_gather", mask=mask), EncoderSpec(head="last_token", mask=mask)
    with pytest.raises(FeatureError, match=r"--io ragged.*a token that attention_mask chooses"):
        rewritten(build_encoder(first), features=("pack",))
    ragged = rewritten(build_encoder(first), features=("pack",), io="ragged")
    assert_same_ragged(ragged, first, per_sequence=("pooled",), lengths=LENGTHS)
    want, got = _pooled(chosen, padded_feed(chosen)["input_ids"], MASK)
    rows = MASK.any(axis=1)
    assert_close(got[rows], want[rows], FP32)
