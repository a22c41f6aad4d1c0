"""Spellings of self-attention: functions (graph, x [B, S, hidden]) -> [B, S, hidden] before the output projection."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from helpers.encoder_graphs import POSITIONS, Encoder


def _projections(graph: Encoder, x: ir.Value, *, bias: bool = True) -> list[ir.Value]:
    spec = graph.spec
    widths = [spec.hidden, spec.kv_heads * spec.head_size, spec.kv_heads * spec.head_size]
    if not spec.fused_qkv:
        return [graph.linear(x, width, bias=bias) for width in widths]
    projected = graph.linear(x, sum(widths), bias=bias)
    pieces = graph.op.op_multi_out("Split", [projected, graph.ints(widths)], {"axis": -1}, num_outputs=3)
    return [graph.sized(piece, width) for piece, width in zip(pieces, widths, strict=True)]


def _rotate(graph: Encoder, x: ir.Value) -> ir.Value:
    """Rotary embedding by slot."""
    half, op = graph.spec.head_size // 2, graph.op
    angles = np.arange(POSITIONS)[:, None] * np.tile(10.0 ** -np.linspace(0, 1, half), 2)
    parts = []
    for table in (np.cos(angles), np.sin(angles)):
        whole = graph.constant(table, graph.numpy_type)
        rows = op.Slice(whole, graph.ints([0]), graph.size(1), graph.ints([0]))
        parts.append(op.Unsqueeze(rows, graph.ints([0, 1])))
    low = op.Slice(x, graph.ints([0]), graph.ints([half]), graph.ints([3]))
    high = op.Slice(x, graph.ints([half]), graph.ints([2**63 - 1]), graph.ints([3]))
    turned = op.Concat(op.Neg(high), low, axis=-1)
    return op.Add(op.Mul(x, parts[0]), op.Mul(turned, parts[1]))


def _repeat(graph: Encoder, x: ir.Value) -> ir.Value:
    """Grouped-query heads: [B, N_kv, S, H] to [B, N, S, H]."""
    spec, op = graph.spec, graph.op
    if spec.kv_heads == spec.heads:
        return x
    repeat = spec.heads // spec.kv_heads
    kv, size, heads = graph.ints([spec.kv_heads]), graph.ints([spec.head_size]), graph.ints([spec.heads])
    batch, length = graph.size(0), graph.size(1)
    target = op.Concat(batch, kv, graph.ints([repeat]), length, size, axis=0)
    wide = op.Expand(op.Unsqueeze(x, graph.ints([2])), target)
    return op.Reshape(wide, op.Concat(batch, heads, length, size, axis=0))


def _heads(graph: Encoder, x: ir.Value, *, repeat: bool = True) -> list[ir.Value]:
    spec = graph.spec
    counts = (spec.heads, spec.kv_heads, spec.kv_heads)
    parts = [graph.split_heads(p, n) for p, n in zip(_projections(graph, x), counts, strict=True)]
    if spec.rope:
        parts[:2] = [_rotate(graph, part) for part in parts[:2]]
    return [parts[0], *(_repeat(graph, part) if repeat else part for part in parts[1:])]


def _masked(graph: Encoder, scores: ir.Value) -> ir.Value:
    mask = graph.additive()
    return scores if mask is None else graph.op.Add(scores, mask)


def _eager(graph: Encoder, x: ir.Value, *, divide: bool) -> ir.Value:
    query, key, value = _heads(graph, x)
    op, root = graph.op, math.sqrt(graph.spec.head_size)
    scores = op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2]))
    scores = op.Div(scores, graph.number(root)) if divide else op.Mul(scores, graph.number(1 / root))
    weights = op.Softmax(_masked(graph, scores), axis=-1)
    graph.weights.append(weights)
    return graph.merge_heads(op.MatMul(weights, value))


def eager_mul(graph: Encoder, x: ir.Value) -> ir.Value:
    """Transformers' eager attention."""
    return _eager(graph, x, divide=False)


def eager_div(graph: Encoder, x: ir.Value) -> ir.Value:
    """Older eager attention."""
    return _eager(graph, x, divide=True)


def eager_sink(graph: Encoder, x: ir.Value) -> ir.Value:
    """GPT-OSS: a logit per head is one more column of the scores until the softmax is taken."""
    query, key, value = _heads(graph, x)
    op, spec, length = graph.op, graph.spec, graph.size(1)
    scores = op.Mul(op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2])), graph.number(spec.head_size**-0.5))
    column = op.Concat(graph.size(0), graph.ints([spec.heads]), length, graph.ints([1]), axis=0)
    sink = op.Expand(graph.weight(1, spec.heads, 1, 1), column)
    joined = op.Concat(_masked(graph, scores), sink, axis=-1)
    largest = graph.reduce("ReduceMax", joined, [-1], keepdims=True)
    weights = op.Softmax(op.Sub(joined, largest), axis=-1)
    kept = op.Slice(weights, graph.ints([0]), graph.ints([-1]), graph.ints([-1]))
    return graph.merge_heads(op.MatMul(kept, value))


