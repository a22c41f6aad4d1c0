"""Function body of RaggedAttention: re-expansion to [B, max_seqlen], masked softmax, gather back.

Memory is that of padded attention: scores are [B, N, Mq, Mk], never T x T, and key/value heads are not repeated.
Symbols: B sequences, Mq / Mk lengths of the carriers, K key/value heads, G query heads per key/value head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from raggedrt.errors import RaggedRTError
from raggedrt.plugins.body_builder import BodyBuilder
from raggedrt.plugins.ops.ragged_attention.body_mask import Side, additive_bias, visible_keys

_FLOAT = ir.DataType.FLOAT
_INT64 = ir.DataType.INT64
_MINUS_INFINITY = -float("inf")
_NO_BODY = (
    "tile_ptr", "tile_col", "tile_tag", "tile_bits", "head_group", "bias", "rel_query", "rel_key", "rel_bucket",
)  # fmt: skip


def build(b: BodyBuilder) -> Sequence[ir.Value]:
    """The op's outputs as standard ops, in float32.

    Raises:
        RaggedRTError: The node has an input that the body does not read.
    """
    if unread := [name for name in b.form.inputs if name in _NO_BODY]:
        raise RaggedRTError(
            f"A RaggedAttention node has the input {unread[0]!r}, for which there is no function body yet; "
            "leave this attention unlowered."
        )
    query_side = _side(b, "q")
    key_side = _side(b, "k") if b.form.cross else dataclasses.replace(query_side, name="k")
    visible = visible_keys(b, query_side, key_side)  # [B, 1, 1 or Mq, Mk]
    scores = _scores(b, query_side, key_side)  # [B, N, Mq, Mk]
    bias = additive_bias(b, query_side, key_side)
    if bias is not None:
        scores = b.op("Add", scores, bias)
    scores = b.op("Where", visible, scores, b.float(_MINUS_INFINITY))
    seen = b.cast(b.reduce("ReduceMax", b.cast(visible, _FLOAT), 3), ir.DataType.BOOL)  # [B, 1, 1 or Mq, 1]
    value = b.op("Transpose", _padded_heads(b, "value", key_side, 1), perm=[0, 2, 1, 3])  # [B, K, Mk, Hv]
    if "lse" in b.form.outputs or "head_sink" in b.form.inputs:
        weights, total, lse = _softmax_parts(b, scores, seen)
        mixed = b.op("Div", _mix(b, weights, value), total)
    else:
        mixed, lse = _mix(b, b.op("Softmax", scores, axis=-1), value), None
    mixed = b.op("Where", seen, mixed, b.float(0))  # a row that sees nothing is 0, not NaN
    output = _packed(b, mixed, query_side)
    return (output,) if lse is None or "lse" not in b.form.outputs else (output, _packed_lse(b, lse, query_side))


def _side(b: BodyBuilder, name: str) -> Side:
    """Where each padded slot lies among the tokens."""
    cu_seqlens = b.cast(b.input(f"cu_seqlens_{name}"), _INT64)  # [B + 1]
    batch = b.op("Sub", b.dim(cu_seqlens, 0), b.constant([1]))
    starts = b.slice(cu_seqlens, 0, batch)  # [B]
    lengths = b.op("Sub", b.slice(cu_seqlens, 1, b.dim(cu_seqlens, 0)), starts)
    width = b.dim(b.input(f"max_seqlen_{name}"), 0)
    slot = b.range(width)  # [M]
    used = b.op("Less", slot, b.unsqueeze(lengths, 1))  # [B, M]
    tokens = b.dim(b.input("query" if name == "q" else "key"), 0)
    token = b.op("Where", used, b.op("Add", slot, b.unsqueeze(starts, 1)), tokens)  # [B, M]; T: the appended zero row
    return Side(name, batch, width, tokens, lengths, slot, used, token)


def _kv_heads(b: BodyBuilder) -> int:
    return b.form.integer("kv_num_heads") or b.form.integer("num_heads")


def _padded_heads(b: BodyBuilder, name: str, side: Side, group: int) -> ir.Value:
    """Input [T, K*G*H] at padded slots: float32 [B, M, K, H], or [B, M, K, G, H] where group > 1.

    Slots past a sequence's end read a row of zeros, never another sequence.
    """
    packed = b.cast(b.input(name), _FLOAT)
    width = b.dim(packed, 1)
    rows = b.concat(packed, b.fill(b.concat(b.constant([1]), width), 0, _FLOAT))  # [T + 1, K*G*H]
    heads = [_kv_heads(b), group] if group > 1 else [_kv_heads(b)]
    split = b.op("Reshape", rows, b.constant([0, *heads, -1]))
    return b.op("Gather", split, side.token, axis=0)


def _scores(b: BodyBuilder, query_side: Side, key_side: Side) -> ir.Value:
    """Scale * q k^T, capped where asked: [B, N, Mq, Mk]."""
    group = b.form.integer("num_heads") // _kv_heads(b)
    query = _padded_heads(b, "query", query_side, group)
    scale = b.form.number("scale")
    query = b.op("Mul", query, b.float(scale) if scale else _default_scale(b))
    key = b.op("Transpose", _padded_heads(b, "key", key_side, 1), perm=[0, 2, 3, 1])  # [B, K, H, Mk]
    if group > 1:
        query = b.op("Transpose", query, perm=[0, 2, 3, 1, 4])  # [B, K, G, Mq, H]
        scores = b.op("MatMul", query, b.unsqueeze(key, 2))
        scores = b.reshape(scores, query_side.batch, b.constant([group * _kv_heads(b)]), _widths(b, scores))
    else:
        scores = b.op("MatMul", b.op("Transpose", query, perm=[0, 2, 1, 3]), key)
    cap = b.form.number("softcap")
    if cap:
        scores = b.op("Mul", b.op("Tanh", b.op("Div", scores, b.float(cap))), b.float(cap))
    return scores


def _widths(b: BodyBuilder, value: ir.Value) -> ir.Value:
    """The last two dimensions: int64 [2]."""
    return b.dims(value, -2)


def _default_scale(b: BodyBuilder) -> ir.Value:
    """1 / sqrt(H): float32 [1]."""
    head_size = b.op("Div", b.dim(b.input("query"), 1), b.constant([b.form.integer("num_heads")]))
    return b.op("Reciprocal", b.op("Sqrt", b.cast(head_size, _FLOAT)))


def _softmax_parts(b: BodyBuilder, scores: ir.Value, seen: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Unnormalised weights [B, N, Mq, Mk], their total and its logarithm [B, N, Mq, 1]."""
    top = b.reduce("ReduceMax", scores, 3)
    sink = None
    if "head_sink" in b.form.inputs:
        sink = b.unsqueeze(b.input("head_sink"), 0, 2, 3)  # [1, N, 1, 1]
        top = b.op("Max", top, sink)
    top = b.op("Where", seen, top, b.float(0))  # inf - inf would be NaN
    weights = b.op("Exp", b.op("Sub", scores, top))
    total = b.reduce("ReduceSum", weights, 3)
    if sink is not None:
        total = b.op("Add", total, b.op("Exp", b.op("Sub", sink, top)))
    total = b.op("Where", seen, total, b.float(1))
    lse = b.op("Where", seen, b.op("Add", top, b.op("Log", total)), b.float(_MINUS_INFINITY))
    return weights, total, lse


