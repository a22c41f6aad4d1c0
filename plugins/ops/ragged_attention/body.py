"""Function body of RaggedAttention: re-expansion to [B, max_seqlen], masked softmax, gather back.

Memory is that of padded attention: scores are [N, B, Mq, Mk], never T x T, and key/value heads are not repeated. Heads
come first, so that packed tensors are transposed before they are expanded, not after.
Symbols: B sequences, Mq / Mk padded lengths, K key/value heads, G query heads per key/value head.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from raggedrt.errors import RaggedRTError
from raggedrt.plugins.body_builder import BodyBuilder
from raggedrt.plugins.ops.ragged_attention.body_mask import additive_bias, visible_keys
from raggedrt.plugins.ops.ragged_attention.body_slots import Slots, slots_of

_BOOL = ir.DataType.BOOL
_FLOAT = ir.DataType.FLOAT
_MINUS_INFINITY = -float("inf")
_NO_BODY = ("tile_ptr", "tile_col", "tile_tag", "tile_bits", "head_group", "rel_query", "rel_key", "rel_bucket")

HIDDEN = -8e37
"""Added to the score of a key that is not visible; also the least bias. Two of them and a score stay finite, so a row
that sees nothing has no NaN to spread."""


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
    queries = slots_of(b, "q")
    keys = slots_of(b, "k") if b.form.cross else queries
    scores, seen = _masked_scores(b, queries, keys)
    value = _padded(b, "value", keys, 1)  # [K, B, Mk, Hv]
    lse = None
    if "lse" in b.form.outputs or "head_sink" in b.form.inputs:
        weights, total, lse = _softmax_parts(b, scores, seen)
        mixed = b.op("Div", _mix(b, weights, value), total)
    else:
        mixed = _mix(b, b.op("Softmax", scores, axis=-1), value)
    mixed = b.op("Mul", mixed, b.cast(seen, _FLOAT))
    token_slot = queries.slot_of_token(b)
    output = _packed(b, mixed, queries, token_slot)
    return (
        (output,) if lse is None or "lse" not in b.form.outputs else (output, _packed_lse(b, lse, queries, token_slot))
    )


def _kv_heads(b: BodyBuilder) -> int:
    return b.form.integer("kv_num_heads") or b.form.integer("num_heads")


def _group(b: BodyBuilder) -> int:
    return b.form.integer("num_heads") // _kv_heads(b)


def _padded(b: BodyBuilder, name: str, slots: Slots, group: int) -> ir.Value:
    """Input [T, K*G*H] at padded slots: float32 [K, B, M, H], or [K, G, B, M, H] where group > 1."""
    packed = b.cast(b.input(name), _FLOAT)
    heads = [_kv_heads(b), group] if group > 1 else [_kv_heads(b)]
    head_size = b.op("Div", b.dim(packed, 1), b.constant([_kv_heads(b) * group]))
    split = b.reshape(packed, b.dim(packed, 0), b.constant(heads), head_size)
    axis = len(heads)
    by_head = b.op("Transpose", split, perm=[*range(1, axis + 1), 0, axis + 1])  # [K, (G,) T, H]
    if slots.zero_row:
        zero = b.fill(b.concat(b.constant([*heads, 1]), head_size), 0, _FLOAT)
        by_head = b.concat(by_head, zero, axis=axis)
    return b.op("Gather", by_head, slots.token, axis=axis)


def _masked_scores(b: BodyBuilder, queries: Slots, keys: Slots) -> tuple[ir.Value, ir.Value]:
    """Scores [N, B, Mq, Mk], and which rows see a key: bool, a shape that broadcasts to [N, B, Mq, 1]."""
    visible = visible_keys(b, queries, keys)  # [B, 1 or Mq, Mk]
    mask = b.op("Mul", b.cast(b.op("Not", visible), _FLOAT), b.float(HIDDEN))
    scores = _scores(b, queries, keys)
    bias = additive_bias(b, queries, keys)
    if bias is not None:
        scores = b.op("Add", scores, b.op("Max", bias, b.float(HIDDEN)))
    scores = b.op("Add", scores, mask)
    if bias is not None:  # a bias of -inf hides too
        return scores, b.op("Greater", b.reduce("ReduceMax", scores, 3), b.float(HIDDEN / 2))
    return scores, b.cast(b.reduce("ReduceSum", b.cast(visible, _FLOAT), 2), _BOOL)


def _scores(b: BodyBuilder, queries: Slots, keys: Slots) -> ir.Value:
    """Scale * q k^T, capped where asked: [N, B, Mq, Mk]."""
    group = _group(b)
    scale = b.form.number("scale")
    query = b.op("Mul", _padded(b, "query", queries, group), b.float(scale) if scale else _default_scale(b))
    key = b.op("Transpose", _padded(b, "key", keys, 1), perm=[0, 1, 3, 2])  # [K, B, H, Mk]
    scores = b.op("MatMul", query, b.unsqueeze(key, 1) if group > 1 else key)
    if group > 1:  # [K, G, B, Mq, Mk]
        scores = b.reshape(scores, b.constant([_kv_heads(b) * group]), b.dims(scores, 2))
    cap = b.form.number("softcap")
    if cap:
        scores = b.op("Mul", b.op("Tanh", b.op("Div", scores, b.float(cap))), b.float(cap))
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
    total = b.op("Where", seen, total, b.float(1))  # without any key it would be 0
    lse = b.op("Where", seen, b.op("Add", top, b.op("Log", total)), b.float(_MINUS_INFINITY))
    return weights, total, lse


def _mix(b: BodyBuilder, weights: ir.Value, value: ir.Value) -> ir.Value:
    """Weights [N, B, Mq, Mk] times value [K, B, Mk, Hv]: [N, B, Mq, Hv]."""
    if _group(b) == 1:
        return b.op("MatMul", weights, value)
    weights = b.reshape(weights, b.constant([_kv_heads(b), _group(b)]), b.dims(weights, 1))
    mixed = b.op("MatMul", weights, b.unsqueeze(value, 1))  # [K, G, B, Mq, Hv]
    return b.reshape(mixed, b.constant([b.form.integer("num_heads")]), b.dims(mixed, 2))


def _packed(b: BodyBuilder, mixed: ir.Value, slots: Slots, token_slot: ir.Value) -> ir.Value:
    """[N, B, Mq, Hv] back to tokens: [T, N*Hv] in the node's element type, 0 for a token of no sequence."""
    heads = b.constant([b.form.integer("num_heads")])
    head_size = b.dim(mixed, 3)
    rows = b.reshape(mixed, heads, slots.count, head_size)
    rows = b.concat(rows, b.fill(b.concat(heads, b.constant([1]), head_size), 0, _FLOAT), axis=1)
    tokens = b.op("Transpose", b.op("Gather", rows, token_slot, axis=1), perm=[1, 0, 2])  # [T, N, Hv]
    return b.cast(b.reshape(tokens, slots.tokens, b.op("Mul", heads, head_size)), b.form.element_type)


def _packed_lse(b: BodyBuilder, lse: ir.Value, slots: Slots, token_slot: ir.Value) -> ir.Value:
    """[N, B, Mq, 1] back to tokens: [N, T], -inf for a token of no sequence."""
    heads = b.constant([b.form.integer("num_heads")])
    columns = b.reshape(lse, heads, slots.count)
    columns = b.concat(columns, b.fill(b.concat(heads, b.constant([1])), _MINUS_INFINITY, _FLOAT), axis=1)
    return b.op("Gather", columns, token_slot, axis=1)