def eager_where(graph: Encoder, x: ir.Value) -> ir.Value:
    """The mask chooses instead of being added."""
    query, key, value = _heads(graph, x)
    op = graph.op
    scores = op.Mul(op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2])), graph.number(graph.spec.head_size**-0.5))
    if graph.keep is not None:
        scores = op.Where(graph.keep, scores, graph.number(float(np.finfo(graph.numpy_type).min)))
    return graph.merge_heads(op.MatMul(op.Softmax(scores, axis=-1), value))


def sdpa(graph: Encoder, x: ir.Value) -> ir.Value:
    """scaled_dot_product_attention as torch.onnx decomposes it: 3-D K transpose, split scale, NaN guard."""
    query, key, value = _heads(graph, x)
    spec, op = graph.spec, graph.op
    batch, length = graph.size(0), graph.size(1)
    heads, size = graph.ints([spec.heads]), graph.ints([spec.head_size])
    rows = op.Reshape(key, op.Concat(graph.ints([-1]), length, size, axis=0))
    turned = op.Reshape(op.Transpose(rows, perm=[0, 2, 1]), op.Concat(batch, heads, size, length, axis=0))
    root = graph.number(spec.head_size**-0.25)
    scores = _masked(graph, op.MatMul(op.Mul(query, root), op.Mul(turned, root)))
    weights = op.Softmax(scores, axis=-1)
    guarded = op.Where(op.IsNaN(weights), graph.number(0.0), weights)
    return graph.merge_heads(op.MatMul(guarded, value))


def _merged(graph: Encoder, x: ir.Value) -> ir.Value:
    """[B, N, S, H] to [B*N, S, H]."""
    length, size = graph.size(1), graph.ints([graph.spec.head_size])
    return graph.op.Reshape(x, graph.op.Concat(graph.ints([-1]), length, size, axis=0))


def _apart(graph: Encoder, x: ir.Value, width: ir.Value) -> ir.Value:
    """[B*N, S, width] to [B, N, S, width]."""
    heads = graph.ints([graph.spec.heads])
    return graph.op.Reshape(x, graph.op.Concat(graph.size(0), heads, graph.size(1), width, axis=0))


def bmm(graph: Encoder, x: ir.Value) -> ir.Value:
    """torch.bmm on merged batch and heads, the mask repeated for every head and merged, too."""
    query, key, value = (_merged(graph, part) for part in _heads(graph, x))
    op = graph.op
    scores = op.Mul(op.MatMul(query, op.Transpose(key, perm=[0, 2, 1])), graph.number(graph.spec.head_size**-0.5))
    mask, length = graph.additive(), graph.size(1)
    if mask is not None:
        heads = graph.ints([graph.spec.heads])
        wide = op.Expand(mask, op.Concat(graph.size(0), heads, length, length, axis=0))
        merged = op.Concat(graph.ints([-1]), length, length, axis=0)
        scores = op.Add(scores, op.Reshape(wide, merged))
    mixed = op.MatMul(op.Softmax(scores, axis=-1), value)
    return graph.merge_heads(_apart(graph, mixed, graph.ints([graph.spec.head_size])))


def bmm_apart(graph: Encoder, x: ir.Value) -> ir.Value:
    """The products on merged batch and heads, mask and softmax on [B, N, S, S]."""
    query, key, value = (_merged(graph, part) for part in _heads(graph, x))
    op, length = graph.op, graph.size(1)
    scores = op.MatMul(query, op.Div(op.Transpose(key, perm=[0, 2, 1]), graph.number(graph.spec.head_size**0.5)))
    weights = op.Softmax(_masked(graph, _apart(graph, scores, length)), axis=-1)
    weights = op.Reshape(weights, op.Concat(graph.ints([-1]), length, length, axis=0))
    return graph.merge_heads(_apart(graph, op.MatMul(weights, value), graph.ints([graph.spec.head_size])))


