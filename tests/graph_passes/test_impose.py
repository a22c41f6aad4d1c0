"""Imposed sparsity: the values of the original with that mask added, whatever the padding, or a reason why not."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from helpers.capabilities import grant, require
from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_runs import LENGTHS, MASK, Feed, Rewritten, padded_feed, plain_session, rewritten, run
from helpers.mask_specs import CONTENT_FREE, expressions
from helpers.tolerances import Tolerance, assert_close
from raggedrt.errors import FeatureError, InputError
from raggedrt.graph_passes.impose import SiteChoice, check_imposable
from raggedrt.graph_passes.masks import MaskSpec
from raggedrt.graph_passes.masks.algebra import Causal, Term, Window
from raggedrt.graph_passes.masks.bigbird import BigBird
from raggedrt.graph_passes.masks.block_list import BlockList
from raggedrt.graph_passes.masks.expressions import all_terms, any_term
from raggedrt.graph_passes.masks.pairs import OWN, Pairs
from raggedrt.graph_passes.masks.short_spec import parse_mask
from raggedrt.plugins.contract.abi import Feature
from raggedrt.plugins.runtime.ort import ort_session

pytestmark = pytest.mark.ort_cpu
CLOSE = Tolerance(2e-5, 2e-4)
LONG = (np.random.default_rng(7).random((4, 16)) < 0.7).astype(np.int64)
SPECS = {
    "window(1)": Feature.WINDOW,
    "window(left=2, right=0)": Feature.WINDOW | Feature.CAUSAL,
    "causal": Feature.CAUSAL,
    "longformer(window=2, global=[0])": Feature.WINDOW | Feature.GLOBAL_TOKENS,
    "dilated(window=2, dilation=2)": Feature.WINDOW | Feature.DILATION,
    "strided(2) | window(1)": Feature.BLOCK_MASK,
    "block_band(block=2, left=1) | global([1, 2], rows=0)": Feature.BLOCK_MASK,
    "bigbird(block=8, window=1, global=1, random=1, length=16)": Feature.BLOCK_MASK,
    "bigbird(block=8, window=1, global=2, random=0)": Feature.BLOCK_MASK,
}
EVERY_MASK = Feature.WINDOW | Feature.CAUSAL | Feature.GLOBAL_TOKENS | Feature.DILATION | Feature.BLOCK_MASK


def imposed(text: str, spec: EncoderSpec | None = None, **config: object) -> Rewritten:
    defaults = {"features": ("pack",), "sparsity": parse_mask(text), "accept_approximation": True}
    return rewritten(build_encoder(spec or EncoderSpec()), **{**defaults, **config})


def own_visible(expression: Term, mask: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """[B, 1, S, S], positions counted by own tokens; a padded slot stands where the token before it does."""
    pairs = Pairs.of(mask, own=True)
    lengths = mask.sum(axis=1)
    rows = [
        np.broadcast_to(
            expression.holds(dataclasses.replace(pairs, query=pairs.query[[b]], key=pairs.key[[b]], length=int(n))),
            (1, mask.shape[1], mask.shape[1]),
        )
        for b, n in enumerate(np.maximum(lengths, 1))
    ]
    return np.stack(rows)


def reference(spec: EncoderSpec, feed: Feed, visible: npt.NDArray[np.bool_]) -> Feed:
    """The original graph with one more mask."""
    given = ir.to_proto(build_encoder(dataclasses.replace(spec, mask="given")))
    return run(plain_session(given), {**feed, "visible": visible})


def able(monkeypatch: pytest.MonkeyPatch, text: str, *, native: bool) -> None:
    if native:
        require(SPECS[text] | Feature.POSITIONS)
    else:
        grant(monkeypatch)


@pytest.mark.parametrize("native", [False, True], ids=["bodies", "library"])
@pytest.mark.parametrize("text", SPECS)
def test_positions_count_own_tokens(text: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch, text, native=native)
    spec = EncoderSpec()
    pair = imposed(text, spec)
    for node in pair.model.graph:
        if node.op_type == "RaggedAttention":
            assert all(value is None for value in node.inputs[7:9]), "packed order is own order: no positions"
    for mask in (MASK, LONG):
        feed = padded_feed(spec, mask)
        want = reference(spec, feed, own_visible(parse_mask(text).expression, mask))["last_hidden_state"]
        got = run(ort_session(pair.model, native=native), feed)["last_hidden_state"]
        assert_close(got[mask != 0], want[mask != 0], CLOSE)
        assert not got[mask == 0].any()


@pytest.mark.parametrize("native", [False, True], ids=["bodies", "library"])
@pytest.mark.parametrize("text", [text for text in SPECS if "causal" not in text and "right=0" not in text])
def test_a_slot_that_is_read_stands_where_a_token_does(
    text: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    able(monkeypatch, text, native=native)
    spec = EncoderSpec(head="slot")
    pair = imposed(text, spec)
    for mask in (MASK, LONG):
        feed = padded_feed(spec, mask)
        want = reference(spec, feed, own_visible(parse_mask(text).expression, mask))
        got = run(ort_session(pair.model, native=native), feed)
        rows = mask.any(axis=1)
        for name in want:
            assert_close(got[name][rows], want[name][rows], CLOSE, name)


@pytest.mark.parametrize("text", SPECS)
def test_ragged_sequences(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grant(monkeypatch)
    spec = EncoderSpec()
    pair = imposed(text, spec, io="ragged")
    feeds = [padded_feed(spec, np.ones((1, n), np.int64), seed=n) for n in LENGTHS]
    masks = [own_visible(parse_mask(text).expression, np.ones((1, n), np.int64)) for n in LENGTHS]
    want = [
        reference(spec, feed, visible)["last_hidden_state"][0]
        for n, feed, visible in zip(LENGTHS, feeds, masks, strict=True)
        if n
    ]
    ragged: Feed = {
        "input_ids": np.concatenate([feed["input_ids"][0] for feed in feeds]),
        "cu_seqlens": np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int32),
        "max_seqlen": np.zeros(max(LENGTHS), np.float32),
    }
    got = run(ort_session(pair.model, native=False), ragged)["last_hidden_state"]
    assert_close(got, np.concatenate(want), CLOSE)


def test_random_blocks_within_several_clauses_are_refused() -> None:
    """`drawn | (a & b)` is two clauses, and a BlockMask lists blocks in its first one only."""
    term = any_term(BigBird(8, 1, 0, 1, 0, 16), all_terms(Causal(), Window(3, 0, 2)))
    drawn = MaskSpec.of_expression(term, of=OWN)
    with pytest.raises(FeatureError, match="tiles"):
        rewritten(build_encoder(EncoderSpec()), features=("pack",), sparsity=drawn, accept_approximation=True)


BLOCKS = st.builds(
    BigBird, st.just(8), st.sampled_from([1, 3]), st.integers(0, 3), st.integers(0, 2), st.integers(0, 3), st.just(16)
)


@settings(max_examples=12, deadline=None)
@given(expressions(st.one_of(CONTENT_FREE, BLOCKS)), st.sampled_from(["hidden", "slot"]), st.booleans())
def test_any_expression_in_which_tokens_see_themselves(term: Term, head: str, native: bool) -> None:
    require(EVERY_MASK)
    imposed_spec = MaskSpec.of_expression(any_term(term, Window(0, 0)), of=OWN)
    spec = EncoderSpec(head=head, layers=1)
    try:
        config = {"features": ("pack",), "sparsity": imposed_spec, "accept_approximation": True}
        pair = rewritten(build_encoder(spec), **config)
    except FeatureError:
        reject()  # a slot is read under a causal mask, or there is no form in tiles
    for mask in (MASK, LONG):
        feed = padded_feed(spec, mask)
        want = reference(spec, feed, own_visible(imposed_spec.expression, mask))
        got = run(ort_session(pair.model, native=native), feed)
        keep = mask.any(axis=1) if head == "slot" else mask != 0
        for name in want:
            assert_close(got[name][keep], want[name][keep], CLOSE, f"{name} with {imposed_spec}")


@pytest.mark.parametrize("native", [False, True], ids=["bodies", "library"])
@pytest.mark.parametrize("head", ["hidden", "slot"])
def test_a_layout_made_for_one_length(head: str, native: bool) -> None:
    require(EVERY_MASK)
    visible = np.random.default_rng(11).random((16, 16)) < 0.4
    visible[:8, 8:] = False
    np.fill_diagonal(visible, True)
    layout = MaskSpec(pattern=BlockList.of_matrix(visible, 8), of=OWN)
    spec = EncoderSpec(head=head, positions="none")  # no table, no limit
    config = {"features": ("pack",), "sparsity": layout, "accept_approximation": True}
    pair = rewritten(build_encoder(spec), **config)
    for mask in (MASK, LONG):
        feed = padded_feed(spec, mask)
        want = reference(spec, feed, own_visible(layout.expression, mask))
        got = run(ort_session(pair.model, native=native), feed)
        keep = mask.any(axis=1) if head == "slot" else mask != 0
        for name in want:
            assert_close(got[name][keep], want[name][keep], CLOSE, name)


def test_the_end_of_a_layout_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    require(EVERY_MASK)
    layout = MaskSpec(pattern=BlockList.of_tiles(np.eye(2, dtype=bool), 8, 16), of=OWN)
    config = {"features": ("pack",), "sparsity": layout, "accept_approximation": True}
    rewritten(build_encoder(EncoderSpec(positions="none")), **config)
    assert "ends at 16 tokens and the model has no limit" in caplog.text
    caplog.clear()
    rewritten(build_encoder(EncoderSpec()), **config)  # position table of 16
    assert not caplog.text


def test_slots_of_the_padded_row_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    grant(monkeypatch)
    spec = EncoderSpec()
    pair = imposed("window(1) of=padded", spec)
    feed = padded_feed(spec)
    slots = np.arange(MASK.shape[1])
    visible = np.broadcast_to(abs(slots[:, None] - slots) <= 1, (len(MASK), 1, len(slots), len(slots)))
    want = reference(spec, feed, visible)["last_hidden_state"]
    assert_close(
        run(ort_session(pair.model, native=False), feed)["last_hidden_state"][MASK != 0], want[MASK != 0], CLOSE
    )


def test_the_report_has_both_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    grant(monkeypatch)
    entry = imposed("window(1)", opt_length=64).report.attention[0]
    assert entry.sparsity == "window(left=1, right=1) of=own"
    assert (entry.density, entry.original_density) == ((3 * 64 - 2) / 64**2, 1.0)
    assert entry.mask is not None
    assert "own tokens" in entry.mask


def test_nothing_is_imposed_unless_the_approximation_is_accepted() -> None:
    with pytest.raises(InputError, match="--accept-approximation"):
        imposed("window(1)", accept_approximation=False)


def test_slots_and_own_tokens_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    grant(monkeypatch)
    spec = EncoderSpec(mask="band")
    with pytest.raises(FeatureError, match=r"counts slots of the padded row.*of=padded"):
        imposed("window(2)", spec)
    assert imposed("window(2) of=padded", spec).report.attention[0].op == "RaggedAttention"
    assert imposed("window(2)", spec, io="ragged").report.attention[0].op == "RaggedAttention"


def test_what_cannot_be_imposed_is_an_error_unless_partial_results_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    grant(monkeypatch)
    text = "bigbird(block=8, window=1, global=1, random=1)"
    with pytest.raises(FeatureError, match="no limit"):
        imposed(text, EncoderSpec(positions="none"))
    report = imposed(text, EncoderSpec(positions="none"), allow_partial=True).report
    assert [entry.op for entry in report.attention] == [None, None]
    assert "no limit" in (report.attention[0].reason or "")
    drawn = imposed(text, EncoderSpec(positions="none"), opt_length=32).report.attention[0]
    assert drawn.sparsity is not None
    assert "length=32" in drawn.sparsity


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("window(4) & segment", "differs from sample to sample"),
        ("bias(dense)", "hides nothing"),
        ("query_padding", "padding"),
        ("bigbird(block=12)", "multiple of 8"),
        ("bigbird(block=8) | (bigbird(block=8, seed=1) & causal)", "neither a form in attributes nor one in tiles"),
    ],
)
def test_masks_that_nobody_can_impose(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        check_imposable(parse_mask(text))


def test_a_plan_says_it_site_by_site(monkeypatch: pytest.MonkeyPatch) -> None:
    grant(monkeypatch)
    names = [entry.node for entry in rewritten(build_encoder(EncoderSpec())).report.attention]
    plan = (SiteChoice(names[1], parse_mask("window(1)")),)
    first, second = imposed("causal", plan=plan, sparsity=None).report.attention
    assert (first.sparsity, second.sparsity) == (None, "window(left=1, right=1) of=own")
    kept = (SiteChoice(names[0], keep=True, where="plan.yaml, line 3"),)
    first, second = imposed("window(1)", plan=kept).report.attention
    assert (first.op, first.reason) == (None, "it is to be kept as it is (plan.yaml, line 3)")
    assert (second.op, second.sparsity) == ("RaggedAttention", "window(left=1, right=1) of=own")


def test_a_kept_site_behind_others_ends_packing() -> None:
    names = [entry.node for entry in rewritten(build_encoder(EncoderSpec())).report.attention]
    with pytest.raises(FeatureError, match="kept as it is"):
        rewritten(build_encoder(EncoderSpec()), features=("pack",), plan=(SiteChoice(names[1], keep=True),))


def test_a_plan_for_another_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"plan\.yaml, line 9.*no attention site 'nowhere'"):
        rewritten(build_encoder(EncoderSpec()), plan=(SiteChoice("nowhere", where="plan.yaml, line 9"),))
