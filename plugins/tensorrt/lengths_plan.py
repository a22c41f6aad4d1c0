"""The packing plan of ragged inputs from lengths alone.

`PackingPlan` counts the tokens of a mask, so its outputs have a size that only the data tells. With ragged I/O the mask
was itself made from `cu_seqlens`, and the tokens are there to be counted in the shape of every per-token input.
"""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.plugins.body_builder import BodyBuilder, NodeForm
from raggedrt.plugins.contract.op_definition import DOMAIN, FLOATS, INT32, OpDefinition, TensorSpec
from raggedrt.plugins.ops.ragged_attention.body_slots import slots_of

CU_SEQLENS, MAX_SEQLEN = "cu_seqlens", "max_seqlen"
OP_NAME = "LengthsPlan"
_INPUTS = ("query", "cu_seqlens_q", "max_seqlen_q")  # the names that RaggedAttention's body reads
_OP = OpDefinition(
    name=OP_NAME,
    doc="PackingPlan of right-padded sequences. Never serialised: it is inlined at once.",
    inputs=tuple(TensorSpec(name, name, FLOATS, ()) for name in _INPUTS),
    outputs=tuple(
        TensorSpec(name, "I", INT32, ("T",)) for name in ("token_index", "cu_seqlens", "position", "key_position")
    ),
)


def plan_from_lengths(model: ir.Model) -> int:
    """Replace every `PackingPlan` of a mask that was made from `cu_seqlens`, in place; returns how many.

    A plan of a mask that callers give is left alone, and so is one that keeps slots without a token.
    """
    inputs = {value.name: value for value in model.graph.inputs}
    if not {CU_SEQLENS, MAX_SEQLEN} <= inputs.keys():
        return 0
    lengths = (inputs[CU_SEQLENS], inputs[MAX_SEQLEN])
    tokens = next((value for value in model.graph.inputs if value not in lengths), None)
    nodes = [node for node in model.graph if (node.domain, node.op_type) == (DOMAIN, "PackingPlan")]
    replaced = [node for node in nodes if _counts_lengths(node, set(lengths))]
    if tokens is None or not replaced:
        return 0
    function = _body(model.graph.opset_imports[""])
    model.functions[function.identifier()] = function
    for node in replaced:
        _replace(model.graph, node, ir.node(OP_NAME, [tokens, *lengths], domain=DOMAIN, num_outputs=4))
    return len(replaced)


def _replace(graph: ir.Graph, node: ir.Node, plan: ir.Node) -> None:
    graph.insert_before(node, plan)
    for old, new in zip(node.outputs, plan.outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
    ir.convenience.replace_all_uses_with(node.outputs, plan.outputs, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _counts_lengths(node: ir.Node, lengths: set[ir.Value]) -> bool:
    """Whether the mask depends on the lengths and nothing else, and slots without a token are not kept."""
    keeps = "keep_slots" in node.attributes and node.attributes["keep_slots"].as_ints()
    if keeps or ("capacity" in node.attributes and node.attributes["capacity"].as_int()) or len(node.inputs) > 1:
        return False
    pending, seen = [node.inputs[0]], set[ir.Value]()
    while pending:
        value = pending.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        if producer is not None:
            pending += producer.inputs
        elif value not in lengths and value.const_value is None:
            return False
    return bool(lengths & seen)


def _body(opset: int) -> ir.Function:
    b = BodyBuilder(NodeForm(_OP, _INPUTS, tuple(tensor.name for tensor in _OP.outputs), (), None), opset)
    slots = slots_of(b, "q")
    slot = slots.slot_of_token(b)  # row * width + position of each token
    row, position = b.op("Div", slot, slots.width), b.op("Mod", slot, slots.width)
    index = b.op("Add", b.op("Mul", row, b.dim(b.input("max_seqlen_q"), 0)), position)
    places = [b.cast(value, ir.DataType.INT32) for value in (index, position)]
    offsets = b.op("Identity", b.input("cu_seqlens_q"))
    return b.function("", (places[0], offsets, places[1], b.op("Identity", places[1])))
