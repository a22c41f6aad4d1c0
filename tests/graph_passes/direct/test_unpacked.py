"""Attention lowered where nothing is packed: values, masks, what is left alone and why."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_runs import FP32, Feed, Rewritten, padded_feed, plain_session, rewritten, run
from helpers.graph_writer import GraphWriter
from helpers.tolerances import assert_close
from raggedrt.errors import FeatureError
from raggedrt.graph_passes.direct.gains import GAINS, SHORT
from raggedrt.plugins.contract.capability import CAPABILITIES
from raggedrt.plugins.runtime.ort import ort_session

pytestmark = pytest.mark.ort_cpu

LOWEST = float(np.finfo(np.float32).min)
HEADS, SIZE = 2, 8
WIDTH = HEADS * SIZE


@dataclasses.dataclass(frozen=True)
class Rows:
    """Attention over rows of an input [batch, rows, 16] that holds no tokens.

    Attributes:
        rows: how many; a name where that is dynamic.
        mask: none, causal, window (two back), open (all True), blind (the first query sees no key), table, far (a table
            that falls with distance), windows (a mask per sequence, computed).
        heads: in an axis of their own, else in the batch axis.
        keys: rows of keys; None: the same as queries.
        softcap: of the scores.
        guarded: as exporters of sdpa write it.
    """

    rows: int | str = 16
    mask: str = "none"
    heads: bool = True
    keys: int | None = None
    softcap: float = 0.0
    guarded: bool = False


def build(spec: Rows) -> ir.Model:
    """The graph; K is transposed through three dimensions where `guarded`."""
    g = GraphWriter()
    op = g.op
    x = g.input("x", ["batch", spec.rows, WIDTH], ir.DataType.FLOAT)
    y = x if spec.keys is None else g.input("y", ["batch", spec.keys, WIDTH], ir.DataType.FLOAT)
    query, key, value = (_split(g, op.MatMul(source, g.weight(WIDTH, WIDTH, scale=0.5)), spec) for source in (x, y, y))
    scores = op.Mul(op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2] if spec.heads else [0, 2, 1])), g.number(0.3))
    if spec.softcap:
        scores = op.Mul(op.Tanh(op.Div(scores, g.number(spec.softcap))), g.number(spec.softcap))
    mask = _mask(g, x, spec)
    weights = op.Softmax(scores if mask is None else op.Add(scores, mask), axis=-1)
    if spec.guarded:
        weights = op.Where(op.IsNaN(weights), g.number(0.0), weights)
    mixed = op.MatMul(weights, value)
    if spec.heads:
        mixed = op.Transpose(mixed, perm=[0, 2, 1, 3])
    merged = op.Reshape(mixed, g.ints([0, 0, WIDTH])) if spec.heads else mixed
    return g.model({"result": op.MatMul(merged, g.weight(WIDTH, WIDTH, scale=0.5))})


def _split(g: GraphWriter, value: ir.Value, spec: Rows) -> ir.Value:
    if not spec.heads:
        return value
    return g.op.Transpose(g.op.Reshape(value, g.ints([0, 0, HEADS, SIZE])), perm=[0, 2, 1, 3])


def _mask(g: GraphWriter, x: ir.Value, spec: Rows) -> ir.Value | None:
    if spec.mask == "none":
        return None
    assert isinstance(spec.rows, int)
    ahead = np.arange(spec.keys or spec.rows)[None, :] - np.arange(spec.rows)[:, None]
    if spec.mask == "windows":
        first = g.op.Slice(x, g.ints([0]), g.ints([1]), g.ints([2]))  # [batch, rows, 1]
        hidden = g.op.Where(g.op.Less(first, g.number(-1.0)), g.number(-100.0), g.number(0.0))
        return g.op.Unsqueeze(g.op.Transpose(hidden, perm=[0, 2, 1]), g.ints([1]))
    if spec.mask == "table":
        return g.weight(1, HEADS, *ahead.shape)
    if spec.mask == "far":
        return g.constant(-np.abs(ahead)[None] * np.array([0.5, 0.1])[:, None, None], np.float32)
    keep = {
        "causal": ahead <= 0,
        "window": (ahead <= 0) & (ahead >= -2),
        "open": ahead <= spec.rows,
        "blind": ahead != 0,
    }[spec.mask]
    if spec.mask == "blind":
        keep[0] = False
    if spec.mask == "open":
        shape = g.op.Concat(g.op.Shape(x, start=0, end=1), g.ints([1, *ahead.shape]), axis=0)
        visible = g.op.Expand(g.constant(keep[None, None], np.bool_), shape)
        return g.op.Where(visible, g.number(0.0), g.number(LOWEST))
    return g.constant(np.where(keep, 0.0, LOWEST), np.float32)


def _compare(pair: Rewritten, feed: Feed) -> None:
    want = run(plain_session(pair.original), feed)
    for native in (True, False):
        got = run(ort_session(ir.to_proto(pair.model), native=native), feed)
        for name in want:
            assert_close(got[name], want[name], FP32, name)


def _feed(spec: Rows, batch: int, rows: int | None = None) -> Feed:
    random = np.random.default_rng(batch)
    length = rows if rows is not None else spec.rows
    feed = {"x": random.normal(size=(batch, length, WIDTH)).astype(np.float32)}
    if spec.keys is not None:
        feed["y"] = random.normal(size=(batch, spec.keys, WIDTH)).astype(np.float32)
    return feed


MASKS = {
    "none": "every key is visible",
    "open": "every key is visible",
    "causal": "key <= query",
    "window": "key <= query and query - key <= 2",
    "table": "every key is visible",
    "far": "every key is visible",
}


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("rows", [1, 16, 61])
@pytest.mark.parametrize("mask", list(MASKS))
def test_rows_that_are_no_tokens(mask: str, rows: int, guarded: bool) -> None:
    spec = Rows(rows, mask, guarded=guarded)
    pair = rewritten(build(spec))
    (entry,) = pair.report.attention
    assert entry.op == "RaggedAttention"
    if rows > 3:
        assert (entry.mask, entry.density_at) == (MASKS[mask], rows)
        assert (entry.bias is not None) == (mask in ("table", "far"))
    for batch in (1, 3):
        _compare(pair, _feed(spec, batch))


@pytest.mark.parametrize("mask", ["none", "causal"])
def test_heads_in_the_batch_axis(mask: str) -> None:
    spec = Rows(mask=mask, heads=False)
    pair = rewritten(build(spec))
    assert [entry.heads for entry in pair.report.attention] == [1]
    assert "RaggedAttention" in pair.ops
    _compare(pair, _feed(spec, 3))


def test_any_number_of_rows() -> None:
    spec = Rows("rows", softcap=5.0)
    pair = rewritten(build(spec))
    assert "RaggedAttention" in pair.ops
    for batch, rows in ((1, 1), (3, 40), (2, 67)):
        _compare(pair, _feed(spec, batch, rows))


def test_no_row_for_every_head_and_slot_is_moved() -> None:
    """Transposes before and behind the op cancel each other."""
    assert "Transpose" not in rewritten(build(Rows())).ops


def test_keys_of_another_number() -> None:
    spec = Rows(16, keys=24)
    pair = rewritten(build(spec))
    assert "RaggedAttention" in pair.ops
    for batch in (1, 2):
        _compare(pair, _feed(spec, batch))


def test_a_mask_that_is_computed_is_a_bias_where_rows_are_short() -> None:
    spec = Rows(16, "windows")
    pair = rewritten(build(spec))
    assert [entry.bias for entry in pair.report.attention] == ["its mask, as the graph computes it"]
    _compare(pair, _feed(spec, 3))
    (entry,) = rewritten(build(Rows(SHORT + 1, "windows")), allow_partial=True).report.attention
    assert "gains nothing" in (entry.reason or "")


def test_a_query_that_sees_nothing_is_left_to_the_original_or_has_its_number() -> None:
    """The lowest number on every key gives the mean of all values, which a bias gives as well."""
    spec = Rows(16, "blind")
    pair = rewritten(build(spec), allow_partial=True)
    _compare(pair, _feed(spec, 2))


def test_a_long_table_gains_nothing() -> None:
    pair = rewritten(build(Rows(SHORT + 1, "table")), allow_partial=True)
    (entry,) = pair.report.attention
    assert "a bias table is added" in (entry.reason or "")
    assert "RaggedAttention" not in pair.ops


def test_a_constant_mask_between_rows_of_different_number_is_a_bias() -> None:
    spec = Rows(16, "causal", keys=24)
    pair = rewritten(build(spec))
    assert "RaggedAttention" in pair.ops
    _compare(pair, _feed(spec, 2))


def test_no_padding_is_still_said() -> None:
    pair = rewritten(build(Rows()))
    assert any("no padding to remove" in refusal.reason for refusal in pair.report.record("pack").refused)
    assert pair.report.record("sparse").matched == 1
    with pytest.raises(FeatureError, match="no padding to remove"):
        rewritten(build(Rows()), features=("pack",))


def test_sparsity_is_imposed_without_padding() -> None:
    """On a model without tokens, too."""
    pair = rewritten(build(Rows(32)), sparsity=_window(), accept_approximation=True)
    (entry,) = pair.report.attention
    assert (entry.op, entry.sparsity) == ("RaggedAttention", "window(left=2, right=2) of=own")
    want = rewritten(build(Rows(32, "none")), features="auto")
    assert pair.ops == want.ops


def _window() -> Any:
    from raggedrt.graph_passes.masks.short_spec import parse_mask

    return parse_mask("window(2)")


# --- graphs with tokens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager_mul", "sdpa"])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_a_padding_mask_where_packing_stopped(attention: str, kv_heads: int) -> None:
    """An unmasked mean reads padded slots, whose queries see the keys that all see."""
    spec = EncoderSpec(attention, head="mean", kv_heads=kv_heads)
    pair = rewritten(build_encoder(spec))
    assert pair.report.record("pack").matched == 0
    assert pair.ops.count("RaggedAttention") == spec.layers
    feed = padded_feed(spec)
    filled = feed["attention_mask"].any(axis=1)
    _compare(pair, {name: array[filled] for name, array in feed.items()})


def test_a_padded_slot_that_may_see_nothing_is_left_alone() -> None:
    pair = rewritten(build_encoder(EncoderSpec(mask="causal_padding", head="mean")))
    assert "RaggedAttention" not in pair.ops
    assert all("may show a padded slot no key" in (entry.reason or "") for entry in pair.report.attention)


def test_a_mask_that_hides_no_padding() -> None:
    """Valid tokens read padded slots, so these cannot go; attention is lowered all the same."""
    spec = EncoderSpec(mask="none", head="mean")
    pair = rewritten(build_encoder(spec))
    assert pair.ops.count("RaggedAttention") == spec.layers
    assert {entry.mask for entry in pair.report.attention} == {"every key is visible"}
    assert any("does not hide padded keys" in refusal.reason for refusal in pair.report.record("pack").refused)
    _compare(pair, padded_feed(spec))


def test_every_target_has_its_own_rows() -> None:
    assert set(GAINS) <= set(CAPABILITIES)
    for target in CAPABILITIES:
        pair = rewritten(build(Rows()), target=target, allow_partial=True)
        assert ("RaggedAttention" in pair.ops) == (target in GAINS)


@pytest.mark.parametrize("batch", [1, HEADS, 3])
def test_a_computed_bias_of_heads_without_a_batch_axis(batch: int) -> None:
    """Three axes beside scores of four are heads, queries and keys, also where there are as many rows as heads."""
    g = GraphWriter()
    x = g.input("x", ["batch", 10, WIDTH], ir.DataType.FLOAT)
    parts = [_split(g, g.op.MatMul(x, g.weight(WIDTH, WIDTH, scale=0.5)), Rows(10)) for _ in range(3)]
    products = g.op.MatMul(x, g.op.Transpose(x, perm=[0, 2, 1]))
    bias = g.op.Mul(g.reduce("ReduceMean", products, [0], keepdims=True), g.weight(HEADS, 1, 1))
    scores = g.op.Add(g.op.MatMul(parts[0], g.op.Transpose(parts[1], perm=[0, 1, 3, 2])), bias)
    pair = rewritten(g.model({"result": g.op.MatMul(g.op.Softmax(scores, axis=-1), parts[2])}))
    assert "RaggedAttention" in pair.ops
    _compare(pair, _feed(Rows(10), batch))


def test_presents_of_attention_with_merged_heads() -> None:
    g = GraphWriter(24)
    x = g.input("x", ["batch", "rows", WIDTH], ir.DataType.FLOAT)
    rows = [g.op.MatMul(x, g.weight(WIDTH, WIDTH, scale=0.5)) for _ in range(3)]
    sizes = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
    outputs = g.op.op_multi_out("Attention", rows, sizes, num_outputs=3)
    pair = rewritten(g.model(dict(zip(("result", "present_key", "present_value"), outputs, strict=True))))
    assert "RaggedAttention" in pair.ops
    _compare(pair, _feed(Rows(5), 2))


@pytest.mark.parametrize("shape", [(1, HEADS, 1, 8), (1, 1, 8, 1), (HEADS, 1, 8), (1, HEADS, 1, 1)])
def test_a_table_for_all_queries_or_keys_alike(shape: tuple[int, ...]) -> None:
    g = GraphWriter()
    x = g.input("x", ["batch", 8, WIDTH], ir.DataType.FLOAT)
    parts = [_split(g, g.op.MatMul(x, g.weight(WIDTH, WIDTH, scale=0.5)), Rows(8)) for _ in range(3)]
    scores = g.op.MatMul(parts[0], g.op.Transpose(parts[1], perm=[0, 1, 3, 2]))
    weights = g.op.Softmax(g.op.Add(scores, g.weight(*shape)), axis=-1)
    pair = rewritten(g.model({"result": g.op.MatMul(weights, parts[2])}))
    assert "RaggedAttention" in pair.ops
    _compare(pair, _feed(Rows(8), 2))


def test_a_past_is_joined_and_given_out_again() -> None:
    """ONNX `Attention` on operands [B, N, S, H], whose joined keys have no declared shape."""
    g = GraphWriter(23)
    rows = {name: g.input(name, ["batch", HEADS, f"{name}_rows", SIZE], ir.DataType.FLOAT) for name in "qkv"}
    past = [g.input(name, ["batch", HEADS, "earlier", SIZE], ir.DataType.FLOAT) for name in ("past_k", "past_v")]
    made = g.op.op_multi_out("Attention", [*rows.values(), None, *past], {"is_causal": 1}, num_outputs=3)
    pair = rewritten(g.model(dict(zip(("y", "present_k", "present_v"), made, strict=True))), features=("sparse",))
    assert "RaggedAttention" in pair.ops
    rng = np.random.default_rng(0)
    lengths = {"q": 5, "k": 5, "v": 5, "past_k": 3, "past_v": 3}
    feed = {name: rng.standard_normal((2, HEADS, n, SIZE)).astype(np.float32) for name, n in lengths.items()}
    want, got = run(plain_session(pair.original), feed), run(ort_session(pair.model, native=False), feed)
    for name, value in want.items():
        assert_close(got[name], value, FP32, name)
