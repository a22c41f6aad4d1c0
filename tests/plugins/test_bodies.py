"""Attaching bodies: which functions a model gets, under which names, and when it is refused."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
import pytest

from raggedrt.errors import RaggedRTError
from raggedrt.plugins.bodies import attach_function_bodies
from raggedrt.plugins.contract.op_definition import DOMAIN
from raggedrt.plugins.node import make_node

pytestmark = pytest.mark.none


def encoder(opset: int = 20, *, dtype: ir.DataType | None = ir.DataType.FLOAT, **attributes: Any) -> ir.Model:
    """mask, x -> plan, pack, two equal attentions, unpack."""
    mask = ir.val("mask", dtype=ir.DataType.INT64, shape=["batch", "seq"])
    carrier = ir.val("carrier", dtype=ir.DataType.FLOAT, shape=["seq"])
    x = ir.val("x", dtype=dtype, shape=["batch", "seq", 32])
    plan = make_node("PackingPlan", {"attention_mask": mask}, name="plan")
    index, cu_seqlens, *_ = plan.outputs
    pack = make_node("PackTokens", {"x": x, "token_index": index}, name="pack")
    nodes, hidden = [plan, pack], pack.outputs[0]
    lengths = {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens, "max_seqlen_q": carrier, "max_seqlen_k": carrier}
    for layer in range(2):
        qkv = dict.fromkeys(("query", "key", "value"), hidden)
        node = make_node("RaggedAttention", {**qkv, **lengths}, {"num_heads": 4, **attributes}, name=f"attn{layer}")
        nodes.append(node)
        hidden = node.outputs[0]
    unpack = make_node("UnpackTokens", {"packed": hidden, "token_index": index, "like": mask}, name="unpack")
    imports = {"": opset}
    graph = ir.Graph([mask, carrier, x], unpack.outputs, nodes=[*nodes, unpack], opset_imports=imports, name="encoder")
    return ir.Model(graph, ir_version=8)


def body_names(model: ir.Model) -> list[tuple[str, str]]:
    return [(name, overload) for domain, name, overload in model.functions if domain == DOMAIN]


def test_equal_nodes_share_a_body_with_a_readable_name() -> None:
    model = encoder(causal=1, scale=0.125)
    assert attach_function_bodies(model) == 4
    assert body_names(model) == [
        ("PackingPlan", ""),
        ("PackTokens", "f32"),
        ("RaggedAttention", "num_heads4_scale0.125_causal_f32"),
        ("UnpackTokens", "f32"),
    ]
    assert model.ir_version == 10
    assert model.opset_imports[DOMAIN] == 1
    onnx.checker.check_model(ir.to_proto(model))


@pytest.mark.parametrize("opset", range(17, 27))
def test_bodies_import_the_opset_of_the_model_only(opset: int) -> None:
    model = encoder(opset)
    attach_function_bodies(model)
    assert [dict(function.opset_imports) for function in model.functions.values()] == [{"": opset}] * 4


def test_nodes_of_different_form_get_bodies_of_their_own() -> None:
    model = encoder()
    attention = [node for node in model.graph if node.op_type == "RaggedAttention"]
    attention[1].attributes.add(ir.AttrInt64("causal", 1))
    assert attach_function_bodies(model) == 5
    assert [node.overload for node in attention] == ["num_heads4_f32", "num_heads4_causal_f32"]


def test_close_scales_do_not_share_a_body() -> None:
    model = encoder(scale=0.125)
    attention = [node for node in model.graph if node.op_type == "RaggedAttention"]
    attention[1].attributes.add(ir.AttrFloat32("scale", 0.12500001))
    attach_function_bodies(model)
    assert attention[0].overload != attention[1].overload


def test_attaching_again_replaces_the_old_bodies() -> None:
    model = encoder(17)
    attach_function_bodies(model)
    first = ir.to_proto(model)
    attach_function_bodies(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)
    for node in [node for node in model.graph if node.op_type == "RaggedAttention"]:
        node.attributes.add(ir.AttrInt64("causal", 1))
    assert attach_function_bodies(model) == 4
    assert ("RaggedAttention", "num_heads4_f32") not in body_names(model)


def test_a_model_without_our_nodes_is_left_as_it_is() -> None:
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=[2])
    relu = ir.node("Relu", [x])
    model = ir.Model(ir.Graph([x], relu.outputs, nodes=[relu], opset_imports={"": 12}), ir_version=7)
    assert attach_function_bodies(model) == 0
    assert model.ir_version == 7
    assert DOMAIN not in model.opset_imports


def test_foreign_functions_stay() -> None:
    model = encoder()
    x = ir.val("x")
    relu = ir.node("Relu", [x])
    graph = ir.Graph([x], relu.outputs, nodes=[relu], opset_imports={"": 20})
    foreign = ir.Function("elsewhere", "F", graph=graph, attributes=[])
    model.functions[foreign.identifier()] = foreign
    attach_function_bodies(model)
    assert foreign.identifier() in model.functions


@pytest.mark.parametrize("opset", [16, 27])
def test_an_opset_without_bodies_is_refused(opset: int) -> None:
    with pytest.raises(RaggedRTError, match=f"opset {opset}; function bodies exist for 17 to 26"):
        attach_function_bodies(encoder(opset))


def test_an_unknown_element_type_is_refused() -> None:
    with pytest.raises(RaggedRTError, match="element type of a PackTokens node's first input is unknown"):
        attach_function_bodies(encoder(dtype=None))


def test_half_a_tile_list_is_refused() -> None:
    model = encoder()
    node = next(node for node in model.graph if node.op_type == "RaggedAttention")
    tiles = ir.val("tiles", dtype=ir.DataType.INT32, shape=[1, 1, 2])
    node.resize_inputs(10)
    node.replace_input_with(9, tiles)
    with pytest.raises(RaggedRTError, match="tile_ptr but no tile_col"):
        attach_function_bodies(model)
