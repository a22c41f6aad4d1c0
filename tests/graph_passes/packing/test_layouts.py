"""Layouts and readers behind attention that invite wrong values: each is packed exactly, or refused with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from helpers.attended import WIDTH, Attended, embeddings, rewritten_tail
from helpers.encoder_runs import FP32, MASK, plain_session, rewritten, run
from helpers.tolerances import assert_close
from raggedrt.errors import FeatureError
from raggedrt.plugins.runtime.ort import ort_session

pytestmark = pytest.mark.ort_cpu

Build = Callable[[Attended], ir.Value]
VALID = MASK != 0


def _keep(g: Attended) -> ir.Value:
    return g.op.Unsqueeze(g.keep, g.ints([-1]))


def _masked(g: Attended) -> ir.Value:
    return g.op.Mul(g.y, g.tokens())


def _first(g: Attended) -> ir.Value:
    return g.op.Slice(g.y, g.ints([0]), g.ints([1]), g.ints([1]))


def _merged(g: Attended) -> ir.Value:
    """Arithmetic on [B, S*16] in front of attention."""
    flat = g.op.Add(g.op.Reshape(g.x, g.ints([0, -1])), g.number(1.0))
    return g.attend(g.op.Reshape(flat, g.ints([0, -1, WIDTH])))


def _merged_running_sum(g: Attended) -> ir.Value:
    """The same with an op in between that cannot be repeated on tokens."""
    flat = g.op.CumSum(g.op.Reshape(g.x, g.ints([0, -1])), g.ints(1))
    return g.attend(g.op.Reshape(flat, g.ints([0, -1, WIDTH])))


def _per_head_norm(g: Attended) -> ir.Value:
    rows = g.op.Reshape(g.y, g.ints([0, -1, 8]))
    return g.op.Reshape(g.op.LayerNormalization(rows, g.weight(8), g.weight(8)), g.ints([0, -1, WIDTH]))


def _batch_times_heads(g: Attended) -> ir.Value:
    """[B*N, S, H] as torch's bmm wants it."""
    length, batch = g.op.Shape(g.x, start=1, end=2), g.op.Shape(g.x, start=0, end=1)
    rows = g.op.Reshape(g.heads(g.y), g.op.Concat(g.ints([-1]), length, g.ints([8]), axis=0))
    back = g.op.Reshape(g.op.Relu(rows), g.op.Concat(batch, g.ints([2, -1, 8]), axis=0))
    return g.op.Transpose(back, perm=[0, 2, 1, 3])


def _chosen(g: Attended, times: int, width: int) -> ir.Value:
    """The slot at the row's length (or the last), `width` features of it, by GatherElements."""
    counted = g.reduce("ReduceSum", g.mask, [1], keepdims=True)
    last = g.op.Sub(g.op.Squeeze(g.op.Shape(g.x, start=1, end=2)), g.ints(1))
    slots = g.op.Unsqueeze(g.op.Min(counted, last), g.ints([-1]))
    target = g.op.Concat(g.op.Shape(g.x, start=0, end=1), g.ints([times, width]), axis=0)
    return g.op.GatherElements(g.y, g.op.Expand(slots, target), axis=1)


def _shifted(g: Attended, x: ir.Value) -> ir.Value:
    """Each slot gets the one before it, the first zeros."""
    batch = g.op.Shape(g.x, start=0, end=1)
    zeros = g.op.ConstantOfShape(g.op.Concat(batch, g.ints([1, WIDTH]), axis=0))
    return g.op.Concat(zeros, g.op.Slice(x, g.ints([0]), g.ints([-1]), g.ints([1])), axis=1)


def _convolved(g: Attended, pads: list[int], kernel: int, dilation: int = 1) -> ir.Value:
    slots_last = g.op.Transpose(_masked(g), perm=[0, 2, 1])
    mixed = g.op.Conv(slots_last, g.weight(WIDTH, WIDTH, kernel), g.weight(WIDTH), pads=pads, dilations=[dilation])
    return g.op.Add(g.y, g.op.Transpose(mixed, perm=[0, 2, 1]))


def _two_convolutions(g: Attended) -> ir.Value:
    """Padding in front of the first alone; in between there is one slot more than the row has (ZAYA)."""
    first = g.op.Conv(g.op.Transpose(_masked(g), perm=[0, 2, 1]), g.weight(WIDTH, 1, 2), pads=[2, 0], group=WIDTH)
    second = g.op.Conv(first, g.weight(WIDTH, WIDTH, 2))
    return g.attend(g.op.Add(g.y, g.op.Transpose(second, perm=[0, 2, 1])))


