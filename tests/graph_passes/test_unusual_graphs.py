"""Graphs that exporters and people produce now and then: odd inputs, outputs, names, subgraphs and element types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from helpers.attended import HEAD_SIZE, HEADS, WIDTH, Attended, embeddings
from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_runs import FP32, MASK, Rewritten, assert_same_padded, padded_feed, plain_session, rewritten, run
from helpers.tolerances import assert_close
from raggedrt.errors import FeatureError
from raggedrt.plugins.contract.io_roles import Role
from raggedrt.plugins.runtime.ort import ort_session

pytestmark = pytest.mark.ort_cpu

Feed = dict[str, np.ndarray[Any, Any]]
VALID = MASK != 0


def _model(build: Callable[[Attended], dict[str, ir.Value]]) -> ir.Model:
    graph = Attended()
    return graph.model(build(graph))


def _assert_equal(pair: Rewritten, feed: Feed) -> None:
    """Same outputs in the same order; per-token ones at valid places."""
    want, got = run(plain_session(pair.original), feed), run(ort_session(pair.model, native=False), feed)
    assert list(got) == list(want)
    for name, value in want.items():
        places = VALID if value.shape[:2] == VALID.shape else ...
        assert_close(got[name][places], value[places], FP32, name)


def _assert_runs_ragged(pair: Rewritten, feed: Feed) -> None:
    """One full row as a ragged batch gives that row's values of the original."""
    alone = {name: array[3:4] if array.shape[:1] == (6,) else array for name, array in feed.items()}
    want = run(plain_session(pair.original), alone)
    packed = {role.name for role in pair.report.inputs if role.role is Role.PER_TOKEN}
    ragged = {name: array[0] if name in packed else array for name, array in alone.items()}
    ragged |= {"cu_seqlens": np.array([0, 7], dtype=np.int32), "max_seqlen": np.zeros(7, dtype=np.float32)}
    got = run(ort_session(pair.model, native=False), ragged)
    assert list(got) == list(want)
    for role in pair.report.outputs:
        expected = want[role.name][0] if role.role is Role.PER_TOKEN else want[role.name]
        assert_close(got[role.name], expected, FP32, role.name)


def _unused_inputs(g: Attended) -> dict[str, ir.Value]:
    g.input("token_type_ids", ["batch", "seq"])
    g.input("extra", ["k"])
    return {"result": g.y}


def _per_sequence(g: Attended) -> dict[str, ir.Value]:
    style = g.input("style", ["batch", WIDTH], ir.DataType.FLOAT)
    return {"result": g.op.Add(g.y, g.op.Unsqueeze(style, g.ints([1])))}


def _kept_finite(g: Attended) -> dict[str, ir.Value]:
    """Scores with heads merged into the batch, apart for the mask and a floor, and merged again: XGLM and older OPT."""
    op, size = g.op, g.op.Shape(g.mask)
    row = op.Slice(size, g.ints([1]), g.ints([2]))
    merged = op.Reshape(g.heads(g.y), op.Concat(g.ints([-1]), row, g.ints([HEAD_SIZE]), axis=0))
    product = op.MatMul(merged, op.Transpose(merged, perm=[0, 2, 1]))
    apart = op.Reshape(product, op.Concat(op.Slice(size, g.ints([0]), g.ints([1])), g.ints([HEADS]), row, row, axis=0))
    scores = op.Max(op.Add(apart, g.additive()), g.number(float(np.finfo(np.float32).min)))
    weights = op.Softmax(op.Reshape(scores, op.Concat(g.ints([-1]), row, row, axis=0)), axis=-1)
    heads = op.Reshape(
        op.MatMul(weights, merged),
        op.Concat(op.Slice(size, g.ints([0]), g.ints([1])), g.ints([HEADS]), row, g.ints([HEAD_SIZE]), axis=0),
    )
    return {"result": op.Reshape(op.Transpose(heads, perm=[0, 2, 1, 3]), g.ints([0, 0, WIDTH]))}


def _scalar(g: Attended) -> dict[str, ir.Value]:
    return {"result": g.op.Mul(g.y, g.input("temperature", [], ir.DataType.FLOAT))}


def _several(g: Attended) -> dict[str, ir.Value]:
    """An output that others read, one value under two names, copies of inputs."""
    outputs = {"attended": g.y, "first": g.op.Identity(g.y), "second": g.op.Identity(g.y), "rest": g.op.Relu(g.y)}
    return outputs | {"embeds": g.op.Identity(g.x), "mask": g.op.Identity(g.mask)}


def _feed(**extra: Any) -> Feed:
    return embeddings() | {name: np.asarray(value) for name, value in extra.items()}


