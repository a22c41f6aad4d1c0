"""Pooling over tokens: softmax weights, log-sum-exp and maxima under a mask; with ragged rows also without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from helpers.attended import WIDTH, Attended, embeddings, rewritten_tail
from helpers.encoder_runs import FP32, MASK, Rewritten, plain_session, run
from helpers.tolerances import assert_close
from raggedrt.errors import FeatureError
from raggedrt.plugins.runtime.ort import ort_session

pytestmark = pytest.mark.ort_cpu

Build = Callable[[Attended], ir.Value]
FILLS = {"lowest": float(np.finfo(np.float32).min), "infinite": -np.inf, "-1e9": -1e9}


def _scores(g: Attended, width: int = 1) -> ir.Value:
    return g.op.MatMul(g.y, g.weight(WIDTH, width))


def _filled(g: Attended, x: ir.Value, fill: float) -> ir.Value:
    return g.op.Where(g.op.Unsqueeze(g.keep, g.ints([-1])), x, g.number(fill))


def _lowered(g: Attended, x: ir.Value) -> ir.Value:
    """x + (1 - mask) * -1e9."""
    return g.op.Add(x, g.op.Mul(g.op.Sub(g.number(1.0), g.tokens()), g.number(-1e9)))


def _summed(g: Attended, weights: ir.Value) -> ir.Value:
    return g.reduce("ReduceSum", g.op.Mul(weights, g.y), [1], keepdims=False)


def _log_sum_exp(g: Attended) -> ir.Value:
    """As torch spells it."""
    x = _filled(g, g.y, -np.inf)
    top = g.reduce("ReduceMax", x, [1], keepdims=True)
    top = g.op.Where(g.op.IsInf(top), g.number(0.0), top)
    total = g.reduce("ReduceSum", g.op.Exp(g.op.Sub(x, top)), [1], keepdims=True)
    return g.op.Add(g.op.Log(total), top)


def _exponentials(g: Attended) -> ir.Value:
    """Weights made by hand: exp * mask over its sum."""
    weights = g.op.Mul(g.op.Exp(_scores(g)), g.tokens())
    total = g.op.Clip(g.reduce("ReduceSum", weights, [1], keepdims=True), g.number(1e-9))
    return _summed(g, g.op.Div(weights, total))


def _by_product(g: Attended) -> ir.Value:
    """[B, 1, S] x [B, S, H]."""
    weights = g.op.Softmax(_filled(g, _scores(g), -1e9), axis=1)
    return g.op.MatMul(g.op.Transpose(weights, perm=[0, 2, 1]), g.y)


def _positions(g: Attended) -> ir.Value:
    """Weighted by slot + 1."""
    length = g.op.Squeeze(g.op.Shape(g.x, start=1, end=2))
    numbers = g.op.Range(g.ints(1), g.op.Add(length, g.ints(1)), g.ints(1))
    column = g.op.Cast(g.op.Unsqueeze(numbers, g.ints([0, 2])), to=ir.DataType.FLOAT)
    return _summed(g, g.op.Mul(column, g.tokens()))


MASKED: dict[str, Build] = {
    **{f"softmax, filled with {name}": (
        lambda g, fill=fill: _summed(g, g.op.Softmax(_filled(g, _scores(g), fill), axis=1)))
        for name, fill in FILLS.items()},
    "softmax per feature": lambda g: _summed(g, g.op.Softmax(_filled(g, _scores(g, WIDTH), -1e9), axis=1)),
    "softmax, number added": lambda g: _summed(g, g.op.Softmax(_lowered(g, _scores(g)), axis=1)),
    "softmax of scaled scores": lambda g: _summed(
        g, g.op.Softmax(g.op.Div(_filled(g, _scores(g), -1e9), g.number(2.0)), axis=1)),
    "exponentials by hand": _exponentials,
    "product with the weights": _by_product,
    "log-sum-exp": _log_sum_exp,
    "log-sum-exp as one op": lambda g: g.reduce("ReduceLogSumExp", _lowered(g, g.y), [1], keepdims=False),
    "largest, number added": lambda g: g.reduce("ReduceMax", _lowered(g, g.y), [1], keepdims=False),
    "place of the largest": lambda g: g.op.ArgMax(_lowered(g, g.y), axis=1),
    "weights by slot": _positions,
}  # fmt: skip
ALONE: dict[str, Build] = {
    "largest": lambda g: g.reduce("ReduceMax", g.y, [1], keepdims=False),
    "smallest": lambda g: g.reduce("ReduceMin", g.y, [1], keepdims=False),
    "sum": lambda g: g.reduce("ReduceSum", g.y, [1], keepdims=False),
    "softmax": lambda g: _summed(g, g.op.Softmax(_scores(g), axis=1)),
    "place of the largest": lambda g: g.op.ArgMax(g.y, axis=1),
    "product": lambda g: g.reduce("ReduceProd", g.y, [1], keepdims=False),
}
LENGTHS = (5, 1, 7, 3)


def _ragged(pair: Rewritten, lengths: tuple[int, ...] = LENGTHS) -> tuple[Any, Any]:
    """What the original gives for each sequence alone, and the ragged batch."""
    rows = [embeddings(np.ones((1, n), np.int64), seed=n) for n in lengths]
    want = np.concatenate([run(plain_session(pair.original), row)["result"] for row in rows])
    feed = {
        "inputs_embeds": np.concatenate([row["inputs_embeds"][0] for row in rows]),
        "cu_seqlens": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        "max_seqlen": np.zeros(max(lengths), np.float32),
    }
    return want, run(ort_session(pair.model, native=False), feed)["result"]


@pytest.mark.parametrize("case", list(MASKED))
def test_masked_pooling_is_the_originals_under_every_padding(case: str) -> None:
    pair = rewritten_tail(MASKED[case])
    assert "RaggedAttention" in pair.ops
    feed, rows = embeddings(), MASK.any(axis=1)
    want, got = run(plain_session(pair.original), feed), run(ort_session(pair.model, native=False), feed)
    assert_close(got["result"][rows], want["result"][rows], FP32)


@pytest.mark.parametrize("case", [*MASKED, *ALONE])
def test_ragged_rows_are_pooled_alone(case: str) -> None:
    want, got = _ragged(rewritten_tail((MASKED | ALONE)[case], io="ragged"))
    assert_close(got, want, FP32)


REFUSED: dict[str, tuple[Build, str]] = {
    **{f"{name}, unmasked": (build, "reads padded slots") for name, build in ALONE.items() if name != "softmax"},
    "a number that is not low": (
        lambda g: _summed(g, g.op.Softmax(_filled(g, _scores(g), -50.0), axis=1)), "reads padded slots"),
    "a low number turned round": (
        lambda g: g.reduce("ReduceMax", g.op.Neg(_lowered(g, g.y)), [1], keepdims=False), "reads padded slots"),
    "the smallest of lowered": (
        lambda g: g.reduce("ReduceMin", _lowered(g, g.y), [1], keepdims=False), "reads padded slots"),
    "a sum of lowered": (
        lambda g: g.reduce("ReduceSum", _lowered(g, g.y), [1], keepdims=False), "reads padded slots"),
    "softmax over features of lowered": (
        lambda g: _summed(g, g.op.Softmax(_lowered(g, g.y), axis=2)), "reads padded slots"),
    "low numbers under each other": (
        lambda g: g.reduce("ReduceMax", g.op.Sub(_lowered(g, g.y), _lowered(g, g.x)), [1], keepdims=False),
        "reads padded slots"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_not_hidden_is_refused(case: str) -> None:
    build, reason = REFUSED[case]
    with pytest.raises(FeatureError, match=reason):
        rewritten_tail(build)


def test_a_maximum_over_the_batch_is_no_row_alone() -> None:
    with pytest.raises(FeatureError, match=r"reads padded slots|mixes sequences"):
        rewritten_tail(lambda g: g.reduce("ReduceMax", g.y, [0, 1], keepdims=False), io="ragged")


def test_the_largest_tokens_mix_tokens() -> None:
    with pytest.raises(FeatureError, match=r"TopK works along the token axis|TopK reads padded"):
        rewritten_tail(lambda g: g.op.op_multi_out("TopK", [g.y, g.ints([1])], {"axis": 1}, num_outputs=2)[0])


@pytest.mark.parametrize("first", [0, 2])
def test_positions_that_begin_behind_zero(first: int) -> None:
    """OPT's and RoBERTa's tables: rows from `first` on."""

    def build(g: Attended) -> ir.Value:
        length = g.op.Squeeze(g.op.Shape(g.x, start=1, end=2))
        numbers = g.op.Range(g.ints(first), g.op.Add(length, g.ints(first)), g.ints(1))
        looked_up = g.op.Gather(g.weight(12, WIDTH), numbers, axis=0)
        end = g.op.Add(g.op.Shape(g.x, start=1, end=2), g.ints([first]))
        cut = g.op.Slice(g.weight(12, WIDTH), g.ints([first]), end, g.ints([0]))
        return g.op.Add(g.op.Add(g.y, looked_up), cut)

    pair = rewritten_tail(build)
    feed, valid = embeddings(), MASK != 0
    want, got = run(plain_session(pair.original), feed), run(ort_session(pair.model, native=False), feed)
    assert_close(got["result"][valid], want["result"][valid], FP32)
