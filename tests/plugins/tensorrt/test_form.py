"""Nodes in plugin form say the same as in native form, for every case of every op."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from helpers.op_models import case_model
from raggedrt.errors import FeatureError
from raggedrt.plugins.contract.op_definition import DOMAIN
from raggedrt.plugins.ops.arrays import Array
from raggedrt.plugins.ops.case import Case, Group
from raggedrt.plugins.ops.catalog import CASES
from raggedrt.plugins.tensorrt.form import ORT_PLUGIN_DOMAIN, to_native, to_plugins

pytestmark = pytest.mark.none


def inputs_of(case: Case) -> dict[str, Array]:
    return case.inputs(np.dtype(np.float32))


ROUND_TRIPS = [
    pytest.param(op, case, id=f"{op}-{case.name}")
    for op, cases in CASES.items()
    for case in cases
    if case.group != Group.PERFORMANCE
]


def model_of(op: str, case: Case) -> ir.Model:
    return ir.from_proto(case_model(op, case, inputs_of(case), 20))


def our_node(model: ir.Model) -> ir.Node:
    return next(node for node in model.graph if node.domain in (DOMAIN, ORT_PLUGIN_DOMAIN))


def described(node: ir.Node) -> tuple[object, ...]:
    inputs = [value.name if value is not None else None for value in node.inputs]
    while inputs and inputs[-1] is None:
        inputs.pop()
    attributes = {attribute.name: attribute.value for attribute in node.attributes.values()}
    return node.domain, node.op_type, inputs, attributes, [value.name for value in node.outputs]


@pytest.mark.parametrize("domain", [DOMAIN, ORT_PLUGIN_DOMAIN])
@pytest.mark.parametrize(("op", "case"), ROUND_TRIPS)
def test_there_and_back(op: str, case: Case, domain: str) -> None:
    model = model_of(op, case)
    before = described(our_node(model))
    to_plugins(model, domain)
    plugin = our_node(model)
    assert plugin.domain == domain
    assert None not in plugin.inputs
    assert plugin.attributes.get_int("present").bit_count() == len(plugin.inputs)
    assert plugin.attributes.get_string("plugin_namespace") == DOMAIN
    assert not model.functions
    ir.to_proto(model)
    to_native(model)
    assert described(our_node(model)) == before


def test_an_attention_without_reader_of_its_lse_is_the_plugin_without() -> None:
    case = next(case for case in CASES["RaggedAttention"] if "lse" in case.outputs)
    model = model_of("RaggedAttention", case)
    to_plugins(model)
    assert our_node(model).op_type == "RaggedAttentionLse"
    model = model_of("RaggedAttention", case)
    model.graph.outputs.pop()
    to_plugins(model)
    assert our_node(model).op_type == "RaggedAttention"
    assert len(our_node(model).outputs) == 1


def test_an_op_of_a_newer_version_is_refused() -> None:
    value = ir.val("x", ir.DataType.FLOAT, [1])
    node = ir.node("FutureOp", [value], domain=DOMAIN, name="new")
    graph = ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 20, DOMAIN: 1}, name="g")
    with pytest.raises(FeatureError, match=r"new: there is no TensorRT plugin for raggedrt\.FutureOp"):
        to_plugins(ir.Model(graph, ir_version=10))