def _experts(g: Attended) -> ir.Value:
    """Each token is multiplied with the matrices of the two experts that it is sent to (GPT-OSS)."""
    rows = g.op.Reshape(g.y, g.ints([-1, WIDTH]))
    scores, chosen = g.op.op_multi_out("TopK", [g.op.MatMul(rows, g.weight(WIDTH, 3)), g.ints([2])], num_outputs=2)
    twice = g.op.Expand(g.op.Unsqueeze(rows, g.ints([1])), g.ints([1, 2, 1]))
    flat = g.op.Unsqueeze(g.op.Reshape(twice, g.ints([-1, WIDTH])), g.ints([1]))
    matrices = g.op.Gather(g.weight(3, WIDTH, 5), g.op.Reshape(chosen, g.ints([-1])), axis=0)
    mixed = g.op.Squeeze(g.op.MatMul(flat, matrices), g.ints([1]))
    weights = g.op.Reshape(g.op.Softmax(scores, axis=-1), g.ints([-1, 1]))
    both = g.op.Reshape(g.op.Mul(mixed, weights), g.ints([-1, 2, 5]))
    total = g.reduce("ReduceSum", both, [1], keepdims=False)
    return g.op.Reshape(total, g.op.Concat(g.op.Shape(g.x, start=0, end=2), g.ints([5]), axis=0))


