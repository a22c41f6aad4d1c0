"""Function body of RaggedAttention: re-expansion to [B, max_seqlen], masked softmax, gather back.

Memory is that of padded attention: scores are [N, B, Mq, Mk], never T x T, and key/value heads are not repeated. One
gather of rows [H] both pads and puts the heads first, and one brings the result back, so nothing is transposed.
Symbols: B sequences, Mq / Mk padded lengths, N heads, K key/value heads, G = N / K.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from raggedrt.plugins.body_builder import BodyBuilder
from raggedrt.plugins.ops.ragged_attention.body_mask import additive_bias, visible_keys
from raggedrt.plugins.ops.ragged_attention.body_slots import Slots, slots_of
from raggedrt.plugins.ops.ragged_attention.masking import check_tiles

_BOOL = ir.DataType.BOOL
_FLOAT = ir.DataType.FLOAT
_MINUS_INFINITY = -float("inf")

HIDDEN = -8e37
"""Added to the score of a key that is not visible; also the least bias. Two of them and a score stay finite, so a row
that sees nothing has no NaN to spread."""


def build(b: BodyBuilder) -> Sequence[ir.Value]:
    """The op's outputs as standard ops, in float32.

    Raises:
        RaggedRTError: Inputs that belong together are not all there.
    """
    check_tiles(b.form.inputs, dict(b.form.attributes))
    queries = slots_of(b, "q")
    keys = slots_of(b, "k") if b.form.cross else queries
    scores, seen = _masked_scores(b, queries, keys)
    value = _padded(b, "value", keys, _kv_heads(b))  # [K, B, Mk, Hv]
    lse = None
    if "lse" in b.form.outputs or "head_sink" in b.form.inputs:
        weights, total, lse = _softmax_parts(b, scores, seen)
        mixed = b.op("Div", _grouped_product(b, weights, value), total)
    else:
        mixed = _grouped_product(b, b.op("Softmax", scores, axis=-1), value)
    mixed = b.op("Mul", mixed, b.cast(seen, _FLOAT))
    row = _row_of_token(b, queries)
    outputs = [_packed(b, mixed, row)]
    if "lse" in b.form.outputs and lse is not None:
        last = b.real([_MINUS_INFINITY])
        flat = b.concat(b.op("Reshape", lse, b.constant([-1])), last)
        outputs.append(b.op("Gather", flat, b.op("Transpose", row, perm=[1, 0]), axis=0))  # [N, T]
    return outputs


def _kv_heads(b: BodyBuilder) -> int:
    return b.form.integer("kv_num_heads") or b.form.integer("num_heads")


def _group(b: BodyBuilder) -> int:
    return b.form.integer("num_heads") // _kv_heads(b)


def _padded(b: BodyBuilder, name: str, slots: Slots, heads: int) -> ir.Value:
    """Input [T, heads*H] at padded slots: float32 [heads, B, M, H]."""
    packed = b.cast(b.input(name), _FLOAT)
    head_size = b.op("Div", b.dim(packed, 1), b.constant([heads]))
    rows = b.op("Mul", slots.tokens, b.constant([heads]))
    by_head = b.reshape(packed, rows, head_size)
    if slots.zero_row:
        by_head = b.concat(by_head, b.fill(b.concat(b.constant([1]), head_size), 0, _FLOAT))
    row = b.op("Add", b.op("Mul", slots.token, b.constant(heads)), _each_head(b, heads, 3))  # [heads, B, M]
    return b.op("Gather", by_head, b.op("Min", row, rows) if slots.zero_row else row, axis=0)


def _each_head(b: BodyBuilder, heads: int, rank: int) -> ir.Value:
    """0, 1, … heads - 1 along the first of `rank` axes."""
    return b.constant(np.arange(heads).reshape(heads, *[1] * (rank - 1)))


def _masked_scores(b: BodyBuilder, queries: Slots, keys: Slots) -> tuple[ir.Value, ir.Value]:
    """Scores [N, B, Mq, Mk], and which rows see a key: bool, a shape that broadcasts to [N, B, Mq, 1]."""
    visible = visible_keys(b, queries, keys)  # [B, 1 or Mq, Mk] or [1 or N, B, Mq, Mk]
    mask = b.op("Mul", b.cast(b.op("Not", visible), _FLOAT), b.real(HIDDEN))
    scores = _scores(b, queries, keys)
    bias = additive_bias(b, queries, keys)
    if bias is not None:
        scores = b.op("Add", scores, b.op("Max", bias, b.real(HIDDEN)))
    scores = b.op("Add", scores, mask)
    if bias is not None:  # a bias of -inf hides too
        return scores, b.op("Greater", b.reduce("ReduceMax", scores, 3), b.real(HIDDEN / 2))
    axis = 3 if "tile_ptr" in b.form.inputs else 2  # ONNX Runtime miscounts the last axis of an empty tensor as -1
    return scores, b.cast(b.reduce("ReduceSum", b.cast(visible, _FLOAT), axis), _BOOL)


def _scores(b: BodyBuilder, queries: Slots, keys: Slots) -> ir.Value:
    """Scale * q k^T, capped where asked: [N, B, Mq, Mk]."""
    scale = b.form.number("scale")
    query = _padded(b, "query", queries, b.form.integer("num_heads"))
    query = b.op("Mul", query, b.real(scale) if scale else _default_scale(b))
    key = b.op("Transpose", _padded(b, "key", keys, _kv_heads(b)), perm=[0, 1, 3, 2])  # [K, B, H, Mk]
    scores = _grouped_product(b, query, key)
    cap = b.form.number("softcap")
    if cap:
        scores = b.op("Mul", b.op("Tanh", b.op("Div", scores, b.real(cap))), b.real(cap))
    return scores


def _default_scale(b: BodyBuilder) -> ir.Value:
    """1 / sqrt(H): float32 [1]."""
    head_size = b.op("Div", b.dim(b.input("query"), 1), b.constant([b.form.integer("num_heads")]))
    return b.op("Reciprocal", b.op("Sqrt", b.cast(head_size, _FLOAT)))


def _softmax_parts(b: BodyBuilder, scores: ir.Value, seen: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Unnormalised weights [N, B, Mq, Mk], their total and its logarithm [N, B, Mq, 1]."""
    top = b.reduce("ReduceMax", scores, 3)
    sink = None
    if "head_sink" in b.form.inputs:
        sink = b.unsqueeze(b.input("head_sink"), 1, 2, 3)  # [N, 1, 1, 1]
        top = b.op("Max", top, sink)
    weights = b.op("Exp", b.op("Sub", scores, top))
    total = b.reduce("ReduceSum", weights, 3)
    if sink is not None:
        total = b.op("Add", total, b.op("Exp", b.op("Sub", sink, top)))
    total = b.op("Where", seen, total, b.real(1))  # without any key it would be 0
    lse = b.op("Where", seen, b.op("Add", top, b.op("Log", total)), b.real(_MINUS_INFINITY))
    return weights, total, lse


