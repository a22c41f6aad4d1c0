"""Plans of attention: one per distinct mask, only where the target uses them, and no value changes."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_runs import assert_same_padded, padded_feed, rewritten
from raggedrt.graph_passes.attention_plans import plan_attention
from raggedrt.plugins.contract.abi import Feature
from raggedrt.plugins.contract.op_definition import DOMAIN
from raggedrt.plugins.node import definition_of, make_node

pytestmark = pytest.mark.ort_cpu

PLACE = definition_of("RaggedAttention").input_index("work_list")


def attentions(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in graph if node.op_type == "RaggedAttention"]


def plans(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in graph if node.op_type == "AttentionPlan"]


@pytest.mark.parametrize("io", ["padded", "ragged"])
@pytest.mark.parametrize("mask", ["padding", "causal_padding", "window", "globals"])
def test_all_layers_share_one_plan(mask: str, io: str) -> None:
    pair = rewritten(build_encoder(EncoderSpec(mask=mask, layers=3)), target="ort-cuda", io=io)
    (plan,) = plans(pair.model.graph)
    layers = attentions(pair.model.graph)
    assert len(layers) == 3
    for node in layers:
        assert node.inputs[PLACE] is plan.outputs[0]
        assert Feature.WORK_LIST in Feature(node.attributes["features"].as_int())
        for name in ("causal", "window_left", "window_right", "global_tokens"):
            assert (name in plan.attributes) == (name in node.attributes)
    names = [node.name for node in pair.model.graph]
    assert names.index(plan.name) == names.index(layers[0].name) - 1
    assert next(step.matched for step in pair.report.passes if step.name == "plan_attention") == 1
    onnx.checker.check_model(ir.to_proto(pair.model))


@pytest.mark.parametrize("mask", ["padding", "window"])
def test_values_are_those_without_a_plan(mask: str) -> None:
    spec = EncoderSpec(mask=mask)
    assert_same_padded(rewritten(build_encoder(spec), target="ort-cuda"), padded_feed(spec))


def test_targets_that_need_no_plan_get_none() -> None:
    pair = rewritten(build_encoder(EncoderSpec()), target="ort-cpu")
    assert not plans(pair.model.graph)
    assert "plan_attention" not in [step.name for step in pair.report.passes]


def two_masks() -> ir.Graph:
    """Layers of two masks in turn, and one of other lengths."""
    cu, other = (ir.val(name, ir.DataType.INT32, ["batch + 1"]) for name in ("cu", "other_cu"))
    carrier = ir.val("carrier", ir.DataType.FLOAT, ["seq"])
    tokens = ir.val("x", ir.DataType.FLOAT, ["tokens", 8])
    nodes: list[ir.Node] = []
    value = tokens
    for index, (bounds, window) in enumerate([(cu, -1), (cu, 4), (cu, -1), (cu, 4), (other, 4)]):
        inputs = {
            "query": value, "key": value, "value": value, "cu_seqlens_q": bounds, "cu_seqlens_k": bounds,
            "max_seqlen_q": carrier, "max_seqlen_k": carrier,
        }  # fmt: skip
        node = make_node("RaggedAttention", inputs, {"num_heads": 1, "window_left": window}, name=f"layer_{index}")
        nodes.append(node)
        value = node.outputs[0]
    graph_inputs = [tokens, cu, other, carrier]
    return ir.Graph(graph_inputs, [value], nodes=nodes, opset_imports={"": 20, DOMAIN: 1}, name="two_masks")


def test_each_distinct_mask_has_a_plan_of_its_own() -> None:
    graph = two_masks()
    assert plan_attention(graph) == 3
    lists = [node.inputs[PLACE] for node in attentions(graph)]
    assert lists[0] is lists[2]
    assert lists[1] is lists[3]
    assert len({id(value) for value in lists}) == 3
    order = [node.op_type for node in graph]
    assert order == ["AttentionPlan", "RaggedAttention"] * 2 + ["RaggedAttention"] * 2 + [
        "AttentionPlan",
        "RaggedAttention",
    ]
    assert [plan.attributes.get_int("window_left", -1) for plan in plans(graph)] == [-1, 4, 4]


def test_what_is_not_attention_is_left_alone() -> None:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 20}, name="empty")
    assert plan_attention(graph) == 0
