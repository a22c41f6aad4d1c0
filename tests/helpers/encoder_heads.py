"""What tiny encoders put out: functions (graph, hidden states [B, S, hidden]) -> outputs by name."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from helpers.encoder_graphs import PAD, Encoder

Outputs = dict[str, ir.Value]


def hidden(graph: Encoder, x: ir.Value) -> Outputs:
    """The hidden states."""
    return {"last_hidden_state": x}


def token_logits(graph: Encoder, x: ir.Value) -> Outputs:
    """Token classification."""
    return {"logits": graph.linear(x, 3)}


def question_answering(graph: Encoder, x: ir.Value) -> Outputs:
    """Start and end logits [B, S]."""
    pieces = graph.op.op_multi_out("Split", [graph.linear(x, 2), graph.ints([1, 1])], {"axis": -1}, num_outputs=2)
    names = ("start_logits", "end_logits")
    return {name: graph.op.Squeeze(p, graph.ints([-1])) for name, p in zip(names, pieces, strict=True)}


def _dense(graph: Encoder, row: ir.Value) -> ir.Value:
    width = graph.spec.hidden
    return graph.op.Tanh(graph.op.Gemm(row, graph.weight(width, 3), graph.weight(3), transB=0))


def cls_gather(graph: Encoder, x: ir.Value) -> Outputs:
    """BERT's pooler: Gather of slot 0."""
    return {"pooled": _dense(graph, graph.op.Gather(x, graph.ints(0), axis=1))}


def cls_slice(graph: Encoder, x: ir.Value) -> Outputs:
    """Slot 0 by Slice and Squeeze."""
    cut = graph.op.Slice(x, graph.ints([0]), graph.ints([1]), graph.ints([1]))
    return {"pooled": _dense(graph, graph.op.Squeeze(cut, graph.ints([1])))}


def slot(graph: Encoder, x: ir.Value) -> Outputs:
    """One given slot; -1 is the last."""
    return {"pooled": _dense(graph, graph.op.Gather(x, graph.ints(graph.spec.slot), axis=1))}


def slot_slice(graph: Encoder, x: ir.Value) -> Outputs:
    """One given slot, its axis kept."""
    number = graph.spec.slot
    end = number + 1 if number != -1 else 2**63 - 1
    cut = graph.op.Slice(x, graph.ints([number]), graph.ints([end]), graph.ints([1]))
    return {"pooled": cut}


def two(graph: Encoder, x: ir.Value) -> Outputs:
    """Hidden states and pooler."""
    return hidden(graph, x) | cls_gather(graph, x)


def _float_mask(graph: Encoder) -> ir.Value:
    return graph.op.Cast(graph.op.Unsqueeze(graph.mask, graph.ints([-1])), to=graph.dtype)


def masked_mean(graph: Encoder, x: ir.Value) -> Outputs:
    """Sum of x * mask over sum of mask."""
    mask = _float_mask(graph)
    total = graph.reduce("ReduceSum", graph.op.Mul(x, mask), [1], keepdims=False)
    count = graph.op.Clip(graph.reduce("ReduceSum", mask, [1], keepdims=False), graph.number(1e-3))
    return {"pooled": graph.op.Div(total, count)}


def masked_mean_expand(graph: Encoder, x: ir.Value) -> Outputs:
    """sentence-transformers' mean: the mask is expanded to the hidden states first."""
    mask = graph.op.Cast(
        graph.op.Expand(graph.op.Unsqueeze(graph.mask, graph.ints([-1])), graph.op.Shape(x)), to=graph.dtype
    )
    total = graph.reduce("ReduceSum", graph.op.Mul(x, mask), [1], keepdims=False)
    count = graph.op.Clip(graph.reduce("ReduceSum", mask, [1], keepdims=False), graph.number(1e-3))
    return {"pooled": graph.op.Div(total, count)}


def mean(graph: Encoder, x: ir.Value) -> Outputs:
    """A mean over padded slots as well."""
    return {"pooled": graph.reduce("ReduceMean", x, [1], keepdims=False)}


def masked_max(graph: Encoder, x: ir.Value) -> Outputs:
    """Maximum over tokens; padded slots are filled with a large negative number."""
    keep = graph.op.Cast(graph.op.Unsqueeze(graph.mask, graph.ints([-1])), to=ir.DataType.BOOL)
    filled = graph.op.Where(keep, x, graph.number(-1e4))
    return {"pooled": graph.reduce("ReduceMax", filled, [1], keepdims=False)}


def token_softmax(graph: Encoder, x: ir.Value) -> Outputs:
    """Attention pooling without a mask."""
    return {"pooled": graph.op.Softmax(x, axis=1)}


def weights(graph: Encoder, x: ir.Value) -> Outputs:
    """Hidden states and the first layer's attention weights."""
    return {"last_hidden_state": x, "attentions": graph.weights[0]}


def last_by_length(graph: Encoder, x: ir.Value) -> Outputs:
    """The token at length - 1, as text classifiers of decoders gather it."""
    lengths = graph.reduce("ReduceSum", graph.op.Cast(graph.mask, to=ir.DataType.INT64), [1], keepdims=False)
    return {"pooled": _at(graph, x, graph.op.Sub(lengths, graph.ints(1)))}


def last_token(graph: Encoder, x: ir.Value) -> Outputs:
    """The last token, wherever it stands: the largest of slot * mask."""
    kept = graph.op.Mul(graph.slots(), graph.op.Cast(graph.mask, to=ir.DataType.INT64))
    return {"pooled": _at(graph, x, graph.op.ArgMax(kept, axis=1, keepdims=0))}


def last_by_ids(graph: Encoder, x: ir.Value) -> Outputs:
    """The last slot whose id is not that of padding, as transformers' text classifiers of decoders choose it."""
    kept = graph.op.Cast(graph.op.Not(graph.op.Equal(graph.ids, graph.ints(PAD))), to=ir.DataType.INT64)
    chosen = graph.op.ArgMax(graph.op.Mul(graph.slots(), kept), axis=1, keepdims=0)
    return {"pooled": _at(graph, x, chosen)}


def _at(graph: Encoder, x: ir.Value, last: ir.Value) -> ir.Value:
    """x[arange(B), last]."""
    rows = graph.op.Range(graph.ints(0), graph.op.Squeeze(graph.size(0)), graph.ints(1))
    pairs = [graph.op.Unsqueeze(value, graph.ints([-1])) for value in (rows, last)]
    return graph.op.GatherND(x, graph.op.Concat(*pairs, axis=-1))


HEADS: dict[str, Callable[[Encoder, ir.Value], Outputs]] = {
    function.__name__: function
    for function in (
        hidden, token_logits, question_answering, cls_gather, cls_slice, slot, slot_slice, two, masked_mean,
        masked_mean_expand, mean, masked_max, token_softmax, weights, last_by_length,
        last_token, last_by_ids,
    )
}  # fmt: skip