def _mix(b: BodyBuilder, weights: ir.Value, value: ir.Value) -> ir.Value:
    """Weights [B, N, Mq, Mk] times value [B, K, Mk, Hv]: [B, N, Mq, Hv]."""
    kv_heads = _kv_heads(b)
    group = b.form.integer("num_heads") // kv_heads
    if group == 1:
        return b.op("MatMul", weights, value)
    batch = b.dim(weights, 0)
    weights = b.reshape(weights, batch, b.constant([kv_heads, group]), _widths(b, weights))
    mixed = b.op("MatMul", weights, b.unsqueeze(value, 2))  # [B, K, G, Mq, Hv]
    return b.reshape(mixed, batch, b.constant([kv_heads * group]), _widths(b, mixed))


def _slot_of_token(b: BodyBuilder, side: Side) -> ir.Value:
    """The padded slot b * M + i of each token: int64 [T]; B * M for a row that belongs to no sequence."""
    slots = b.product(side.batch, side.width)
    nowhere = b.op("Expand", slots, b.op("Add", side.tokens, b.constant([1])))  # [T + 1]
    filled = b.op("ScatterElements", nowhere, b.reshape(side.token, slots), b.range(slots), axis=0)
    return b.slice(filled, 0, side.tokens)


def _packed(b: BodyBuilder, mixed: ir.Value, side: Side) -> ir.Value:
    """[B, N, Mq, Hv] back to tokens: [T, N*Hv] in the node's element type."""
    heads = b.constant([b.form.integer("num_heads")])
    width = b.op("Mul", heads, b.dim(mixed, 3))
    slots = b.product(side.batch, side.width)
    rows = b.reshape(b.op("Transpose", mixed, perm=[0, 2, 1, 3]), slots, width)
    rows = b.concat(rows, b.fill(b.concat(b.constant([1]), width), 0, _FLOAT))
    return b.cast(b.op("Gather", rows, _slot_of_token(b, side), axis=0), b.form.element_type)


def _packed_lse(b: BodyBuilder, lse: ir.Value, side: Side) -> ir.Value:
    """[B, N, Mq, 1] back to tokens: [N, T]."""
    heads = b.constant([b.form.integer("num_heads")])
    slots = b.product(side.batch, side.width)
    columns = b.reshape(b.op("Transpose", lse, perm=[1, 0, 2, 3]), heads, slots)
    columns = b.concat(columns, b.fill(b.concat(heads, b.constant([1])), _MINUS_INFINITY, _FLOAT), axis=1)
    return b.op("Gather", columns, _slot_of_token(b, side), axis=1)
