"""ONNX `Attention` (opsets 23 and later), every input but the product's own output: past, masks, lengths, windows.

Queries stand at positions i + offset, keys at j; the offset is the past's length, or with nonpad_kv_seqlen the valid
keys before the block. An explicit mask becomes the op's bias by (i, j); what compares positions then joins it, unless
the offset is zero, where positions and indices are the same.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.axes.rule import PackingRefused
from raggedrt.graph_passes.direct.mask_bias import Sides, covering_bias, known_rank, square
from raggedrt.graph_passes.direct.rows import MINUS_INFINITY, Rows, from_rows, to_rows
from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.graph_passes.sites.caches import heads_first, is_used

_BOOL, _INT32, _INT64 = ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64
_PRESENT_KEY, _PRESENT_VALUE, _PRODUCT = 1, 2, 3


@dataclasses.dataclass
class _Call(Sides):
    """One Attention node being lowered."""

    heads: int
    kv_heads: int
    head_size: int
    value_head_size: int

    @property
    def mask_attributes(self) -> dict[str, int]:
        """What compares positions, as attributes of our op."""
        return {
            "causal": int_attribute(self.node, "is_causal", 0),
            "window_left": int_attribute(self.node, "left_window_size", -1),
            "window_right": int_attribute(self.node, "right_window_size", -1),
        }

    def compares_positions(self) -> bool:
        """Causal or windowed."""
        return self.mask_attributes != {"causal": 0, "window_left": -1, "window_right": -1}


def lower_standard_attention(node: ir.Node, tape: Tape) -> dict[ir.Value, ir.Value]:
    """Build the node's outputs from `RaggedAttention`: old value to new value.

    Raises:
        PackingRefused: The form is not covered.
    """
    query, key, value = (_required(node, number) for number in range(3))
    product = node.outputs[_PRODUCT] if len(node.outputs) > _PRODUCT else None
    if product is not None and (product.uses() or product.is_graph_output()):
        raise PackingRefused(node, "the product of queries and keys is an output, so it has to be computed anyway")
    past_key, past_value = (_optional(node, number) for number in (4, 5))
    if past_key is not None and past_value is not None:
        if known_rank(node, key) == 3:
            raise PackingRefused(node, "3-D operands with a past are not covered")
        key, value = (
            tape.op("Concat", [past, now], {"axis": 2}, stem=f"{now.name}_all", dtype=now.dtype)
            for past, now in ((past_key, key), (past_value, value))
        )
    call = _call(node, tape, query, key, value)
    output = _attend(call, query, key, value, past_key)
    replaced = {node.outputs[0]: output}
    for number, new in ((_PRESENT_KEY, key), (_PRESENT_VALUE, value)):
        if len(node.outputs) > number and is_used(node.outputs[number]):
            given = known_rank(node, _required(node, 1))  # that of what a past was joined to is not told
            replaced[node.outputs[number]] = new if given == 4 else _by_heads(call, new)
    return replaced


def _by_heads(call: _Call, rows: ir.Value) -> ir.Value:
    """Keys or values [B, S, N*H] as presents have them, [B, N, S, H]."""
    tape, stem = call.tape, f"{rows.name}_present"
    split = tape.op("Reshape", [rows, tape.vector([0, 0, call.kv_heads, -1])], stem=stem, dtype=rows.dtype)
    return heads_first(tape, split, rows.name or "rows")


def _attend(call: _Call, query: ir.Value, key: ir.Value, value: ir.Value, past_key: ir.Value | None) -> ir.Value:
    tape, node = call.tape, call.node
    order = [0, 2, 1, 3] if known_rank(node, query) == 4 else [0, 1, 2]
    inputs: dict[str, ir.Value | None] = {
        "query": to_rows(tape, query, order, call.heads * call.head_size),
        "key": to_rows(tape, key, order, call.kv_heads * call.head_size),
        "value": to_rows(tape, value, order, call.kv_heads * call.value_head_size),
        "cu_seqlens_q": call.queries.cu_seqlens(),
        "cu_seqlens_k": call.keys.cu_seqlens(),
        "max_seqlen_q": call.queries.carrier(),
        "max_seqlen_k": call.keys.carrier(),
    }
    offset = _offset(call, past_key)
    mask = _optional(node, 3)
    attributes: dict[str, int | float] = {
        "num_heads": call.heads,
        "kv_num_heads": call.kv_heads if call.kv_heads != call.heads else 0,
        "scale": node.attributes.get_float("scale", 0.0) or 0.0,
        "softcap": node.attributes.get_float("softcap", 0.0) or 0.0,
    }
    if mask is not None:
        bias = covering_bias(call, mask)
        if offset is not None and call.compares_positions():
            bias = _with_positions(call, bias, offset)
        else:
            attributes |= call.mask_attributes
        inputs["bias"] = square(call, bias, query.dtype)
    else:
        attributes |= call.mask_attributes
    if mask is not None or call.compares_positions() or _optional(node, 6) is not None:
        rows = call.queries.slots()
        if offset is not None and mask is None:
            rows = tape.op("Add", [rows, offset], stem="query_positions")  # [S] or [B, S]
        inputs["positions_q"] = call.queries.per_row(rows)
        inputs["positions_k"] = call.keys.per_row(_key_positions(call))
    packed = tape.custom("RaggedAttention", inputs, attributes, stem=f"{node.outputs[0].name}_attention").outputs[0]
    packed.type = query.type
    width = call.heads * call.value_head_size
    return from_rows(tape, packed, call.queries, call.heads, width, split_heads=known_rank(node, query) == 4)


def _call(node: ir.Node, tape: Tape, query: ir.Value, key: ir.Value, value: ir.Value) -> _Call:
    if known_rank(node, query) == 4:
        slot_axis, head_axis = 2, 1
        heads, kv_heads = (_static(node, one, head_axis) for one in (query, key if key.shape else _required(node, 1)))
        sizes = [_static(node, one, 3) for one in (query, _required(node, 2))]
    else:
        slot_axis = 1
        heads, kv_heads = int_attribute(node, "q_num_heads", 0), int_attribute(node, "kv_num_heads", 0)
        if not heads or not kv_heads:
            raise PackingRefused(node, "3-D operands need q_num_heads and kv_num_heads")
        sizes = [_static(node, query, 2) // heads, _static(node, value, 2) // kv_heads]
    if heads % kv_heads:
        raise PackingRefused(node, f"{heads} query heads do not share {kv_heads} key heads evenly")
    queries, keys = (Rows.of(tape, one, slot_axis) for one in (query, key))
    return _Call(tape, node, queries, keys, heads, kv_heads, *sizes)


def _offset(call: _Call, past_key: ir.Value | None) -> ir.Value | None:
    """Int64 [1] or [B, 1]: what a query's index is short of its position; None: nothing."""
    tape, lengths = call.tape, _optional(call.node, 6)
    if past_key is not None:
        return tape.op("Shape", [past_key], {"start": 2, "end": 3}, stem="past", dtype=_INT64, shape=[1])
    if lengths is None:
        return None
    column = tape.op("Reshape", [lengths, tape.vector([-1, 1])], stem="key_lengths", shape=["batch", 1])
    return tape.op("Sub", [column, call.queries.length], stem="offset", shape=["batch", 1])


