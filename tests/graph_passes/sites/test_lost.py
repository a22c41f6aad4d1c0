"""Where the meaning of axes is lost is told with the node."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from helpers.attended import HEAD_SIZE, WIDTH, Attended
from helpers.encoder_runs import rewritten
from raggedrt.errors import FeatureError

pytestmark = pytest.mark.ort_cpu


class Prefixed(Attended):
    """Attention over a class token and the tokens, or behind an op without a rule."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        super().__init__()

    def attend(self, x: ir.Value) -> ir.Value:
        op = self.op
        if not self.slots:
            x = op.EyeLike(op.Squeeze(op.Slice(x, self.ints([0]), self.ints([1]), self.ints([0]))), dtype=1)
            x = op.Unsqueeze(x, self.ints([0]))
            return super().attend(x)
        token = self.constant(np.ones((1, self.slots, WIDTH)), np.float32)
        batch, length = (op.Shape(self.mask, start=number, end=number + 1) for number in (0, 1))
        token = op.Expand(token, op.Concat(batch, self.ints([self.slots, WIDTH]), axis=0))
        x = op.Concat(token, x, axis=1)
        heads = op.Concat(batch, op.Add(length, self.ints([self.slots])), self.ints([2, HEAD_SIZE]), axis=0)
        parts = op.Transpose(op.Reshape(x, heads), perm=[0, 2, 1, 3])
        ones = op.Expand(self.ints([[1]]), op.Concat(batch, self.ints([self.slots]), axis=0))
        keep = op.Cast(op.Unsqueeze(op.Concat(ones, self.mask, axis=1), self.ints([1, 2])), to=ir.DataType.BOOL)
        scores = op.MatMul(parts, op.Transpose(parts, perm=[0, 1, 3, 2]))
        weights = op.Softmax(op.Where(keep, scores, self.number(float(np.finfo(np.float32).min))), axis=-1)
        return op.MatMul(weights, parts)


@pytest.mark.parametrize("slots", [1, 3])
def test_slots_in_front_of_the_tokens_are_named(slots: int) -> None:
    graph = Prefixed(slots)
    reason = rf"lost at \S+ \(Concat\): it joins {slots} slots to the tokens of each row .*export the part behind it"
    with pytest.raises(FeatureError, match=reason):
        rewritten(graph.model({"result": graph.y}), features=("pack",))


def test_an_op_without_a_rule_is_named() -> None:
    graph = Prefixed(0)
    with pytest.raises(FeatureError, match="EyeLike"):
        rewritten(graph.model({"result": graph.y}), features=("pack",))


@pytest.mark.parametrize("op_type", ["decomposed", "MultiHeadAttention", "Attention"])
def test_attention_to_other_rows_is_named(op_type: str) -> None:
    graph = Attended(23)
    op, other = graph.op, graph.input("encoder_hidden_states", ["batch", "frames", WIDTH], ir.DataType.FLOAT)
    keys, values = (op.MatMul(other, graph.weight(WIDTH, WIDTH)) for _ in range(2))
    if op_type == "MultiHeadAttention":
        result = graph.contrib(op_type, [graph.y, keys, values], num_heads=2)[0]
    elif op_type == "Attention":
        result = op.Attention(graph.y, keys, values, q_num_heads=2, kv_num_heads=2)
    else:
        query, key, value = (graph.heads(rows) for rows in (graph.y, keys, values))
        weights = op.Softmax(op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2])), axis=-1)
        result = op.MatMul(weights, value)
    with pytest.raises(FeatureError, match=r"other rows \(encoder_hidden_states:1\), as in cross-attention.*; export"):
        rewritten(graph.model({"result": result}), features=("pack",))
