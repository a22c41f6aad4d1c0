"""Sparse masks on packed tokens, given a library with their features: bodies give the original's values."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx_ir as ir
import pytest

from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_runs import MASK, Rewritten, assert_same_padded, assert_same_ragged, padded_feed, rewritten
from raggedrt.errors import FeatureError
from raggedrt.graph_passes.masks import MaskSpec
from raggedrt.plugins.contract.abi import Feature
from raggedrt.plugins.contract.capability import CAPABILITIES

pytestmark = pytest.mark.ort_cpu
SPARSE = Feature.WINDOW | Feature.DILATION | Feature.GLOBAL_TOKENS
NEEDED = {
    "window": (Feature.WINDOW, {"causal": 1, "window_left": 2}),
    "band": (Feature.WINDOW, {"window_left": 1, "window_right": 1}),
    "globals": (Feature.GLOBAL_TOKENS, {"window_left": 1, "window_right": 1, "global_tokens": (0,)}),
    "dilated": (Feature.DILATION, {"dilation": 2}),
}


@pytest.fixture
def _able(monkeypatch: pytest.MonkeyPatch) -> None:
    _set_features(monkeypatch, CAPABILITIES["ort-cpu"].features | SPARSE)


def _set_features(monkeypatch: pytest.MonkeyPatch, features: Feature) -> None:
    monkeypatch.setitem(CAPABILITIES, "ort-cpu", dataclasses.replace(CAPABILITIES["ort-cpu"], features=features))


def _attention(pair: Rewritten) -> ir.Node:
    return next(node for node in pair.model.graph if node.op_type == "RaggedAttention")


@pytest.mark.usefixtures("_able")
@pytest.mark.parametrize("mask", NEEDED)
@pytest.mark.parametrize("attention", ["eager_mul", "eager_where"])
def test_holes_and_left_padding_keep_their_distances(mask: str, attention: str) -> None:
    spec = EncoderSpec(mask=mask, attention=attention)
    pair = rewritten(build_encoder(spec), features=("pack",))
    node = _attention(pair)
    assert len(node.inputs) >= 9  # positions of queries and keys
    assert None not in node.inputs[7:9]
    for name, value in NEEDED[mask][1].items():
        written = node.attributes[name].value
        assert (tuple(written) if isinstance(value, tuple) else written) == value
    # A query at a token always sees itself, so rows of the original that see nothing are padding.
    assert_same_padded(pair, padded_feed(spec), MASK)
    longer = np.random.default_rng(3).integers(0, 2, (5, 13))
    assert_same_padded(pair, padded_feed(spec, longer), longer)


@pytest.mark.usefixtures("_able")
@pytest.mark.parametrize("mask", NEEDED)
def test_ragged_sequences_count_from_their_first_token(mask: str) -> None:
    spec = EncoderSpec(mask=mask)
    pair = rewritten(build_encoder(spec), features=("pack",), io="ragged")
    assert len(_attention(pair).inputs) >= 9
    assert_same_ragged(pair, spec)


@pytest.mark.parametrize("mask", NEEDED)
def test_a_library_without_the_feature_is_not_handed_the_mask(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _set_features(monkeypatch, CAPABILITIES["ort-cpu"].features & ~SPARSE)
    with pytest.raises(FeatureError, match=rf"lacks .*{NEEDED[mask][0].name}.*its mask: key is not padding"):
        rewritten(build_encoder(EncoderSpec(mask=mask)), features=("pack",))


@pytest.mark.usefixtures("_able")
def test_a_kept_slot_must_be_a_global_token() -> None:
    with pytest.raises(FeatureError, match="may show it no valid key"):
        rewritten(build_encoder(EncoderSpec(mask="band", head="slot")), features=("pack",))
    spec = EncoderSpec(mask="globals", head="slot")
    model = build_encoder(spec)
    outputs = tuple(value.name or "" for value in model.graph.outputs)
    assert_same_padded(rewritten(model, features=("pack",)), padded_feed(spec), per_sequence=outputs)


@pytest.mark.parametrize("mask", ["padding", *NEEDED])
def test_reports_hold_the_mask_as_data(mask: str) -> None:
    report = rewritten(build_encoder(EncoderSpec(mask=mask)), features=("pack",), allow_partial=True).report
    entry = json.loads(json.dumps(report.to_json()))["attention"][0]
    assert MaskSpec.from_json(entry["mask_spec"]).describe() == entry["mask"]
