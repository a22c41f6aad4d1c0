"""Fusions for ONNX Runtime: how often they match, the same values, and where they must not apply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_runs import FP32, assert_same_padded, padded_feed, plain_session, rewritten, run
from helpers.graph_writer import GraphWriter
from helpers.tolerances import assert_close
from raggedrt.graph_passes.fuse.ort_cpu import CPU_RULES, CUDA_RULES, fuse

pytestmark = pytest.mark.ort_cpu

WIDTH = 6
EVERY_RULE = tuple(dict((*CPU_RULES, *CUDA_RULES)).items())
Build = Callable[[GraphWriter, ir.Value, ir.Value], dict[str, ir.Value]]


def _model(build: Build, dims: list[Any], dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Model:
    graph = GraphWriter(dtype=dtype)
    x, skip = graph.input("x", dims, dtype), graph.input("skip", dims, dtype)
    return graph.model(build(graph, x, skip))


def _norm(g: GraphWriter, total: ir.Value, size: int = WIDTH, **attributes: Any) -> ir.Value:
    return g.op.LayerNormalization(total, g.weight(size, offset=1.0), g.weight(size), **({"axis": -1} | attributes))


def _plain(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    return {"result": _norm(g, g.op.Add(x, skip))}


def _biased(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    return {"result": _norm(g, g.op.Add(g.op.Add(x, g.weight(WIDTH)), skip), epsilon=1e-3)}


def _skip_first(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    return {"result": _norm(g, g.op.Add(skip, g.op.Add(x, g.weight(WIDTH))))}


def _sum_used(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    total = g.op.Add(x, skip)
    return {"result": _norm(g, total), "total": g.op.Relu(total)}


def _sum_is_output(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    total = g.op.Add(x, skip)
    return {"result": _norm(g, total), "total": total}


def _broadcast_skip(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    return {"result": _norm(g, g.op.Add(x, g.weight(1, WIDTH)))}


def _bias_of_one(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    return {"result": _norm(g, g.op.Add(g.op.Add(x, g.weight(1)), skip))}


def _scale_of_one(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    return {"result": _norm(g, g.op.Add(x, skip), 1)}


def _two_axes(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    total = g.op.Add(x, skip)
    return {"result": g.op.LayerNormalization(total, g.weight(4, WIDTH), g.weight(4, WIDTH), axis=-2)}


def _statistics_used(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    inputs = [g.op.Add(x, skip), g.weight(WIDTH), g.weight(WIDTH)]
    result, mean, _ = g.op.op_multi_out("LayerNormalization", inputs, {"axis": -1}, num_outputs=3)
    return {"result": result, "mean": mean}


def _gelu(g: GraphWriter, x: ir.Value, bias: ir.Value | None) -> ir.Value:
    value = x if bias is None else g.op.Add(x, bias)
    inner = g.op.Add(g.op.Erf(g.op.Div(value, g.number(2**0.5))), g.number(1.0))
    return g.op.Mul(g.number(0.5), g.op.Mul(value, inner))


def _bias_gelu(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    return {"result": _gelu(g, x, g.weight(WIDTH))}


def _gelu_of_a_sum(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    return {"result": _gelu(g, x, skip)}


def _gelu_of_a_row(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    return {"result": _gelu(g, x, g.weight(1, WIDTH))}


def _gelu_of_one(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    return {"result": _gelu(g, x, g.weight(1))}


def _tanh_gelu(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    return {"result": g.op.Gelu(g.op.Add(x, g.weight(WIDTH)), approximate="tanh")}


def _tanh_formula(half_first: bool, bias: bool) -> Build:
    def build(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
        value = g.op.Add(x, g.weight(WIDTH)) if bias else x
        cube = g.op.Mul(g.op.Pow(value, g.number(3.0)), g.number(0.044715))
        sides = g.op.Add(g.op.Tanh(g.op.Mul(g.op.Add(value, cube), g.number((2 / np.pi) ** 0.5))), g.number(1.0))
        if half_first:
            return {"result": g.op.Mul(g.op.Mul(value, g.number(0.5)), sides)}
        return {"result": g.op.Mul(value, g.op.Mul(g.number(0.5), sides))}

    return build


def _another_formula(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    """Another constant: no Gelu."""
    cube = g.op.Mul(g.op.Pow(x, g.number(3.0)), g.number(0.05))
    sides = g.op.Add(g.op.Tanh(g.op.Mul(g.op.Add(x, cube), g.number((2 / np.pi) ** 0.5))), g.number(1.0))
    return {"result": g.op.Mul(g.op.Mul(x, g.number(0.5)), sides)}


def _opset_gelu(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    return {"result": g.op.Gelu(g.op.Add(x, g.weight(WIDTH)))}


SKIP = "SkipLayerNormalization"
MATCHES: dict[str, tuple[Build, str]] = {
    function.__name__: (function, op_type)
    for function, op_type in (
        (_plain, SKIP), (_biased, SKIP), (_skip_first, SKIP), (_sum_used, SKIP), (_bias_gelu, "BiasGelu"),
    )
}  # fmt: skip
LEFT = [
    _broadcast_skip, _bias_of_one, _scale_of_one, _two_axes, _gelu_of_a_sum, _gelu_of_a_row, _gelu_of_one, _tanh_gelu,
    _opset_gelu, _statistics_used, _sum_is_output,
]  # fmt: skip


def _compare(model: ir.Model) -> set[str]:
    """Fuse and compare; returns the op types afterwards."""
    before = plain_session(ir.to_proto(model))
    fuse(model, EVERY_RULE)
    random = np.random.default_rng(0)
    shape = [dim if isinstance(dim, int) else 4 for dim in model.graph.inputs[0].shape or ()]
    feed = {name: random.normal(size=shape).astype(np.float32) for name in ("x", "skip")}
    got = run(plain_session(ir.to_proto(model)), feed)
    for name, want in run(before, feed).items():
        assert_close(got[name], want, FP32, name)
    return {node.op_type for node in model.graph}


@pytest.mark.parametrize("dims", [["tokens", WIDTH], ["batch", "seq", WIDTH]])
@pytest.mark.parametrize("case", list(MATCHES))
def test_fused_values_are_the_same(case: str, dims: list[Any]) -> None:
    build, op_type = MATCHES[case]
    assert op_type in _compare(_model(build, dims))


FAST = {
    "op": _tanh_gelu,
    **{
        f"formula, half {'first' if first else 'later'}{', bias' if bias else ''}": _tanh_formula(first, bias)
        for first in (True, False)
        for bias in (True, False)
    },
}


@pytest.mark.parametrize("case", list(FAST))
def test_gelu_by_tanh(case: str) -> None:
    model = _model(FAST[case], ["tokens", WIDTH])
    assert _compare(model) == {"FastGelu"}, "the bias is part of it"


def test_what_looks_like_gelu_by_tanh_is_left_alone() -> None:
    assert "FastGelu" not in _compare(_model(_another_formula, ["tokens", WIDTH]))
    assert fuse(_model(_tanh_gelu, ["tokens", WIDTH], ir.DataType.FLOAT16))["fast_gelu"] == 0


def test_the_slow_kernel_of_the_cpu_is_not_used() -> None:
    assert "skip_layer_normalization" not in dict(CPU_RULES)
    assert SKIP not in rewritten(build_encoder(EncoderSpec(head="two")), features=("pack", "fuse")).ops
    assert SKIP in rewritten(build_encoder(EncoderSpec(head="two")), target="ort-cuda").ops


@pytest.mark.parametrize("build", LEFT)
def test_neighbours_of_the_patterns_keep_their_values(build: Build) -> None:
    """Fused or not, the kernel must accept what it is given."""
    _compare(_model(build, [4, WIDTH]))


@pytest.mark.parametrize("build", [_broadcast_skip, _bias_of_one, _scale_of_one, _two_axes])
def test_broadcast_operands_are_not_fused_into_skip_normalization(build: Build) -> None:
    model = _model(build, [4, WIDTH])
    counts = fuse(model, EVERY_RULE)
    assert counts["skip_layer_normalization"] == int(build is _bias_of_one), counts


def test_half_precision_is_left_alone() -> None:
    model = _model(_plain, ["tokens", WIDTH], ir.DataType.FLOAT16)
    assert fuse(model, EVERY_RULE)["skip_layer_normalization"] == 0


def test_counts_and_numerics_of_a_packed_encoder() -> None:
    spec = EncoderSpec(head="two", layers=2)
    pair = rewritten(build_encoder(spec), features=("pack", "fuse"), target="ort-cuda")
    assert pair.ops.count(SKIP) == 2 * spec.layers + 1  # one more adds positions to words
    assert pair.ops.count("BiasGelu") == spec.layers
    assert pair.report.record("fuse").matched >= 3 * spec.layers
    assert_same_padded(pair, padded_feed(spec), per_sequence=("pooled",))


@pytest.mark.parametrize("attention", ["eager_mul", "sdpa"])
def test_half_precision_encoders_still_run(attention: str) -> None:
    spec = EncoderSpec(attention, head="two", dtype=ir.DataType.FLOAT16)
    pair = rewritten(build_encoder(spec))
    assert_same_padded(pair, padded_feed(spec), per_sequence=("pooled",))


def test_fusion_alone_keeps_padded_values() -> None:
    spec = EncoderSpec(head="mean")
    pair = rewritten(build_encoder(spec), features=("fuse",))
    assert "RaggedAttention" not in pair.ops
    feed = padded_feed(spec)
    want, got = run(plain_session(pair.original), feed), run(plain_session(ir.to_proto(pair.model)), feed)
    assert_close(got["pooled"], want["pooled"], FP32)


def _read_between(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    """Something else reads the sum before it is normalised."""
    total = g.op.Add(x, skip)
    other = g.op.Tanh(total)
    return {"result": _norm(g, total), "other": other}


def _gamma_like_the_sum(g: GraphWriter, x: ir.Value, skip: ir.Value) -> dict[str, ir.Value]:
    """Onnxscript functions cast their weights to the type of what they normalise."""
    total = g.op.Add(x, skip)
    gamma, beta = (g.op.CastLike(g.weight(WIDTH, offset=1.0), total) for _ in range(2))
    return {"result": g.op.LayerNormalization(total, gamma, beta, axis=-1)}


@pytest.mark.parametrize(("build", "fused"), [(_read_between, 1), (_gamma_like_the_sum, 0)])
def test_a_fused_node_stands_before_its_readers(build: Build, fused: int) -> None:
    model = _model(build, ["n", "s", WIDTH])
    before = ir.to_proto(model)
    rng = np.random.default_rng(0)
    feed = {name: rng.standard_normal((2, 3, WIDTH)).astype(np.float32) for name in ("x", "skip")}
    expected = run(plain_session(before), feed)
    assert fuse(model, EVERY_RULE)["skip_layer_normalization"] == fused
    for name, got in run(plain_session(ir.to_proto(model)), feed).items():
        assert_close(got, expected[name], FP32, name)
