"""The pipeline's contract: what is required, what is refused, what the report says; and merging of views."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_runs import assert_same_padded, padded_feed, plain_session, rewritten, run
from helpers.graph_writer import GraphWriter
from helpers.tolerances import EXACT, assert_close
from raggedrt.errors import FeatureError, InputError
from raggedrt.graph_passes.pipeline import RewriteConfig, rewrite
from raggedrt.graph_passes.views import collapse_views
from raggedrt.plugins.contract.io_roles import Role

pytestmark = pytest.mark.ort_cpu

UNPACKABLE = EncoderSpec(head="mean", layers=1)


def _no_attention() -> ir.Model:
    graph = GraphWriter()
    x = graph.input("x", ["n", 4], ir.DataType.FLOAT)
    return graph.model({"result": graph.op.Relu(x)})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"target": "abacus"}, "Unknown target 'abacus'"),
        ({"io": "square"}, "Unknown io 'square'"),
        ({"features": ("pack", "magic")}, "Unknown feature 'magic'"),
        ({"opt_inputs": ("nosuch",)}, "--opt-shapes names the input 'nosuch'"),
        ({"mask_input": "nowhere"}, "mask input 'nowhere'"),
        ({"mask_input": "last_hidden_state"}, "mask input 'last_hidden_state'"),
    ],
)
def test_a_wrong_option_is_an_input_error(config: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        rewrite(build_encoder(EncoderSpec(layers=1)), RewriteConfig(**config))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("opset", [16, 27])
def test_opsets_without_bodies_are_an_input_error(opset: int) -> None:
    model = _no_attention()
    model.graph.opset_imports[""] = opset
    with pytest.raises(InputError, match=f"opset is {opset}; opsets 17 to 26"):
        rewrite(model, RewriteConfig())


def test_a_rewritten_model_is_not_rewritten_again() -> None:
    pair = rewritten(build_encoder(EncoderSpec(layers=1)))
    with pytest.raises(InputError, match="holds raggedrt ops already"):
        rewrite(pair.model, RewriteConfig())


@pytest.mark.parametrize(
    ("features", "io", "words"),
    [
        (("pack",), "padded", "Padding could not be removed.*ReduceMean reads padded slots"),
        (("pack", "fuse"), "padded", "Padding could not be removed"),
        (("fuse",), "ragged", "Padding could not be removed"),
        ("auto", "ragged", "Padding could not be removed.*ReduceMean"),
    ],
)
def test_named_features_are_requirements(features: Any, io: str, words: str) -> None:
    with pytest.raises(FeatureError, match=words) as caught:
        rewrite(build_encoder(UNPACKABLE), RewriteConfig(features=features, io=io))
    assert caught.value.exit_code == 3
    assert str(caught.value).count("ReduceMean reads padded") <= 1, "the reason is said once"
    assert len(str(caught.value).splitlines()) == 1
    report = rewrite(build_encoder(UNPACKABLE), RewriteConfig(features=features, io=io, allow_partial=True))
    assert report.record("pack").matched == 0
    lowered = [entry.op for entry in report.attention if entry.op is not None]
    assert bool(lowered) == (features == "auto"), "without `sparse` attention is left alone where nothing is packed"


def test_sparse_is_required_beside_others() -> None:
    with pytest.raises(FeatureError, match="sparse"):
        rewrite(build_encoder(EncoderSpec(layers=1)), RewriteConfig(features=("pack", "sparse")))


def test_nothing_applies() -> None:
    with pytest.raises(FeatureError, match="no attention was found"):
        rewrite(_no_attention(), RewriteConfig())
    report = rewrite(_no_attention(), RewriteConfig(allow_partial=True))
    assert report.attention == []
    assert report.inputs[0].role is Role.OTHER


def test_auto_takes_what_applies() -> None:
    pair = rewritten(build_encoder(UNPACKABLE))
    assert "BiasGelu" in pair.ops
    assert any("ReduceMean" in refusal.node for refusal in pair.report.refusals)


def test_a_model_without_mask_input_is_refused() -> None:
    spec = EncoderSpec(mask="none", layers=1)
    model = build_encoder(spec)
    model.graph.inputs.pop(1)
    with pytest.raises(FeatureError, match="Padding could not be removed"):
        rewrite(model, RewriteConfig(features=("pack",)))


def test_the_mask_may_have_any_name() -> None:
    spec = EncoderSpec(head="two", names=("input_ids", "valid"))
    with pytest.raises(FeatureError):
        rewrite(build_encoder(spec), RewriteConfig(features=("pack",)))
    pair = rewritten(build_encoder(spec), features=("pack",), mask_input="valid")
    assert_same_padded(pair, padded_feed(spec), per_sequence=("pooled",))


def test_the_report_is_json_with_every_documented_field() -> None:
    pair = rewritten(build_encoder(EncoderSpec(head="two", kv_heads=2)))
    document = json.loads(json.dumps(pair.report.to_json()))
    assert {"passes", "attention", "refusals", "nodes_before", "nodes_after", "inputs", "outputs"} <= set(document)
    assert [record["name"] for record in document["passes"]][:2] == ["leave_out_empty_caches", "clean"]
    assert document["nodes_before"] == len(pair.original.graph.node)
    assert document["nodes_after"] == len(pair.ops)
    entry = document["attention"][0]
    assert (entry["heads"], entry["kv_heads"], entry["head_size"], entry["dtype"]) == (4, 2, 8, "float32")
    assert (entry["mask"], entry["density"], entry["op"]) == ("key is not padding", 1.0, "RaggedAttention")
    assert entry["reason"] is None
    assert document["position_limit"] == 16
    assert [(role["name"], role["role"], role["dtype"]) for role in document["outputs"]] == [
        ("last_hidden_state", "per_token", "float32"), ("pooled", "per_sequence", "float32"),
    ]  # fmt: skip


def test_the_density_of_a_causal_mask() -> None:
    spec = EncoderSpec(mask="causal_padding", layers=1)
    entry = rewritten(build_encoder(spec), opt_length=128).report.attention[0]
    assert (entry.density, entry.density_at) == (129 / 256, 128)


def test_node_counts_are_in_the_metadata_and_every_op_has_a_body() -> None:
    pair = rewritten(build_encoder(EncoderSpec(head="two")))
    ours = [node.op_type for node in pair.model.graph if node.domain == "raggedrt"]
    assert json.loads(pair.model.metadata_props["raggedrt.ops"]) == {name: ours.count(name) for name in set(ours)}
    assert {key[1] for key in pair.model.functions} == set(ours)
    onnx.checker.check_model(onnx.load_from_string(ir.to_proto(pair.model).SerializeToString()))


@pytest.mark.parametrize("io", ["padded", "ragged"])
def test_nothing_of_the_padded_network_is_left(io: str) -> None:
    """Only shape arithmetic and the plan see padded tensors; value names and node names differ from each other."""
    pair = rewritten(build_encoder(EncoderSpec(layers=2)), features=("pack",), io=io)
    assert pair.ops.count("UnpackTokens") == (1 if io == "padded" else 0)
    assert pair.ops.count("MatMul") == 6 * 2
    names = [node.name for node in pair.model.graph]
    assert len(set(names)) == len(names)
    for node in pair.model.graph:
        assert any(value.uses() or value.is_graph_output() for value in node.outputs), node.name


CHAINS: dict[str, tuple[Any, int]] = {
    "transposes that cancel": (lambda g, x: g.op.Transpose(g.op.Transpose(x, perm=[1, 2, 0]), perm=[2, 0, 1]), 2),
    "transposes that combine": (lambda g, x: g.op.Transpose(g.op.Transpose(x, perm=[1, 0, 2]), perm=[0, 2, 1]), 1),
    "default permutations": (lambda g, x: g.op.Transpose(g.op.Transpose(x)), 2),
    "reshapes": (lambda g, x: g.op.Reshape(g.op.Reshape(x, g.ints([-1, 2])), g.ints([4, -1, 3])), 1),
    "a reshape that copies": (lambda g, x: g.op.Reshape(g.op.Reshape(x, g.ints([6, 4])), g.ints([0, 2, 2])), 0),
    "a reshape to its own shape": (lambda g, x: g.op.Reshape(x, g.ints([2, 3, 4])), 1),
}


@pytest.mark.parametrize("case", list(CHAINS))
def test_views_collapse_without_changing_values(case: str) -> None:
    build, gone = CHAINS[case]
    graph = GraphWriter()
    x = graph.input("x", [2, 3, 4], ir.DataType.FLOAT)
    model = graph.model({"result": graph.op.Relu(build(graph, graph.op.Neg(x)))})
    before = plain_session(ir.to_proto(model))
    assert collapse_views(model) == gone
    feed = {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4)}
    want, got = run(before, feed), run(plain_session(ir.to_proto(model)), feed)
    assert_close(got["result"], want["result"], EXACT)