def disentangled(graph: Encoder, x: ir.Value) -> ir.Value:
    """DeBERTa: content to position and position to content, looked up by clipped distance, on merged heads."""
    query, key, value = (_merged(graph, part) for part in _heads(graph, x))
    op, spec, length = graph.op, graph.spec, graph.size(1)
    reach, root = 3, graph.number((3 * spec.head_size) ** 0.5)
    slots = op.Range(graph.ints(0), op.Squeeze(length), graph.ints(1))
    distance = op.Sub(op.Unsqueeze(slots, graph.ints([1])), op.Unsqueeze(slots, graph.ints([0])))
    batch_heads = op.Mul(graph.size(0), graph.ints([spec.heads]))
    square = op.Concat(batch_heads, length, length, axis=0)
    repeats = op.Concat(graph.size(0), graph.ints([1]), graph.ints([1]), axis=0)

    def term(rows: ir.Value, signed: ir.Value) -> ir.Value:
        table = op.Tile(graph.weight(spec.heads, 2 * reach, spec.head_size), repeats)
        bucket = op.Clip(op.Add(signed, graph.ints(reach)), graph.ints(0), graph.ints(2 * reach - 1))
        index = op.Expand(op.Unsqueeze(bucket, graph.ints([0])), square)
        return op.GatherElements(op.MatMul(rows, op.Transpose(table, perm=[0, 2, 1])), index, axis=-1)

    by_query = op.Div(term(query, distance), root)
    by_key = op.Div(op.Transpose(term(key, op.Neg(distance)), perm=[0, 2, 1]), root)
    scores = op.MatMul(query, op.Div(op.Transpose(key, perm=[0, 2, 1]), root))
    scores = _masked(graph, _apart(graph, op.Add(scores, op.Add(by_query, by_key)), length))
    weights = op.Reshape(op.Softmax(scores, axis=-1), op.Concat(graph.ints([-1]), length, length, axis=0))
    return graph.merge_heads(_apart(graph, op.MatMul(weights, value), graph.ints([spec.head_size])))


def attention_4d(graph: Encoder, x: ir.Value) -> ir.Value:
    """ONNX Attention on [B, N, S, H]; grouped heads are its own."""
    query, key, value = _heads(graph, x, repeat=False)
    keep = graph.square_keep()
    mask = [] if keep is None else [keep]
    return graph.merge_heads(graph.op.Attention(query, key, value, *mask))


def attention_4d_causal(graph: Encoder, x: ir.Value) -> ir.Value:
    """ONNX Attention that is causal itself, with an additive mask."""
    keep = graph.square_keep()
    mask = [] if keep is None else [graph.op.Where(keep, graph.number(0.0), graph.number(-1e4))]
    return graph.merge_heads(graph.op.Attention(*_heads(graph, x), *mask, is_causal=1))


def attention_3d(graph: Encoder, x: ir.Value) -> ir.Value:
    """ONNX Attention on [B, S, N*H]."""
    spec = graph.spec
    keep = graph.square_keep()
    mask = [] if keep is None else [keep]
    return graph.sized(
        graph.op.Attention(*_projections(graph, x), *mask, q_num_heads=spec.heads, kv_num_heads=spec.kv_heads),
        spec.hidden,
    )


def _key_padding(graph: Encoder) -> ir.Value:
    return graph.op.Cast(graph.mask, to=ir.DataType.INT32)


def mha(graph: Encoder, x: ir.Value) -> ir.Value:
    """com.microsoft.MultiHeadAttention with key_padding_mask."""
    inputs = [*_projections(graph, x), None, _key_padding(graph)]
    return graph.sized(graph.contrib("MultiHeadAttention", inputs, num_heads=graph.spec.heads)[0], graph.spec.hidden)


def mha_bias(graph: Encoder, x: ir.Value) -> ir.Value:
    """com.microsoft.MultiHeadAttention that adds the projections' bias."""
    bias = graph.weight(3 * graph.spec.hidden, scale=0.1)
    inputs = [*_projections(graph, x, bias=False), bias, _key_padding(graph)]
    return graph.sized(graph.contrib("MultiHeadAttention", inputs, num_heads=graph.spec.heads)[0], graph.spec.hidden)


def mha_attention_bias(graph: Encoder, x: ir.Value) -> ir.Value:
    """com.microsoft.MultiHeadAttention with an additive mask [B, 1, S, S]."""
    mask = graph.additive()
    if mask is not None:
        shape = graph.op.Concat(graph.size(0), graph.ints([1]), graph.size(1), graph.size(1), axis=0)
        mask = graph.op.Expand(mask, shape)
    inputs = [*_projections(graph, x), None, None, mask]
    return graph.sized(graph.contrib("MultiHeadAttention", inputs, num_heads=graph.spec.heads)[0], graph.spec.hidden)


def contrib_attention(graph: Encoder, x: ir.Value) -> ir.Value:
    """com.microsoft.Attention, which projects itself."""
    width = graph.spec.hidden
    inputs = [x, graph.weight(width, 3 * width, scale=width**-0.5), graph.weight(3 * width), _key_padding(graph)]
    return graph.sized(graph.contrib("Attention", inputs, num_heads=graph.spec.heads)[0], width)


SPELLINGS: dict[str, Callable[[Encoder, ir.Value], ir.Value]] = {
    "eager_mul": eager_mul,
    "eager_div": eager_div,
    "eager_where": eager_where,
    "eager_sink": eager_sink,
    "sdpa": sdpa,
    "bmm": bmm,
    "bmm_apart": bmm_apart,
    "disentangled": disentangled,
    "attention_4d": attention_4d,
    "attention_4d_causal": attention_4d_causal,
    "attention_3d": attention_3d,
    "mha": mha,
    "mha_bias": mha_bias,
    "mha_attention_bias": mha_attention_bias,
    "contrib_attention": contrib_attention,
}
