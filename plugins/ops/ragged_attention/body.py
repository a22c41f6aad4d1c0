"""Function body of RaggedAttention: re-expansion to [B, max_seqlen], masked softmax, gather back.

Memory is that of padded attention: scores are [N, B, Mq, Mk], never T x T, and key/value heads are not repeated. One
gather of rows [H] both pads and puts the heads first, and one brings the result back, so nothing is transposed.
The body of an engine multiplies in the element type and normalises in float32, and the gather repeats key/value heads:
from one product to the other there is then what engines have one kernel for.
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

_HARMLESS_SCALES = frozenset(2.0**-exponent for exponent in range(9))
"""Powers of two: 16 bits lose nothing by them."""

HIDDEN = -8e37
"""Added to the score of a key that is not visible; also the least bias. Two of them and a score stay finite, so a row
that sees nothing has no NaN to spread."""


def build(b: BodyBuilder) -> Sequence[ir.Value]:
    """The op's outputs as standard ops, in float32 but for the products of an engine.

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
        if b.form.engine:  # a sum of unnormalised weights may be beyond 16 bits
            mixed = _grouped_product(b, _narrowed(b, b.op("Div", weights, total)), value)
        else:
            mixed = b.op("Div", _grouped_product(b, weights, value), total)
    else:
        mixed = _grouped_product(b, _narrowed(b, b.op("Softmax", scores, axis=-1)), value)
    if seen is not None:
        mixed = b.op("Mul", mixed, b.cast(seen, b.form.product_type))
    row, inside = _row_of_token(b, queries)
    outputs = [_packed(b, mixed, row, inside)]
    if "lse" in b.form.outputs and lse is not None:
        outputs.append(_lse_of_tokens(b, lse, row, inside))
    return outputs


def _sees_itself(b: BodyBuilder) -> bool:
    """Whether every token of a sequence is sure to see a key, itself, so that no row needs to be made zero."""
    hiding = {"positions_k", "bias", "distance_bias", "tile_ptr"}
    return b.form.engine and not b.form.cross and not hiding & set(b.form.inputs)


def _narrowed(b: BodyBuilder, value: ir.Value) -> ir.Value:
    """A float32 value as the products take it."""
    return value if b.form.product_type == _FLOAT else b.cast(value, b.form.product_type)


def _widened(b: BodyBuilder, value: ir.Value) -> ir.Value:
    """What a product gave as float32."""
    return value if b.form.product_type == _FLOAT else b.cast(value, _FLOAT)


def _kv_heads(b: BodyBuilder) -> int:
    return b.form.integer("kv_num_heads") or b.form.integer("num_heads")


def _group(b: BodyBuilder) -> int:
    return b.form.integer("num_heads") // _kv_heads(b)


