"""Nodes of our ops as TensorRT plugins take them, and back.

TensorRT knows no optional tensors: absent inputs are dropped and the integer attribute `present` tells which are there
(bit i: input i of the definition). An attention whose lse is wanted is a plugin of its own, because the number of a
plugin's outputs is fixed. `plugin_namespace` and `plugin_version` are what TensorRT's ONNX parser looks creators up by.
"""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.errors import FeatureError
from raggedrt.plugins.contract.abi import Feature
from raggedrt.plugins.contract.op_definition import DOMAIN, ORT_PLUGIN_DOMAIN
from raggedrt.plugins.registry import BY_NAME

PLUGIN_VERSION = "1"
LSE_PLUGINS = {"RaggedAttention": "RaggedAttentionLse"}
"""Op to the plugin that also has its optional output `lse`."""
_FORM_ATTRIBUTES = ("present", "plugin_namespace", "plugin_version")
_OP_OF_PLUGIN = {plugin: op for op, plugin in LSE_PLUGINS.items()}


def to_plugins(model: ir.Model, domain: str = DOMAIN) -> None:
    """Rewrite every node of our ops into plugin form, in place; function bodies of them are dropped.

    Args:
        model: any number of nodes of domain `raggedrt`.
        domain: of the plugin nodes; `ORT_PLUGIN_DOMAIN` for ONNX Runtime's TensorRT provider.

    Raises:
        FeatureError: a node that no plugin serves.
    """
    for node in [node for node in model.graph.all_nodes() if node.domain == DOMAIN]:
        _replace(node, _plugin_node(node, domain))
    for identifier in [key for key in model.functions if key[0] == DOMAIN]:
        del model.functions[identifier]
    if domain != DOMAIN:
        model.graph.opset_imports.pop(DOMAIN, None)
        model.graph.opset_imports[domain] = 1


def to_native(model: ir.Model) -> None:
    """Rewrite every plugin node of ours into the form of the op's definition, in place. The inverse of `to_plugins`."""
    for node in [node for node in model.graph.all_nodes() if "present" in node.attributes]:
        if node.attributes.get_string("plugin_namespace") == DOMAIN:
            _replace(node, _native_node(node))
    model.graph.opset_imports.pop(ORT_PLUGIN_DOMAIN, None)
    model.graph.opset_imports[DOMAIN] = 1


def _plugin_node(node: ir.Node, domain: str) -> ir.Node:
    op = BY_NAME.get(node.op_type)
    if op is None:
        raise FeatureError(f"node {node.name}: there is no TensorRT plugin for {DOMAIN}.{node.op_type}")
    present = sum(1 << place for place, value in enumerate(node.inputs) if value is not None)
    with_lse = len(node.outputs) > 1 and op.outputs[1].optional and _is_wanted(node.outputs[1])
    features = node.attributes.get_int("features", 0)
    if not with_lse:
        features &= ~int(Feature.LSE)
    attributes = [attribute for attribute in node.attributes.values() if attribute.name not in ("features",)]
    attributes += [
        ir.AttrInt64("features", features),
        ir.AttrInt64("present", present),
        ir.AttrString("plugin_namespace", DOMAIN),
        ir.AttrString("plugin_version", PLUGIN_VERSION),
    ]
    optional = [tensor.optional for tensor in op.outputs]
    outputs = [value for value, absent in zip(node.outputs, optional, strict=False) if not absent or with_lse]
    plugin = LSE_PLUGINS.get(node.op_type, node.op_type) if with_lse else node.op_type
    return ir.Node(
        domain,
        plugin,
        [value for value in node.inputs if value is not None],
        attributes,
        outputs=[_same(value) for value in outputs],
        name=node.name,
        metadata_props=dict(node.metadata_props),
    )


def _native_node(node: ir.Node) -> ir.Node:
    op = BY_NAME[_OP_OF_PLUGIN.get(node.op_type, node.op_type)]
    present = node.attributes.get_int("present", 0)
    values = iter(node.inputs)
    inputs = [next(values) if present >> place & 1 else None for place in range(present.bit_length())]
    return ir.Node(
        DOMAIN,
        op.name,
        inputs,
        [attribute for attribute in node.attributes.values() if attribute.name not in _FORM_ATTRIBUTES],
        outputs=[_same(value) for value in node.outputs[: len(op.outputs)]],
        name=node.name,
        metadata_props=dict(node.metadata_props),
    )


def _is_wanted(value: ir.Value) -> bool:
    return bool(value.name) and (bool(value.uses()) or value.is_graph_output())


def _same(value: ir.Value) -> ir.Value:
    """A value of another node with this one's name, type and shape."""
    return ir.Value(name=value.name, type=value.type, shape=value.shape)


def _replace(node: ir.Node, by: ir.Node) -> None:
    """Put `by` in the place of `node`; outputs that `by` does not have were wanted by nobody."""
    graph = node.graph
    assert graph is not None
    pairs = list(zip(node.outputs, by.outputs, strict=False))
    graph.insert_before(node, by)
    for old, new in pairs:
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