def _key_positions(call: _Call) -> ir.Value:
    """Int64 [S] or [B, S]: the slot of each key, -1 past nonpad_kv_seqlen."""
    tape, lengths, slots = call.tape, _optional(call.node, 6), call.keys.slots()
    if lengths is None:
        return slots
    column = tape.op("Reshape", [lengths, tape.vector([-1, 1])], stem="key_lengths", shape=["batch", 1])
    valid = tape.op("Less", [slots, column], stem="valid_keys", dtype=_BOOL)
    return tape.op("Where", [valid, slots, tape.scalar(-1)], stem="key_positions", dtype=_INT64)


def _with_positions(call: _Call, bias: ir.Value, offset: ir.Value) -> ir.Value:
    """Hide by the bias what causality and window hide: queries are at i + offset there."""
    tape = call.tape
    queries = tape.op("Add", [call.queries.slots(), offset], stem="query_positions")  # [Sq] or [B, Sq]
    queries = tape.op("Reshape", [queries, tape.op("Concat", [
        tape.vector([-1, 1]), call.queries.length, tape.vector([1])], {"axis": 0}, stem="column", shape=[4])],
        stem="query_positions")  # fmt: skip  # [1|B, 1, Sq, 1]
    ahead = tape.op("Sub", [call.keys.slots(), queries], stem="key_minus_query")
    attributes = call.mask_attributes
    upper = 0 if attributes["causal"] else attributes["window_right"] if attributes["window_right"] >= 0 else None
    allowed = None
    for bound, op_type in ((upper, "LessOrEqual"), (_negated(attributes["window_left"]), "GreaterOrEqual")):
        if bound is not None:
            test = tape.op(op_type, [ahead, tape.scalar(bound)], stem="allowed", dtype=_BOOL)
            allowed = test if allowed is None else tape.op("And", [allowed, test], stem="allowed", dtype=_BOOL)
    if allowed is None or bias.dtype is None:
        return bias
    return tape.op(
        "Where", [allowed, bias, tape.number(MINUS_INFINITY, bias.dtype)], stem="mask_bias", dtype=bias.dtype
    )


def _negated(window_left: int) -> int | None:
    return None if window_left < 0 else -window_left


def _optional(node: ir.Node, number: int) -> ir.Value | None:
    return node.inputs[number] if number < len(node.inputs) else None


def _required(node: ir.Node, number: int) -> ir.Value:
    value = _optional(node, number)
    if value is None:
        raise PackingRefused(node, f"input {number} is missing")
    return value


def _static(node: ir.Node, value: ir.Value, axis: int) -> int:
    dim = None if value.shape is None else value.shape[axis]
    if not isinstance(dim, int):
        raise PackingRefused(node, f"dimension {axis} of '{value.name}' is not known before run time")
    return dim