_STYLE = np.random.default_rng(3).normal(size=(6, WIDTH)).astype(np.float32)
CASES: dict[str, tuple[Callable[[Attended], dict[str, ir.Value]], Feed]] = {
    "unused inputs": (_unused_inputs, _feed(token_type_ids=np.zeros((6, 7), dtype=np.int64), extra=np.arange(3))),
    "an input per sequence": (_per_sequence, _feed(style=_STYLE)),
    "a scalar input": (_scalar, _feed(temperature=np.float32(0.5))),
    "outputs read by others, twice, and copies of inputs": (_several, _feed()),
    "scores that are kept finite": (_kept_finite, _feed()),
}


@pytest.mark.parametrize("case", list(CASES))
def test_inputs_and_outputs_padded(case: str) -> None:
    build, feed = CASES[case]
    _assert_equal(rewritten(_model(build), features=("pack",)), feed)


@pytest.mark.parametrize("case", list(CASES))
def test_inputs_and_outputs_ragged(case: str) -> None:
    build, feed = CASES[case]
    _assert_runs_ragged(rewritten(_model(build), features=("pack",), io="ragged"), feed)


@pytest.mark.parametrize("name", ["inputs_embeds", "attention_mask"])
def test_an_input_that_is_an_output(name: str) -> None:
    def build(g: Attended) -> dict[str, ir.Value]:
        return {name: g.x if name == "inputs_embeds" else g.mask, "result": g.y}

    _assert_equal(rewritten(_model(build), features=("pack",)), embeddings())
    with pytest.raises(FeatureError, match=f"'{name}': it is input and output at once"):
        rewritten(_model(build), features=("pack",), io="ragged")


def test_an_initializer_that_is_an_input() -> None:
    model = _model(lambda g: {"result": g.op.Add(g.y, g.weight(WIDTH))})
    model.graph.inputs.append(list(model.graph.initializers.values())[-1])
    _assert_equal(rewritten(model, features=("pack",)), embeddings())


def _branch(op_type: str, source: ir.Value) -> ir.Graph:
    node = ir.node(op_type, [source])
    node.outputs[0].name, node.outputs[0].type = f"{op_type}_result", source.type
    return ir.Graph([], [node.outputs[0]], nodes=[node], name=op_type, opset_imports={"": 20})


def _with_if(captured: str) -> Callable[[Attended], dict[str, ir.Value]]:
    def build(g: Attended) -> dict[str, ir.Value]:
        source = {"attended": g.y, "embeds": g.x, "mask": g.mask}[captured]
        branches = [
            ir.AttrGraph(name, _branch(op_type, source))
            for name, op_type in (("then_branch", "Identity"), ("else_branch", "Neg"))
        ]
        node = ir.Node("", "If", [g.input("flag", [], ir.DataType.BOOL)], attributes=branches, num_outputs=1)
        node.outputs[0].type = source.type
        g.op._nodes.append(node)  # the tape makes no nodes with subgraphs
        return {"result": g.op.Relu(g.y), "chosen": node.outputs[0]}

    return build


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("captured", ["attended", "embeds", "mask"])
def test_subgraphs_that_read_the_graph_around_them(captured: str, flag: bool) -> None:
    _assert_equal(rewritten(_model(_with_if(captured)), features=("pack",)), _feed(flag=flag))


@pytest.mark.parametrize("captured", ["attended", "embeds"])
def test_ragged_inputs_have_no_padded_form_for_subgraphs(captured: str) -> None:
    with pytest.raises(FeatureError, match="its subgraph reads"):
        rewritten(_model(_with_if(captured)), features=("pack",), io="ragged")


@pytest.mark.parametrize(
    ("ids", "mask"),
    [
        (["b1", "s1"], ["b2", "s2"]),
        ([None, None], [None, None]),
        (["N", "N"], ["N", "N"]),
        (["batch", 7], ["batch", 7]),
        (["input_ids:0", "x"], ["input_ids:0", "x"]),
    ],
)
def test_dimension_names_of_every_kind(ids: list[Any], mask: list[Any]) -> None:
    spec = EncoderSpec(head="two")
    model = build_encoder(spec)
    model.graph.inputs[0].shape, model.graph.inputs[1].shape = ir.Shape(ids), ir.Shape(mask)
    pair = rewritten(model, features=("pack",))
    assert_same_padded(pair, padded_feed(spec), per_sequence=("pooled",))


def test_unnamed_dimensions_are_no_sign_of_tokens() -> None:
    def build(g: Attended) -> dict[str, ir.Value]:
        g.x.shape, g.mask.shape = ir.Shape([None, None, WIDTH]), ir.Shape([None, None])
        return {"result": g.op.Add(g.y, g.input("style", [None, None, None], ir.DataType.FLOAT))}

    with pytest.raises(FeatureError, match="Add"):
        rewritten(_model(build), features=("pack",))