PER_TOKEN: dict[str, Build] = {
    "a causal convolution": lambda g: _convolved(g, [2, 0], 3),
    "a centred convolution": lambda g: _convolved(g, [1, 1], 3),
    "a dilated convolution": lambda g: _convolved(g, [2, 2], 3, dilation=2),
    "two convolutions": _two_convolutions,
    "the token before": lambda g: g.attend(g.op.Add(g.y, _shifted(g, _masked(g)))),
    "two tokens after": lambda g: g.op.Add(
        g.y,
        g.op.Concat(
            g.op.Slice(_masked(g), g.ints([2]), g.ints([2**31]), g.ints([1])),
            g.op.ConstantOfShape(g.op.Concat(g.op.Shape(g.x, start=0, end=1), g.ints([2, WIDTH]), axis=0)),
            axis=1,
        ),
    ),
    "a convolution of few channels at a time": lambda g: g.op.Transpose(
        g.op.Conv(g.op.Transpose(_masked(g), perm=[0, 2, 1]), g.weight(WIDTH, 4, 3), pads=[1, 1], group=4),
        perm=[0, 2, 1],
    ),
    "zeros that were multiplied": lambda g: _shifted(g, g.op.MatMul(_masked(g), g.weight(WIDTH, WIDTH))),
    "experts": _experts,
    "merged with features before attention": _merged,
    "merged, by an op that mixes": _merged_running_sum,
    "heads as rows": _per_head_norm,
    "batch times heads": _batch_times_heads,
    "slots first and back": lambda g: g.op.Transpose(
        g.op.Add(g.op.Transpose(g.y, perm=[1, 0, 2]), g.weight(WIDTH)), perm=[1, 0, 2]
    ),
    "an axis before the batch": lambda g: g.op.Squeeze(
        g.op.Add(g.op.Unsqueeze(g.y, g.ints([0])), g.weight(1, 1, 1, WIDTH)), g.ints([0])
    ),
    "an axis behind the slots": lambda g: g.op.Add(g.op.Unsqueeze(g.y, g.ints([2])), g.weight(1, 1, 3, WIDTH)),
    "a fixed slot for every token": lambda g: g.op.Add(g.y, _first(g)),
    "attention after a fixed slot": lambda g: g.attend(g.op.Mul(g.y, _first(g))),
    "a masked sum for every token": lambda g: g.op.Sub(g.y, g.reduce("ReduceSum", _masked(g), [1], keepdims=True)),
    "running sum of masked values": lambda g: g.op.CumSum(_masked(g), g.ints(1)),
    "softmax over visible tokens": lambda g: g.op.Softmax(g.op.Where(_keep(g), g.y, g.number(-1e9)), axis=1),
    "zeros at padded slots": lambda g: g.op.Where(_keep(g), g.y, g.number(0.0)),
    "a weight with a batch axis": lambda g: g.op.MatMul(g.y, g.weight(1, WIDTH, 4)),
    "type of a vector": lambda g: g.op.CastLike(g.op.ReduceSum(g.y, g.ints([2])), g.constant([1, 2, 3], np.float32)),
}
"""Outputs [B, S, ...]."""
PER_ROW: dict[str, Build] = {
    "largest of masked values": lambda g: g.reduce("ReduceMax", _masked(g), [1], keepdims=False),
    "mean of masked values": lambda g: g.reduce("ReduceMean", _masked(g), [1], keepdims=False),
    "smallest of filled values": lambda g: g.reduce(
        "ReduceMin", g.op.Where(_keep(g), g.y, g.number(7.0)), [1], keepdims=False
    ),
    "log-sum of visible values": lambda g: g.reduce(
        "ReduceLogSumExp", g.op.Where(_keep(g), g.y, g.number(-np.inf)), [1], keepdims=False
    ),
    "sum over tokens and features": lambda g: g.reduce("ReduceSum", _masked(g), [1, 2], keepdims=False),
    "a slot chosen at run time": lambda g: _chosen(g, 1, WIDTH),
    "slot of the largest": lambda g: g.op.ArgMax(_masked(g), axis=1),
}
"""Outputs [B, ...]."""
REFUSED: dict[str, tuple[Build, str]] = {
    "slots merged into features": (lambda g: g.op.Flatten(g.y, axis=1), "cannot be laid out"),
    "batch merged into slots": (lambda g: g.op.Flatten(g.y, axis=2), "cannot be laid out"),
    "slots merged into heads": (lambda g: g.op.Reshape(g.y, g.ints([0, -1, 8])), "cannot be laid out"),
    "all but the last slot": (
        lambda g: g.op.Slice(g.y, g.ints([0]), g.ints([-1]), g.ints([1])), "Slice reads padded slots"),
    "two slots": (lambda g: g.op.Gather(g.y, g.ints([0, 1]), axis=1), "Gather reads padded slots"),
    "every other slot": (
        lambda g: g.op.Slice(g.y, g.ints([0]), g.ints([99]), g.ints([1]), g.ints([2])), "Slice reads padded slots"),
    "slots backwards": (
        lambda g: g.op.Slice(g.y, g.ints([-1]), g.ints([-99]), g.ints([1]), g.ints([-1])), "Slice reads padded"),
    "one row": (lambda g: g.op.Gather(g.y, g.ints([0]), axis=0), "mixes sequences"),
    "mean over the batch": (lambda g: g.reduce("ReduceMean", g.y, [0], keepdims=True), "mixes sequences"),
    "slots against slots": (
        lambda g: g.reduce(
            "ReduceSum", g.op.Sub(g.op.Unsqueeze(g.y, g.ints([1])), g.op.Unsqueeze(g.y, g.ints([2]))), [1],
            keepdims=False), "mixes tokens"),
    "largest slot": (lambda g: g.op.ArgMax(g.y, axis=1), "ArgMax reads padded slots"),
    "convolution of what padding holds": (
        lambda g: g.op.Conv(g.op.Transpose(g.y, perm=[0, 2, 1]), g.weight(4, WIDTH, 3), pads=[1, 1]),
        "Conv mixes neighbouring tokens"),
    "the tokens before, of what padding holds": (
        lambda g: _shifted(g, g.y), "Slice reads padded slots"),
    "a matrix per sequence": (
        lambda g: g.op.MatMul(g.y, g.op.Expand(g.weight(1, WIDTH, 4), g.op.Concat(
            g.op.Shape(g.x, start=0, end=1), g.ints([WIDTH, 4]), axis=0))), "multiplies tokens by tokens"),
    "nothing, up to slot zero": (
        lambda g: g.op.Slice(g.y, g.ints([-1]), g.ints([0]), g.ints([1])), "Slice reads padded slots"),
    "the last slot of short batches only": (
        lambda g: g.op.Slice(g.y, g.ints([-1]), g.ints([5]), g.ints([1])), "Slice reads padded slots"),
    "some features of a chosen slot": (lambda g: _chosen(g, 1, 8), "GatherElements"),
    "a chosen slot three times": (lambda g: _chosen(g, 3, WIDTH), "GatherElements"),
    "no transfer rule": (lambda g: g.op.Einsum(g.y, g.weight(WIDTH, 4), equation="bsh,hk->bsk"), "Einsum"),
    "weights per sequence": (
        lambda g: g.op.MatMul(g.y, g.op.Transpose(_first(g), perm=[0, 2, 1])), "multiplies tokens by tokens"),
    "a mask that is one at padded slots": (
        lambda g: g.reduce("ReduceSum", g.op.Mul(g.y, g.op.Sub(g.number(1.0), g.tokens())), [1], keepdims=False),
        "ReduceSum reads padded slots"),
    "a mask of the first slot alone": (
        lambda g: g.reduce("ReduceSum", g.op.Mul(g.y, g.op.Slice(
            g.tokens(), g.ints([0]), g.ints([1]), g.ints([1]))), [1], keepdims=False), "ReduceSum reads"),
    "a mask turned round": (
        lambda g: g.reduce("ReduceSum", g.op.Mul(g.y, g.op.Slice(
            g.tokens(), g.ints([-1]), g.ints([-99]), g.ints([1]), g.ints([-1]))), [1], keepdims=False), "reads padded"),
    "a running count as mask": (
        lambda g: g.reduce("ReduceSum", g.op.Mul(g.y, g.op.CumSum(g.tokens(), g.ints(1))), [1], keepdims=False),
        "ReduceSum reads padded slots"),
}  # fmt: skip


