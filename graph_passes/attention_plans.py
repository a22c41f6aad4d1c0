"""One AttentionPlan for all attentions with the same lengths and mask, on targets that divide work by such a plan."""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.plugins.contract.abi import Feature
from raggedrt.plugins.contract.op_definition import DOMAIN
from raggedrt.plugins.node import AttributeValue, definition_of

_CARRIED = {"tokens_q": "query", "tokens_k": "key"}
"""Inputs of the plan that only bring a length, and those of the attention that have it."""


def plan_attention(graph: ir.Graph) -> int:
    """Give every RaggedAttention of the graph a work list; returns how many plans make them."""
    plans: dict[Hashable, ir.Value] = {}
    tape = Tape(graph)
    for node in list(graph):
        if node.domain != DOMAIN or node.op_type != "RaggedAttention":
            continue
        inputs, attributes = _plan_of(node)
        shared = {name: value for name, value in inputs.items() if name not in _CARRIED}
        key = (tuple(shared.items()), tuple(attributes.items()))
        if key not in plans:
            plans[key] = tape.custom("AttentionPlan", inputs, attributes, stem="work_list").outputs[0]
            tape.join(node)
            tape.nodes.clear()
        _take(node, plans[key])
    return len(plans)


def _plan_of(node: ir.Node) -> tuple[dict[str, ir.Value], dict[str, AttributeValue]]:
    """Inputs and attributes of the plan for an attention."""
    attention, plan = definition_of("RaggedAttention"), definition_of("AttentionPlan")
    given = {spec.name: value for spec, value in zip(attention.inputs, node.inputs, strict=False) if value is not None}
    names = {spec.name: _CARRIED.get(spec.name, spec.name) for spec in plan.inputs}
    inputs = {name: given[source] for name, source in names.items() if source in given}
    attributes = [spec.name for spec in plan.attributes if spec.name in node.attributes]
    return inputs, {name: _value(node.attributes[name]) for name in attributes}


def _value(attribute: ir.Attr) -> AttributeValue:
    return tuple(attribute.as_ints()) if attribute.type == ir.AttributeType.INTS else attribute.as_int()


def _take(node: ir.Node, work_list: ir.Value) -> None:
    place = definition_of("RaggedAttention").input_index("work_list")
    node.resize_inputs(place + 1)
    node.replace_input_with(place, work_list)
    features = Feature(node.attributes["features"].as_int()) | Feature.WORK_LIST
    node.attributes["features"] = ir.AttrInt64("features", int(features))
