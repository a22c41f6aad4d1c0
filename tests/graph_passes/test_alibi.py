"""ALiBi as models add it to scores: slopes by slot or by a row's own tokens, heads merged with the batch or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from helpers.attended import HEAD_SIZE, HEADS, WIDTH, Attended, embeddings
from helpers.encoder_runs import FP32, LENGTHS, MASK, Rewritten, plain_session, rewritten, run
from helpers.tolerances import assert_close
from raggedrt.errors import FeatureError
from raggedrt.plugins.runtime.ort import ort_session

pytestmark = pytest.mark.ort_cpu

FLOAT = ir.DataType.FLOAT
SLOPES = np.array([0.5, 0.19842513], np.float32)
FAR = {"cut": ("Min", 5000), "again": ("Mod", 5000), "too far": ("Min", 10**9)}
"""Places that count up no longer behind a constant."""


class Sloped(Attended):
    """Causal attention whose keys get a slope per head times their place."""

    def __init__(self, places: str, *, merged: bool = False, causal: bool = True, factor: float = 1.0) -> None:
        self.places, self.merged, self.causal, self.factor = places, merged, causal, factor
        super().__init__()

    def alibi(self) -> ir.Value:
        """[B|1, 2, S], of places as Bloom counts them, or of slots from the end as MPT does."""
        op = self.op
        if self.places == "own":
            counted = op.Sub(op.CumSum(self.mask, self.ints(-1)), self.ints(1))
            place = op.Unsqueeze(op.Mul(counted, self.mask), self.ints([1]))
        else:
            length = op.Gather(op.Shape(self.mask), self.ints(1))
            slots = op.Range(self.ints(0), length, self.ints(1))
            if self.places in FAR:
                slots = op.op(FAR[self.places][0], [slots, self.ints(FAR[self.places][1])])
            place = op.Unsqueeze(op.Sub(slots, length), self.ints([0, 1]))
        slopes = self.constant(SLOPES[:, None], np.float32)
        dtype = {"bfloat16": ir.DataType.BFLOAT16, "float16": ir.DataType.FLOAT16}.get(self.places, FLOAT)
        place = op.Cast(op.Cast(place, to=dtype), to=FLOAT) if dtype is not FLOAT else op.Cast(place, to=FLOAT)
        return op.Mul(slopes, place)

    def attend(self, x: ir.Value) -> ir.Value:
        op, parts, alibi = self.op, self.heads(x), self.alibi()
        keep = op.Unsqueeze(self.keep, self.ints([1, 2]))
        if self.causal:
            length = op.Gather(op.Shape(self.mask), self.ints(1))
            slots = op.Range(self.ints(0), length, self.ints(1))
            row, column = (op.Unsqueeze(slots, self.ints([axis])) for axis in (0, 1))
            keep = op.And(keep, op.LessOrEqual(row, column))
        lowest = self.number(float(np.finfo(np.float32).min))
        mask = op.Where(keep, self.number(0.0), lowest)
        if self.merged:
            return self._attend_merged(parts, alibi, mask)
        scores = op.MatMul(parts, op.Transpose(parts, perm=[0, 1, 3, 2]))
        scores = op.Mul(op.Add(scores, op.Unsqueeze(alibi, self.ints([2]))), self.number(self.factor))
        weights = op.Softmax(op.Add(scores, mask), axis=-1)
        merged = op.Transpose(op.MatMul(weights, parts), perm=[0, 2, 1, 3])
        return op.Reshape(merged, self.ints([0, 0, WIDTH]))

    def _attend_merged(self, parts: ir.Value, alibi: ir.Value, mask: ir.Value) -> ir.Value:
        """Batch and heads share an axis, as in baddbmm(alibi, query, key)."""
        op, any_size = self.op, self.ints([-1])
        batch, length = (op.Shape(self.mask, start=number, end=number + 1) for number in (0, 1))
        rows = op.Reshape(parts, op.Concat(any_size, length, self.ints([HEAD_SIZE]), axis=0))
        scores = op.Mul(op.MatMul(rows, op.Transpose(rows, perm=[0, 2, 1])), self.number(HEAD_SIZE**-0.5))
        alibi = op.Reshape(alibi, op.Concat(any_size, self.ints([1]), length, axis=0))
        if self.factor != 1.0:
            alibi = op.Mul(alibi, self.number(self.factor))
        apart = op.Concat(batch, self.ints([HEADS]), length, any_size, axis=0)
        weights = op.Softmax(op.Add(op.Reshape(op.Add(scores, alibi), apart), mask), axis=-1)
        weights = op.Reshape(weights, op.Concat(any_size, length, length, axis=0))
        context = op.Reshape(op.MatMul(weights, rows), apart)
        return op.Reshape(op.Transpose(context, perm=[0, 2, 1, 3]), self.ints([0, 0, WIDTH]))


def _pair(graph: Sloped, **config: Any) -> Rewritten:
    outputs = {"hidden": graph.attend(graph.y)}
    return rewritten(graph.model(outputs), features=("pack",), **config)


def _check(pair: Rewritten, *, native: bool = False) -> None:
    rng = np.random.default_rng(3)
    long = (rng.random((4, 41)) < np.array([[1.0], [0.6], [0.3], [0.05]])).astype(np.int64)
    for mask in (MASK, long, np.ones((2, 1), np.int64)):
        feed = embeddings(mask)
        want, got = run(plain_session(pair.original), feed), run(ort_session(pair.model, native=native), feed)
        assert_close(got["hidden"][mask != 0], want["hidden"][mask != 0], FP32)
        assert not got["hidden"][mask == 0].any()


@pytest.mark.parametrize("factor", [1.0, 0.25])
@pytest.mark.parametrize(("places", "merged"), [("own", False), ("own", True), ("slots", False)])
def test_slopes_are_kept_whatever_the_padding(places: str, merged: bool, factor: float) -> None:
    pair = _pair(Sloped(places, merged=merged, factor=factor))
    entry = pair.report.attention[0]
    assert entry.bias is not None
    assert "ALiBi" in entry.bias
    assert ("own tokens" in entry.bias) == (places == "own")
    assert pair.ops.count("RaggedAttention") == 2
    assert "alibi_slopes" not in str(pair.report.refusals)
    _check(pair)


@pytest.mark.usefixtures("op_library")
@pytest.mark.parametrize("places", ["own", "slots"])
def test_on_the_native_library(places: str) -> None:
    _check(_pair(Sloped(places, merged=places == "own")), native=True)


def test_ragged_rows_are_each_alone() -> None:
    pair = _pair(Sloped("own", merged=True), io="ragged")
    feeds = [embeddings(np.ones((1, n), np.int64), seed=n) for n in LENGTHS]
    ragged = {
        "inputs_embeds": np.concatenate([feed["inputs_embeds"][0] for feed in feeds]),
        "cu_seqlens": np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int32),
        "max_seqlen": np.zeros(max(LENGTHS), np.float32),
    }
    plain = plain_session(pair.original)
    want = [run(plain, feed)["hidden"][0] for feed in feeds if feed["attention_mask"].size]
    assert_close(run(ort_session(pair.model, native=False), ragged)["hidden"], np.concatenate(want), FP32)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"places": "own", "causal": False}, "both sides of the query"),
        ({"places": "bfloat16"}, "in 16 bits"),
        ({"places": "float16"}, "in 16 bits"),
        ({"places": "cut"}, "not understood"),
        ({"places": "again"}, "not understood"),
        ({"places": "too far"}, "may change at 1000000000, too far to test"),
    ],
)
def test_what_is_no_slope_by_distance_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(FeatureError, match=reason):
        _pair(Sloped(**options))
