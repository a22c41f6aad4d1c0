"""What optimum and TorchScript write: masks filled where they are non-zero, chunks by shape, branches on lengths."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from helpers.attended import HEAD_SIZE, WIDTH, Attended, embeddings
from helpers.encoder_runs import FP32, MASK, plain_session, rewritten, run
from helpers.tolerances import assert_close
from raggedrt.plugins.runtime.ort import ort_session

pytestmark = pytest.mark.ort_cpu
LOWEST = float(np.finfo(np.float32).min)


class Filled(Attended):
    """`inverted = 1 - mask; inverted.masked_fill(inverted.bool(), lowest)`, as transformers 4 builds it."""

    def additive(self) -> ir.Value:
        wide = self.op.Cast(self.op.Unsqueeze(self.mask, self.ints([1, 2])), to=ir.DataType.FLOAT)
        inverted = self.op.Sub(self.number(1.0), wide)
        return self.op.Where(self.op.Cast(inverted, to=ir.DataType.BOOL), self.number(LOWEST), inverted)


def _chunk(graph: Attended) -> ir.Value:
    """The first of two chunks of the features, whose bounds are computed as (size + 1) // 2."""
    op = graph.op
    size = op.Gather(op.Shape(graph.y), graph.ints([-1]), axis=0)
    half = op.Div(op.Add(size, graph.ints([1])), graph.ints([2]))
    return op.Slice(graph.y, graph.ints([0]), half, graph.ints([-1]))


def _branch(name: str, op_type: str, value: ir.Value) -> ir.Graph:
    """A branch that reads a value of the graph around it; both branches use the same names."""
    node = ir.Node("", op_type, [value], num_outputs=1, name="inner")
    node.outputs[0].name = "inner_out"
    return ir.Graph([], list(node.outputs), nodes=[node], name=name)


def _known_branch(graph: Attended) -> ir.Value:
    """`if y.size(1) != x.size(1): relu(y) else: neg(y)`, twice."""
    op, value = graph.op, graph.y
    for _ in range(2):
        lengths = [op.Gather(op.Shape(one), graph.ints([1]), axis=0) for one in (graph.y, graph.x)]
        condition = op.Cast(op.Not(op.Equal(*(op.Squeeze(length) for length in lengths))), to=ir.DataType.BOOL)
        branches = {"then_branch": _branch("then", "Relu", value), "else_branch": _branch("else", "Neg", value)}
        value = op.If(condition, **branches)
    return value


def _scale_of_shape(graph: Attended) -> ir.Value:
    return graph.op.Mul(graph.y, graph.number(HEAD_SIZE**-0.5))


CASES: list[tuple[str, type[Attended], Callable[[Attended], ir.Value]]] = [
    ("filled mask", Filled, _scale_of_shape),
    ("chunk", Attended, _chunk),
    ("known branch", Attended, _known_branch),
]


@pytest.mark.parametrize(("kind", "build"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_packed(kind: type[Attended], build: Callable[[Attended], ir.Value]) -> None:
    graph = kind()
    pair = rewritten(graph.model({"result": build(graph)}), features=("pack",))
    feed = embeddings()
    want, got = run(plain_session(pair.original), feed)["result"], run(ort_session(pair.model, native=False), feed)
    valid = MASK != 0
    assert want.shape[-1] in (WIDTH, WIDTH // 2)
    assert_close(got["result"][valid], want[valid], FP32, "result")
    assert "If" not in [node.op_type for node in pair.model.graph]


def test_a_branch_on_values_stays() -> None:
    graph = Attended()
    op = graph.op
    total = op.ReduceSum(graph.mask, keepdims=0)
    branches = {
        "then_branch": _branch("then", "Relu", graph.y),
        "else_branch": _branch("else", "Neg", graph.y),
    }
    result = op.If(op.Greater(total, graph.ints(20)), **branches)
    pair = rewritten(graph.model({"result": result}), features="auto", allow_partial=True)
    feed = embeddings()
    want, got = run(plain_session(pair.original), feed)["result"], run(ort_session(pair.model, native=False), feed)
    assert_close(got["result"][MASK != 0], want[MASK != 0], FP32, "result")
    assert any("control flow (If)" in refusal.reason for refusal in pair.report.refusals), pair.report.refusals
