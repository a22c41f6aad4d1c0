"""Attention whose weights or scores are rounded to integers is not what a fused op computes: refused, with advice."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from helpers.attended import HEAD_SIZE, WIDTH, Attended
from helpers.encoder_runs import rewritten
from raggedrt.errors import FeatureError

pytestmark = pytest.mark.ort_cpu


def _rounded(g: Attended, x: ir.Value) -> ir.Value:
    scale = g.number(1 / 255)
    return g.op.DequantizeLinear(g.op.QuantizeLinear(x, scale), scale)


class _Quantized(Attended):
    """Attention with rounded weights, or rounded scores."""

    weights = False

    def attend(self, x: ir.Value) -> ir.Value:
        op, parts = self.op, self.heads(x)
        scores = op.Mul(op.MatMul(parts, op.Transpose(parts, perm=[0, 1, 3, 2])), self.number(HEAD_SIZE**-0.5))
        scores = op.Add(scores, self.additive())
        weights = op.Softmax(scores if self.weights else _rounded(self, scores), axis=-1)
        product = op.MatMul(_rounded(self, weights) if self.weights else weights, parts)
        return op.Reshape(op.Transpose(product, perm=[0, 2, 1, 3]), self.ints([0, 0, WIDTH]))


class _QuantizedWeights(_Quantized):
    weights = True


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (_QuantizedWeights, r"weights pass through QuantizeLinear.*nodes_to_exclude"),
        (_Quantized, r"scores pass through"),
    ],
)
def test_rounded_attention_is_refused(kind: type[Attended], reason: str) -> None:
    graph = kind()
    with pytest.raises(FeatureError, match=reason):
        rewritten(graph.model({"result": graph.y}), features=("pack",))
