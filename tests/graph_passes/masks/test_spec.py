"""What a spec says about a padded batch, in booleans, words and numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from raggedrt.graph_passes.masks import MaskSpec

pytestmark = pytest.mark.none

LEFT_PADDED = np.array([[0, 1, 1]])


def test_causal_and_padding_hide_later_keys_and_padded_keys() -> None:
    visible = MaskSpec(padding=True, causal=True).visible(LEFT_PADDED)
    assert visible.astype(int).tolist() == [[[0, 0, 0], [0, 1, 0], [0, 1, 1]]]


def test_padded_queries_see_nothing_where_the_mask_says_so() -> None:
    visible = MaskSpec(padding=True, padded_queries_masked=True).visible(LEFT_PADDED)
    assert visible.astype(int).tolist() == [[[0, 0, 0], [0, 1, 1], [0, 1, 1]]]


def test_rows_that_see_nothing_are_opened_where_the_mask_says_so() -> None:
    visible = MaskSpec(padding=True, causal=True, unattended_rows_open=True).visible(LEFT_PADDED)
    assert visible.astype(int).tolist() == [[[1, 1, 1], [0, 1, 0], [0, 1, 1]]]


@pytest.mark.parametrize("length", [1, 2, 7, 64])
@pytest.mark.parametrize("causal", [False, True])
def test_density_is_the_kept_share_without_padding(causal: bool, length: int) -> None:
    spec = MaskSpec(padding=True, causal=causal)
    assert spec.density(length) == pytest.approx(spec.visible(np.ones((1, length))).mean())


def test_words_and_json() -> None:
    assert MaskSpec().describe() == "every key is visible"
    assert MaskSpec(padding=True, causal=True).describe() == "key is not padding and key <= query"
    assert json.loads(json.dumps(MaskSpec(causal=True).to_json())) == {
        "padding": False,
        "causal": True,
        "padded_queries_masked": False,
        "unattended_rows_open": False,
        "of": "padded",
        "pattern": {"term": "all"},
    }
