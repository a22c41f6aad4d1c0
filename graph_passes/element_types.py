"""Element types behind nodes that ONNX's shape inference does not know (`com.microsoft` ops): it stops there."""

from __future__ import annotations

import logging

import onnx
import onnx_ir as ir

logger = logging.getLogger(__name__)

CONTRIB = "com.microsoft"
_SAME_TYPE = """Attention BiasAdd BiasGelu BiasSplitGelu DynamicQuantizeMatMul FastGelu FusedGemm FusedMatMul Gelu
GroupQueryAttention MatMulBnb4 MatMulNBits MultiHeadAttention QuickGelu RotaryEmbedding SkipLayerNormalization
SkipSimplifiedLayerNormalization SparseAttention"""
TYPED_BY = {**dict.fromkeys(_SAME_TYPE.split(), 0), "DequantizeLinear": 1, "QuantizeLinear": 2}
"""By contrib op: the operand whose type the op yields."""
UNLISTED = frozenset({"SimplifiedLayerNormalization"})
"""Ops of ONNX Runtime that stand in the default domain without a schema; likewise."""
SUM_OUTPUT = 3
"""Of the fused normalisations: the sum that is normalised (the outputs in between are statistics)."""


def infer_element_types(graph: ir.Graph) -> int:
    """Give outputs without a type one, in graph order; returns how many were found out.

    Needed for graphs that ONNX Runtime saved: they carry fused ops and no types between them.
    """
    found = 0
    for node in graph:
        if all(output.dtype is not None for output in node.outputs if output.name):
            continue
        types = _types(node, graph.opset_imports)
        for output, dtype in zip(node.outputs, types, strict=False):
            if output.dtype is None and dtype is not None:
                output.dtype = dtype
                found += 1
    return found


def _types(node: ir.Node, imports: dict[str, int]) -> list[ir.DataType | None]:
    if node.domain == CONTRIB or node.op_type in UNLISTED:
        place = 0 if node.op_type in UNLISTED else TYPED_BY.get(node.op_type)
        operand = node.inputs[place] if place is not None and place < len(node.inputs) else None
        known = None if operand is None else operand.dtype
        return [known if number in (0, SUM_OUTPUT) else None for number in range(len(node.outputs))]
    if node.domain not in ("", "ai.onnx") or any(value is not None and value.dtype is None for value in node.inputs):
        return []
    opset = imports.get("", imports.get("ai.onnx", 1))
    bare = onnx.helper.make_node(
        node.op_type,
        [f"in{number}" if value is not None else "" for number, value in enumerate(node.inputs)],
        [f"out{number}" for number in range(len(node.outputs))],
    )
    bare.attribute.extend(ir.to_proto(a) for a in node.attributes.values() if a.type is not ir.AttributeType.GRAPH)
    inputs = {
        f"in{number}": onnx.helper.make_tensor_type_proto(int(value.dtype), None)
        for number, value in enumerate(node.inputs)
        if value is not None and value.dtype is not None
    }
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
        result = onnx.shape_inference.infer_node_outputs(
            schema, bare, inputs, opset_imports=[onnx.helper.make_opsetid("", opset)]
        )
    except Exception:  # a node that cannot be inferred stays without a type; whoever needs it says so
        logger.debug("no type for the outputs of %s", node.name, exc_info=True)
        return []
    elements = [result[name].tensor_type.elem_type if name in result else 0 for name in bare.output]
    return [ir.DataType(element) if element else None for element in elements]