def _compare(build: Build, places: np.ndarray[Any, Any], **config: Any) -> None:
    pair = rewritten_tail(build, **config)
    assert "RaggedAttention" in pair.ops
    feed = embeddings()
    want, got = run(plain_session(pair.original), feed), run(ort_session(pair.model, native=False), feed)
    assert_close(got["result"][places], want["result"][places], FP32)


@pytest.mark.parametrize("case", list(PER_TOKEN))
def test_per_token_values_are_the_originals(case: str) -> None:
    _compare(PER_TOKEN[case], VALID)


@pytest.mark.parametrize("case", list(PER_ROW))
def test_values_of_sequences_are_the_originals(case: str) -> None:
    _compare(PER_ROW[case], VALID.any(axis=1))


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_reads_padded_slots_is_refused(case: str) -> None:
    build, reason = REFUSED[case]
    with pytest.raises(FeatureError, match=reason):
        rewritten_tail(build)


@pytest.mark.parametrize("perm", [[1, 0, 2], [0, 2, 1], [2, 0, 1], [1, 2, 0]])
def test_an_output_keeps_its_axis_order(perm: list[int]) -> None:
    pair = rewritten_tail(lambda g: g.op.Transpose(g.y, perm=perm))
    feed = embeddings()
    want, got = run(plain_session(pair.original), feed), run(ort_session(pair.model, native=False), feed)
    back = np.argsort(perm)
    assert_close(got["result"].transpose(back)[VALID], want["result"].transpose(back)[VALID], FP32)


STATIC: dict[str, tuple[Build, str | None]] = {
    "a row per slot": (lambda g: g.op.Add(g.y, g.weight(1, 7, WIDTH)), None),
    "a number per slot": (lambda g: g.op.Add(g.y, g.weight(7, 1)), None),
    "a row per slot and sequence": (lambda g: g.op.Add(g.y, g.weight(6, 7, WIDTH)), "row to row of a fixed batch"),
    "a row per sequence": (lambda g: g.op.Add(g.y, g.weight(6, 1, WIDTH)), "row to row of a fixed batch"),
    "a number per slot and feature": (
        lambda g: g.op.Reshape(g.op.Add(g.op.Reshape(g.y, g.ints([6, 112])), g.weight(112)), g.ints([6, 7, 16])),
        "slots merged with something else",
    ),
}
"""Graphs of fixed sizes, where a constant's axis may line up with the slots by its length alone."""


@pytest.mark.parametrize("case", list(STATIC))
def test_constants_of_static_graphs(case: str) -> None:
    build, reason = STATIC[case]
    graph = Attended(20, *MASK.shape)
    model = graph.model({"result": build(graph)})
    if reason is not None:
        with pytest.raises(FeatureError, match=reason):
            rewritten(model, features=("pack",))
        return
    pair = rewritten(model, features=("pack",))
    feed = embeddings()
    want, got = run(plain_session(pair.original), feed), run(ort_session(pair.model, native=False), feed)
    assert_close(got["result"][VALID], want["result"][VALID], FP32)


@pytest.mark.parametrize("case", ["two convolutions", "the token before"])
def test_neighbours_beside_a_slot_that_is_kept(case: str) -> None:
    pair = rewritten_tail(lambda g: g.op.Add(PER_TOKEN[case](g), _first(g)))
    feed = embeddings()
    want, got = run(plain_session(pair.original), feed), run(ort_session(pair.model, native=False), feed)
    assert_close(got["result"][VALID], want["result"][VALID], FP32)


@pytest.mark.parametrize("case", ["a centred convolution", "two tokens after"])
def test_neighbours_in_ragged_rows(case: str) -> None:
    lengths = (5, 1, 7)
    pair = rewritten_tail(PER_TOKEN[case], io="ragged")
    rows = [embeddings(np.ones((1, n), np.int64), seed=n) for n in lengths]
    want = np.concatenate([run(plain_session(pair.original), row)["result"][0] for row in rows[::2]])
    feed = {
        "inputs_embeds": np.concatenate([row["inputs_embeds"][0] for row in rows]),
        "cu_seqlens": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        "max_seqlen": np.zeros(max(lengths), np.float32),
    }
    got = run(ort_session(pair.model, native=False), feed)["result"]
    assert_close(got[[0, 1, 2, 3, 4, *range(6, 13)]], want, FP32)