def _grouped_product(b: BodyBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Left [N, B, m, k] times right [K, B, k, n], each right one serving G left ones: [N, B, m, n]."""
    if _group(b) == 1:
        return b.op("MatMul", left, right)
    left = b.reshape(left, b.constant([_kv_heads(b), _group(b)]), b.dims(left, 1))
    product = b.op("MatMul", left, b.unsqueeze(right, 1))  # [K, G, B, m, n]
    return b.reshape(product, b.constant([b.form.integer("num_heads")]), b.dims(product, 2))


def _row_of_token(b: BodyBuilder, slots: Slots) -> ir.Value:
    """Row of each token and head in a tensor [N*B*M, …]: int64 [T, N]; N*B*M for a token of no sequence."""
    heads = b.form.integer("num_heads")
    slot = b.unsqueeze(slots.slot_of_token(b), 1)  # [T, 1]
    row = b.op("Add", b.op("Mul", _each_head(b, heads, 1), slots.count), slot)
    return b.op("Where", b.op("Less", slot, slots.count), row, b.op("Mul", slots.count, b.constant(heads)))


def _packed(b: BodyBuilder, mixed: ir.Value, row: ir.Value) -> ir.Value:
    """[N, B, Mq, Hv] back to tokens: [T, N*Hv] in the node's element type, 0 for a token of no sequence."""
    head_size = b.dim(mixed, 3)
    rows = b.reshape(mixed, b.product(*(b.dim(mixed, axis) for axis in range(3))), head_size)
    rows = b.concat(rows, b.fill(b.concat(b.constant([1]), head_size), 0, _FLOAT))
    tokens = b.op("Gather", rows, row, axis=0)  # [T, N, Hv]
    width = b.op("Mul", b.dim(row, 1), head_size)
    return b.cast(b.reshape(tokens, b.dim(row, 0), width), b.form.element_type)