def _mixed_types(g: Attended, value_type: ir.DataType) -> dict[str, ir.Value]:
    """float16 scores, float32 softmax; values in either type."""
    op, half = g.op, g.heads(g.op.Cast(g.x, to=ir.DataType.FLOAT16))
    product = op.MatMul(half, op.Transpose(half, perm=[0, 1, 3, 2]))
    scores = op.Cast(op.Mul(product, g.constant(0.3, np.float16)), to=ir.DataType.FLOAT)
    weights = op.Cast(op.Softmax(op.Add(scores, g.additive()), axis=-1), to=value_type)
    value = half if value_type is ir.DataType.FLOAT16 else g.heads(g.x)
    return {"result": op.Transpose(op.MatMul(weights, value), perm=[0, 2, 1, 3])}


def test_softmax_of_half_precision_scores_in_single_precision() -> None:
    pair = rewritten(_model(lambda g: _mixed_types(g, ir.DataType.FLOAT16)), features=("pack",))
    assert_same_padded(pair, embeddings())


def test_operands_of_different_types_are_refused() -> None:
    with pytest.raises(FeatureError, match="element types FLOAT16, FLOAT16, FLOAT"):
        rewritten(_model(lambda g: _mixed_types(g, ir.DataType.FLOAT)), features=("pack",))


def _saved_by_onnxruntime(spec: EncoderSpec, level: str, folder: Path) -> ir.Model:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(ir.to_proto(build_encoder(spec)).SerializeToString(), options)
    return ir.load(folder / "optimized.onnx")


@pytest.mark.parametrize("attention", ["eager_mul", "sdpa", "mha_bias"])
def test_graphs_that_onnxruntime_saved(attention: str, tmp_path: Path) -> None:
    spec = EncoderSpec(attention, head="two")
    pair = rewritten(_saved_by_onnxruntime(spec, "ORT_ENABLE_BASIC", tmp_path), features=("pack",))
    assert pair.ops.count("RaggedAttention") == spec.layers
    assert_same_padded(pair, padded_feed(spec), per_sequence=("pooled",))


def test_graphs_that_onnxruntime_fused(tmp_path: Path) -> None:
    """Its contrib ops have transfer rules; its fused product of queries and keys is taken apart."""
    spec = EncoderSpec("mha_bias", head="two")
    model = _saved_by_onnxruntime(spec, "ORT_ENABLE_EXTENDED", tmp_path)
    assert {"SkipLayerNormalization", "BiasGelu"} & {node.op_type for node in model.graph}
    pair = rewritten(model, features=("pack",))
    assert pair.ops.count("RaggedAttention") == spec.layers
    assert_same_padded(pair, padded_feed(spec), per_sequence=("pooled",))

    spec = EncoderSpec(head="two")
    model = _saved_by_onnxruntime(spec, "ORT_ENABLE_EXTENDED", tmp_path)
    assert "FusedMatMul" in {node.op_type for node in model.graph}
    pair = rewritten(model, features=("pack",))
    assert pair.ops.count("RaggedAttention") == spec.layers
    assert_same_padded(pair, padded_feed(spec), per_sequence=("pooled",))


def test_inputs_of_earlier_keys_and_values_are_refused_with_what_to_do() -> None:
    def build(g: Attended) -> dict[str, ir.Value]:
        heads = g.heads(g.x)
        past = [g.input(f"past.{number}", ["batch", 2, "past", 8], ir.DataType.FLOAT) for number in range(2)]
        keys, values = (g.op.Concat(one, heads, axis=2) for one in past)
        weights = g.op.Softmax(g.op.MatMul(heads, g.op.Transpose(keys, perm=[0, 1, 3, 2])), axis=-1)
        mixed = g.op.Transpose(g.op.MatMul(weights, values), perm=[0, 2, 1, 3])
        return {"result": g.op.Reshape(mixed, g.ints([0, 0, WIDTH]))}

    class Decoder(Attended):
        def attend(self, x: ir.Value) -> ir.Value:
            return x

    graph = Decoder()
    with pytest.raises(FeatureError, match=r"keys and values of earlier calls \(past.0, past.1\).*use_cache=False"):
        rewritten(graph.model(build(graph)), features=("pack",))


def test_an_upper_bound_alone_is_no_floor() -> None:
    """`min(s, -1e30)` leaves nothing of the scores."""
    g = Attended()
    op, parts = g.op, g.heads(g.y)
    scores = op.Add(op.MatMul(parts, op.Transpose(parts, perm=[0, 1, 3, 2])), g.additive())
    weights = op.Softmax(op.op("Clip", [scores, None, g.number(-1e30)]), axis=-1)
    pair = rewritten(g.model({"result": op.MatMul(weights, parts)}))
    assert [entry.op for entry in pair.report.attention].count("RaggedAttention") == 1