def _padded(b: BodyBuilder, name: str, slots: Slots, heads: int) -> ir.Value:
    """Input [T, heads*H] at padded slots: [heads, B, M, H] in the type of the products; [N, B, M, H] in an engine."""
    packed = b.input(name)
    if not b.form.engine or b.form.product_type != b.form.element_type:
        packed = b.cast(packed, _FLOAT)
    width = b.width(name)
    head_size = b.op("Div", b.dim(packed, 1), b.constant([heads])) if width is None else b.constant([width // heads])
    rows = b.op("Mul", slots.tokens, b.constant([heads]))
    by_head = b.reshape(packed, rows, head_size)
    if slots.zero_row:
        by_head = b.concat(by_head, b.fill(b.concat(b.constant([1]), head_size), 0, b.form.product_type))
    row = b.op("Add", b.op("Mul", slots.token, b.constant(heads)), _each_head(b, heads, 3, _repeats(b, heads)))
    return b.op("Gather", by_head, b.op("Min", row, rows) if slots.zero_row else row, axis=0)


def _repeats(b: BodyBuilder, heads: int) -> int:
    """How often each of an input's heads is gathered: in an engine key/value heads as often as they serve."""
    return b.form.integer("num_heads") // heads if b.form.engine else 1


def _each_head(b: BodyBuilder, heads: int, rank: int, repeats: int = 1) -> ir.Value:
    """0, 1, … heads - 1 along the first of `rank` axes, each so many times."""
    return b.constant(np.arange(heads).repeat(repeats).reshape(-1, *[1] * (rank - 1)))


def _masked_scores(b: BodyBuilder, queries: Slots, keys: Slots) -> tuple[ir.Value, ir.Value | None]:
    """Scores float32 [N, B, Mq, Mk], and which rows see a key: bool, a shape that broadcasts to [N, B, Mq, 1].

    None instead of the latter where every row that is read does.
    """
    visible = visible_keys(b, queries, keys)  # [B, 1 or Mq, Mk] or [1 or N, B, Mq, Mk]
    mask = b.op("Mul", b.cast(b.op("Not", visible), _FLOAT), b.real(HIDDEN))
    scores = _scores(b, queries, keys)
    bias = additive_bias(b, queries, keys)
    if bias is not None:
        bias = b.op("Max", bias, b.real(HIDDEN))
        if b.form.engine:  # one tensor is added, of which layers may have one in common
            mask = b.op("Add", bias, mask)
        else:
            scores = b.op("Add", scores, bias)
    scores = b.op("Add", scores, mask)
    if _sees_itself(b):
        return scores, None
    if bias is not None:  # a bias of -inf hides too; scores that an engine reads twice cost it its one kernel
        return scores, b.op("Greater", b.reduce("ReduceMax", mask if b.form.engine else scores, 3), b.real(HIDDEN / 2))
    axis = 3 if "tile_ptr" in b.form.inputs else 2  # ONNX Runtime miscounts the last axis of an empty tensor as -1
    return scores, b.cast(b.reduce("ReduceSum", b.cast(visible, _FLOAT), axis), _BOOL)


def _scores(b: BodyBuilder, queries: Slots, keys: Slots) -> ir.Value:
    """Scale * q k^T, capped where asked: float32 [N, B, Mq, Mk]."""
    query = _scaled(b, _padded(b, "query", queries, b.form.integer("num_heads")))
    key = b.op("Transpose", _padded(b, "key", keys, _kv_heads(b)), perm=[0, 1, 3, 2])  # [K, B, H, Mk]
    scores = _widened(b, _grouped_product(b, query, key))
    cap = b.form.number("softcap")
    return _capped(b, scores, cap) if cap else scores


def _capped(b: BodyBuilder, scores: ir.Value, cap: float) -> ir.Value:
    """Cap * tanh(scores / cap)."""
    if b.form.product_type == _FLOAT:
        return b.op("Mul", b.op("Tanh", b.op("Div", scores, b.real(cap))), b.real(cap))
    # the same by exp: the one kernel of engines knows no tanh; differs by 1e-7 * cap
    grown = b.op("Exp", b.op("Mul", scores, b.real(2 / cap)))
    return b.op("Sub", b.real(cap), b.op("Div", b.real(2 * cap), b.op("Add", grown, b.real(1))))


def _scaled(b: BodyBuilder, query: ir.Value) -> ir.Value:
    """The scale goes into the query, before the product, so that large scores stay within 16 bits."""
    scale, width = b.form.number("scale"), b.width("query")
    if not scale and width is not None:
        scale = (width // b.form.integer("num_heads")) ** -0.5
    if b.form.product_type == _FLOAT:
        return b.op("Mul", query, b.real(scale) if scale else _default_scale(b))
    if scale in _HARMLESS_SCALES:
        return b.op("Mul", query, b.constant(scale, b.form.product_type))
    wide = b.op("Mul", _widened(b, query), b.real(scale) if scale else _default_scale(b))
    return _narrowed(b, wide)


def _default_scale(b: BodyBuilder) -> ir.Value:
    """1 / sqrt(H): float32 [1]."""
    head_size = b.op("Div", b.dim(b.input("query"), 1), b.constant([b.form.integer("num_heads")]))
    return b.op("Reciprocal", b.op("Sqrt", b.cast(head_size, _FLOAT)))


def _softmax_parts(b: BodyBuilder, scores: ir.Value, seen: ir.Value | None) -> tuple[ir.Value, ir.Value, ir.Value]:
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
    if seen is None:
        return weights, total, b.op("Add", top, b.op("Log", total))
    total = b.op("Where", seen, total, b.real(1))  # without any key it would be 0
    lse = b.op("Where", seen, b.op("Add", top, b.op("Log", total)), b.real(_MINUS_INFINITY))
    return weights, total, lse


def _grouped_product(b: BodyBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    """Left [N, B, m, k] times right [K, B, k, n], each right one serving G left ones: [N, B, m, n]."""
    if _group(b) == 1 or b.form.engine:
        return b.op("MatMul", left, right)
    left = b.reshape(left, b.constant([_kv_heads(b), _group(b)]), b.dims(left, 1))
    product = b.op("MatMul", left, b.unsqueeze(right, 1))  # [K, G, B, m, n]
    return b.reshape(product, b.constant([b.form.integer("num_heads")]), b.dims(product, 2))


def _row_of_token(b: BodyBuilder, slots: Slots) -> tuple[ir.Value, ir.Value]:
    """Row of each token and head in a tensor [N*B*M, …]: int64 [T, N]; and whether the token is of a sequence: [T, 1].

    The row of a token of no sequence is N*B*M, in an engine 0.
    """
    heads = b.form.integer("num_heads")
    slot = b.unsqueeze(slots.slot_of_token(b), 1)  # [T, 1]
    row = b.op("Add", b.op("Mul", _each_head(b, heads, 1), slots.count), slot)
    inside = b.op("Less", slot, slots.count)
    nowhere = b.constant([0]) if b.form.engine else b.op("Mul", slots.count, b.constant(heads))
    return b.op("Where", inside, row, nowhere), inside


def _packed(b: BodyBuilder, mixed: ir.Value, row: ir.Value, inside: ir.Value) -> ir.Value:
    """[N, B, Mq, Hv] back to tokens: [T, N*Hv] in the node's element type, 0 for a token of no sequence."""
    if b.form.engine:
        return _packed_in_engine(b, mixed, row, inside)
    head_size = b.dim(mixed, 3)
    rows = b.reshape(mixed, b.product(*(b.dim(mixed, axis) for axis in range(3))), head_size)
    rows = b.concat(rows, b.fill(b.concat(b.constant([1]), head_size), 0, _FLOAT))
    tokens = b.op("Gather", rows, row, axis=0)  # [T, N, Hv]
    width = b.op("Mul", b.dim(row, 1), head_size)
    return b.cast(b.reshape(tokens, b.dim(row, 0), width), b.form.element_type)


def _packed_in_engine(b: BodyBuilder, mixed: ir.Value, row: ir.Value, inside: ir.Value) -> ir.Value:
    """The same without a row of zeros, for which all others would have to be copied."""
    heads, width = b.form.integer("num_heads"), b.width("value")
    head_size = b.dim(mixed, 3) if width is None else b.constant([width // _kv_heads(b)])
    rows = b.reshape(mixed, b.constant([-1]), head_size)
    tokens = b.op("Gather", rows, row, axis=0)  # [T, N, Hv]
    tokens = b.op("Where", b.unsqueeze(inside, 2), tokens, b.constant(0, b.form.product_type))
    tokens = b.reshape(tokens, b.constant([-1]), b.op("Mul", head_size, b.constant([heads])))
    return tokens if b.form.product_type == b.form.element_type else b.cast(tokens, b.form.element_type)


def _lse_of_tokens(b: BodyBuilder, lse: ir.Value, row: ir.Value, inside: ir.Value) -> ir.Value:
    """[N, B, Mq, 1] back to tokens: [N, T], minus infinity for a token of no sequence."""
    flat = b.op("Reshape", lse, b.constant([-1]))
    if b.form.engine:
        tokens = b.op("Where", inside, b.op("Gather", flat, row, axis=0), b.real(_MINUS_INFINITY))
        return b.op("Transpose", tokens, perm=[1, 0])
    flat = b.concat(flat, b.real([_MINUS_INFINITY]))
    return b.op("Gather", flat, b.op("Transpose", row, perm=[1, 0]), axis=0)
