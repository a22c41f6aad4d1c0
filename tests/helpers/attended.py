"""The smallest graph with something behind attention: two heads over given embeddings, then what a test adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from helpers.encoder_runs import MASK, Rewritten, rewritten
from helpers.graph_writer import GraphWriter

HEADS, HEAD_SIZE = 2, 8
WIDTH = HEADS * HEAD_SIZE


class Attended(GraphWriter):
    """Inputs inputs_embeds [B, S, 16] and attention_mask [B, S].

    Attributes:
        x: the embeddings.
        y: attention's output [B, S, 16].
        keep: bool [B, S].
    """

    def __init__(self, opset: int = 20, batch: int | str = "batch", sequence: int | str = "seq") -> None:
        super().__init__(opset)
        self.x = self.input("inputs_embeds", [batch, sequence, WIDTH], ir.DataType.FLOAT)
        self.mask = self.input("attention_mask", [batch, sequence])
        self.keep = self.op.Cast(self.mask, to=ir.DataType.BOOL)
        self.y = self.attend(self.x)

    def additive(self) -> ir.Value:
        """The padding mask to add to scores."""
        keep = self.op.Unsqueeze(self.keep, self.ints([1, 2]))
        return self.op.Where(keep, self.number(0.0), self.number(float(np.finfo(np.float32).min)))

    def heads(self, x: ir.Value) -> ir.Value:
        """[B, S, 16] to [B, 2, S, 8]."""
        return self.op.Transpose(self.op.Reshape(x, self.ints([0, 0, HEADS, HEAD_SIZE])), perm=[0, 2, 1, 3])

    def attend(self, x: ir.Value) -> ir.Value:
        """Self-attention on x without projections."""
        op, parts = self.op, self.heads(x)
        scores = op.Mul(op.MatMul(parts, op.Transpose(parts, perm=[0, 1, 3, 2])), self.number(HEAD_SIZE**-0.5))
        weights = op.Softmax(op.Add(scores, self.additive()), axis=-1)
        merged = op.Transpose(op.MatMul(weights, parts), perm=[0, 2, 1, 3])
        return op.Reshape(merged, self.ints([0, 0, WIDTH]))

    def tokens(self, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        """The mask as [B, S, 1] numbers."""
        return self.op.Cast(self.op.Unsqueeze(self.mask, self.ints([-1])), to=dtype)


def embeddings(mask: npt.NDArray[Any] = MASK, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """A feed; padded slots hold noise."""
    values = np.random.default_rng(seed).normal(size=(*mask.shape, WIDTH)).astype(np.float32)
    return {"inputs_embeds": values, "attention_mask": mask.astype(np.int64)}


def rewritten_tail(build: Callable[[Attended], ir.Value], opset: int = 20, **config: Any) -> Rewritten:
    """Rewrite a graph whose only output is what `build` makes of the attended values."""
    graph = Attended(opset)
    config = {"features": ("pack",)} | config
    return rewritten(graph.model({"result": build(graph)}), **config)
