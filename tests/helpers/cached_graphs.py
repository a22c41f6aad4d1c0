"""Decoders as exporters write them with past_key_values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from helpers.attended import HEAD_SIZE, HEADS, WIDTH
from helpers.graph_writer import GraphWriter

FLOAT, BOOL = ir.DataType.FLOAT, ir.DataType.BOOL


class Cached(GraphWriter):
    """A decoder layer as exporters write it with past_key_values: the mask covers earlier tokens and those given."""

    def __init__(self, size: int | str = HEAD_SIZE) -> None:
        super().__init__(20)
        self.x = self.input("inputs_embeds", ["batch", "seq", WIDTH], FLOAT)
        self.mask = self.input("attention_mask", ["batch", "past + seq"])
        dims = ["batch", HEADS, "past", size]
        self.past = [self.input(f"past.{name}", dims, FLOAT) for name in ("key", "value")]

    def layer(self) -> dict[str, ir.Value]:
        """Output and presents."""
        op = self.op
        parts = []
        for _ in range(3):
            rows = op.MatMul(self.x, self.weight(WIDTH, WIDTH, scale=WIDTH**-0.5))
            rows = op.Reshape(rows, self.ints([0, 0, HEADS, HEAD_SIZE]))
            parts.append(op.Transpose(rows, perm=[0, 2, 1, 3]))
        key, value = (op.Concat(past, new, axis=2) for past, new in zip(self.past, parts[1:], strict=True))
        before = op.Squeeze(op.Shape(self.past[0], start=2, end=3))
        total = op.Add(before, op.Squeeze(op.Shape(self.x, start=1, end=2)))
        queries = op.Unsqueeze(op.Range(before, total, self.ints(1)), self.ints([1]))
        keys = op.Unsqueeze(op.Range(self.ints(0), total, self.ints(1)), self.ints([0]))
        keep = op.And(op.LessOrEqual(keys, queries), op.Cast(op.Unsqueeze(self.mask, self.ints([1, 2])), to=BOOL))
        scores = op.Mul(op.MatMul(parts[0], op.Transpose(key, perm=[0, 1, 3, 2])), self.number(HEAD_SIZE**-0.5))
        weights = op.Softmax(op.Where(keep, scores, self.number(float(np.finfo(np.float32).min))), axis=-1)
        output = op.Transpose(op.MatMul(weights, value), perm=[0, 2, 1, 3])
        hidden = op.Add(self.x, op.Reshape(output, self.ints([0, 0, WIDTH])))
        return {"hidden": hidden, "present.key": key, "present.value": value}
