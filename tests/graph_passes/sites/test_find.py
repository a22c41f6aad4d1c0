"""Attention sites: what is read off each spelling, and the reason where something only looks like attention."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from helpers.attended import HEAD_SIZE, WIDTH, Attended
from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.graph_writer import GraphWriter
from raggedrt.graph_passes.clean import clean
from raggedrt.graph_passes.graph_inputs import describe_inputs
from raggedrt.graph_passes.sites.by_shape import ONE_HEAD
from raggedrt.graph_passes.sites.find import Understanding, understand

pytestmark = pytest.mark.none

Build = Callable[[Attended], ir.Value]


def _understood(model: ir.Model) -> Understanding:
    clean(model)
    return understand(model.graph, describe_inputs(model.graph))


def _sites_of(build: Build, opset: int = 20) -> Understanding:
    graph = Attended(opset)
    return _understood(graph.model({"result": build(graph)}))


SPELLINGS = [
    ("eager_mul", 20, 4), ("eager_div", 20, 4), ("eager_where", 20, 4), ("sdpa", 20, 4), ("attention_4d", 23, 4),
    ("attention_3d", 24, 4), ("eager_mul", 20, 2), ("sdpa", 20, 1), ("attention_4d", 24, 2), ("attention_3d", 23, 2),
    ("mha", 20, 4), ("mha_bias", 20, 4), ("mha_attention_bias", 20, 4), ("contrib_attention", 20, 4),
]  # fmt: skip


@pytest.mark.parametrize(("attention", "opset", "kv_heads"), SPELLINGS)
def test_heads_sizes_and_scale(attention: str, opset: int, kv_heads: int) -> None:
    spec = EncoderSpec(attention, opset=opset, kv_heads=kv_heads, layers=2)
    found = _understood(build_encoder(spec))
    assert not found.unknown_sites
    assert [(s.num_heads, s.kv_num_heads, s.head_size, s.value_head_size) for s in found.sites] == [
        (4, kv_heads, 8, 8)
    ] * 2
    for site in found.sites:
        assert site.scale == pytest.approx(1 / math.sqrt(8))
        assert len(site.masks) == 1
        assert not site.causal
        assert not site.unsupported


@pytest.mark.parametrize("attention", ["eager_mul", "sdpa"])
def test_layers_share_one_mask_value(attention: str) -> None:
    found = _understood(build_encoder(EncoderSpec(attention, layers=3)))
    assert len({site.masks[0].value for site in found.sites}) == 1


def test_the_ops_own_causality() -> None:
    found = _understood(build_encoder(EncoderSpec("attention_4d_causal", opset=23)))
    assert all(site.causal for site in found.sites)


def _attention(
    g: Attended,
    *,
    scores: Callable[[ir.Value], ir.Value] = lambda s: s,
    weights: Callable[[ir.Value], ir.Value] = lambda w: w,
    axis: int = -1,
    value: Callable[[ir.Value], ir.Value] = lambda v: v,
    scale: float = 0.35,
) -> ir.Value:
    """Attention on top of the first, with a twist."""
    heads, op = g.heads(g.x), g.op
    product = op.Mul(op.MatMul(heads, op.Transpose(heads, perm=[0, 1, 3, 2])), g.number(scale))
    probabilities = op.Softmax(op.Add(scores(product), g.additive()), axis=axis)
    return op.MatMul(weights(probabilities), value(heads))


def test_scales_of_both_operands_and_the_scores_multiply() -> None:
    def build(g: Attended) -> ir.Value:
        op, heads = g.op, g.heads(g.x)
        query, key = op.Mul(heads, g.number(0.5)), op.Div(op.Transpose(heads, perm=[0, 1, 3, 2]), g.number(4.0))
        scores = op.Mul(g.number(3.0), op.MatMul(query, key))
        return op.MatMul(op.Softmax(op.Add(g.additive(), scores), axis=-1), heads)

    site = _sites_of(build).sites[-1]
    assert site.scale == pytest.approx(0.5 / 4 * 3)
    assert len(site.masks) == 1


def test_several_masks_all_apply() -> None:
    def second(g: Attended) -> ir.Value:
        return g.op.Where(g.op.Unsqueeze(g.keep, g.ints([1, 2])), g.number(0.0), g.number(-1e4))

    site = _sites_of(lambda g: _attention(g, scores=lambda s: g.op.Add(s, second(g)))).sites[-1]
    assert len(site.masks) == 2


def test_value_heads_may_have_another_size() -> None:
    def narrow(g: Attended) -> ir.Value:
        return _attention(g, value=lambda v: g.op.Slice(v, g.ints([0]), g.ints([4]), g.ints([3])))

    site = _sites_of(narrow).sites[-1]
    assert (site.head_size, site.value_head_size) == (HEAD_SIZE, 4)


def _interleaved(g: Attended) -> ir.Value:
    """Repeats heads as 0 1 0 1 …, not as 0 0 1 1 …: another meaning than grouped-query attention."""
    heads, op = g.heads(g.x), g.op
    shape = op.Concat(op.Shape(g.x, start=0, end=1), g.ints([2, 2]), op.Shape(g.x, start=1, end=2), g.ints([8]), axis=0)
    wide = op.Expand(op.Unsqueeze(heads, g.ints([1])), shape)
    target = op.Concat(op.Shape(g.x, start=0, end=1), g.ints([4]), op.Shape(g.x, start=1, end=2), g.ints([8]), axis=0)
    whole = op.Reshape(wide, target)
    scores = op.MatMul(whole, op.Transpose(whole, perm=[0, 1, 3, 2]))
    return op.MatMul(op.Softmax(op.Add(scores, g.additive()), axis=-1), whole)


def test_interleaved_repeats_stay_repeated() -> None:
    site = _sites_of(_interleaved).sites[-1]
    assert (site.num_heads, site.kv_num_heads) == (4, 4)


def _three_dimensional(g: Attended) -> ir.Value:
    scores = g.op.MatMul(g.x, g.op.Transpose(g.x, perm=[0, 2, 1]))
    return g.op.MatMul(g.op.Softmax(scores, axis=-1), g.x)


def _shared_weights(g: Attended) -> ir.Value:
    kept: list[ir.Value] = []

    def remember(weights: ir.Value) -> ir.Value:
        kept.append(weights)
        return weights

    result = _attention(g, weights=remember)
    return g.op.Add(result, g.reduce("ReduceSum", kept[0], [-1], keepdims=True))


def _einsum(g: Attended) -> ir.Value:
    heads, op = g.heads(g.x), g.op
    scores = op.MatMul(heads, op.Transpose(heads, perm=[0, 1, 3, 2]))
    return op.Einsum(op.Softmax(scores, axis=-1), heads, equation="bnqk,bnkh->bnqh")


def _scaled_after_mask(factor: float) -> Build:
    def build(g: Attended) -> ir.Value:
        heads, op = g.heads(g.x), g.op
        scores = op.Add(op.MatMul(heads, op.Transpose(heads, perm=[0, 1, 3, 2])), g.additive())
        return op.MatMul(op.Softmax(op.Mul(scores, g.number(factor)), axis=-1), heads)

    return build


def _capped_after_mask(g: Attended) -> ir.Value:
    """The cap brings hidden keys back to -5."""
    heads, op = g.heads(g.x), g.op
    keep = op.Unsqueeze(g.keep, g.ints([1, 2]))
    scores = op.Where(keep, op.MatMul(heads, op.Transpose(heads, perm=[0, 1, 3, 2])), g.number(-1e9))
    return op.MatMul(op.Softmax(op.Mul(op.Tanh(scores), g.number(5.0)), axis=-1), heads)


def test_a_usual_scale_after_the_mask() -> None:
    assert _sites_of(_scaled_after_mask(0.125)).sites[-1].scale == 0.125


UNKNOWN: dict[str, tuple[Build, str]] = {
    "weights used twice": (_shared_weights, "used for something else"),
    "masks undone by a small factor": (_scaled_after_mask(1e-4), "multiplied by 0.0001 after the mask"),
    "masks turned round": (_scaled_after_mask(-1.0), "multiplied by -1 after the mask"),
    "masks undone by a cap": (_capped_after_mask, "scores pass through Where"),
    "no scores at all": (lambda g: _attention(g, scale=0.0), "multiplied by zero"),
    "weights changed": (
        lambda g: _attention(g, weights=lambda w: g.op.Mul(w, g.number(2.0))), "weights pass through Mul"),
    "Einsum": (_einsum, "Einsum"),
    "another axis": (lambda g: _attention(g, axis=2), "Softmax works along axis 2"),
    "scores through another op": (lambda g: _attention(g, scores=g.op.Sigmoid), "scores pass through"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(UNKNOWN))
def test_other_forms_are_named_with_a_reason(case: str) -> None:
    build, reason = UNKNOWN[case]
    found = _sites_of(build)
    assert [site for site in found.unknown_sites if reason in site.reason], found.unknown_sites
    assert len(found.unknown_sites) == 1


def test_capped_scores() -> None:
    """30 * tanh(0.35 * product) caps 10.5 * product at 30."""
    found = _sites_of(lambda g: _attention(g, scores=lambda s: g.op.Mul(g.op.Tanh(s), g.number(30.0))))
    assert (found.sites[-1].softcap, found.sites[-1].scale) == pytest.approx((30.0, 10.5))


def test_a_softmax_without_values_is_no_attention() -> None:
    found = _sites_of(lambda g: g.op.Softmax(g.op.MatMul(g.y, g.weight(WIDTH, 5)), axis=-1))
    assert len(found.sites) == 1
    assert not found.unknown_sites


def test_heads_first_is_another_layout() -> None:
    """[N, B, S, H] of a static batch: the batch must not be taken for heads."""
    graph = GraphWriter()
    x = graph.input("inputs_embeds", [3, 5, WIDTH], ir.DataType.FLOAT)
    graph.input("attention_mask", [3, 5])
    op = graph.op
    heads = op.Transpose(op.Reshape(x, graph.ints([3, 5, 2, 8])), perm=[2, 0, 1, 3])
    scores = op.MatMul(heads, op.Transpose(heads, perm=[0, 1, 3, 2]))
    found = _understood(graph.model({"result": op.MatMul(op.Softmax(scores, axis=-1), heads)}))
    assert "begin with the batch axis" in (found.sites[0].unpackable or "")


def test_three_dimensions_are_one_head() -> None:
    site = _sites_of(_three_dimensional).sites[-1]
    assert "have ranks 3, 3, 3, not 4" in (site.unpackable or "")
    assert (site.num_heads, site.query.layout) == (1, ONE_HEAD)


def _contrib(op_type: str, outputs: int = 1, **attributes: object) -> Build:
    def build(g: Attended) -> ir.Value:
        past = g.input("past", ["batch", 2, "old", 8], ir.DataType.FLOAT)
        inputs = [g.y, g.y, g.y, None, None, None, past, past][: 8 if op_type == "MultiHeadAttention" else 3]
        return g.contrib(op_type, inputs, outputs, num_heads=2, **attributes)[0]

    return build


def test_a_cache_is_what_no_kernel_serves() -> None:
    found = _sites_of(_contrib("MultiHeadAttention", 3))
    assert any("past_key" in reason for reason in found.sites[-1].unsupported)


def test_fused_ops_that_are_not_read_are_listed() -> None:
    found = _sites_of(_contrib("DecoderMaskedMultiHeadAttention", 3))
    assert "decoding step" in found.unknown_sites[0].reason


def test_scores_as_output_of_onnx_attention_are_what_no_kernel_serves() -> None:
    graph = Attended(23)
    heads = graph.heads(graph.x)
    values = graph.op.op_multi_out("Attention", [heads, heads, heads], {"qk_matmul_output_mode": 1}, num_outputs=4)
    found = _understood(graph.model({"result": values[0], "scores": values[3]}))
    assert any("also yields 'scores'" in text for text in found.sites[-1].unsupported)


def test_attributes_of_onnx_attention() -> None:
    graph = Attended(23)
    heads = graph.heads(graph.x)
    found = _understood(graph.model({"result": graph.op.Attention(heads, heads, heads, softcap=30.0, scale=0.5)}))
    assert (found.sites[-1].softcap, found.sites[-1].scale) == (30.0, 0.5)


def test_lengths_as_mask_are_a_mask_term() -> None:
    def build(g: Attended) -> ir.Value:
        lengths = g.op.Cast(g.reduce("ReduceSum", g.mask, [1], keepdims=False), to=ir.DataType.INT32)
        weight = g.weight(WIDTH, 3 * WIDTH)
        return g.contrib("Attention", [g.y, weight, g.weight(3 * WIDTH), lengths], num_heads=2)[0]

    assert np.size(_sites_of(build).sites[-1].masks) == 1
