"""What padded slots are said to hold is what they hold: a case for every op, on the padding mask itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from helpers.attended import WIDTH, Attended, embeddings
from helpers.encoder_runs import MASK, plain_session, run
from raggedrt.graph_passes.axes.padded_slots import _ELEMENTWISE, _VIEWS
from raggedrt.graph_passes.graph_inputs import describe_inputs
from raggedrt.graph_passes.sites.find import understand

pytestmark = pytest.mark.ort_cpu

Build = Callable[[Attended], ir.Value]
PADDED = MASK == 0


def _unary(op_type: str) -> Build:
    """On mask - 2.5, which is -2.5 at padded slots."""
    return lambda g: g.op.op(op_type, [g.op.Sub(g.tokens(), g.number(2.5))])


def _binary(op_type: str) -> Build:
    return lambda g: g.op.op(op_type, [g.op.Add(g.tokens(), g.number(3.0)), g.number(2.0)])


def _compare(op_type: str) -> Build:
    return lambda g: g.op.Cast(g.op.op(op_type, [g.tokens(), g.number(0.0)]), to=ir.DataType.FLOAT)


def _logic(op_type: str) -> Build:
    always = lambda g: g.constant([True], np.bool_)  # noqa: E731
    return lambda g: g.op.Cast(
        g.op.op(op_type, [g.op.Unsqueeze(g.keep, g.ints([-1])), always(g)]), to=ir.DataType.FLOAT
    )


CASES: dict[str, tuple[Build, float | None]] = {
    **{op: (_unary(op), None) for op in ("Abs", "Ceil", "Exp", "Floor", "Identity", "Neg", "Relu", "Sign", "Tanh")},
    **{op: (_binary(op), None) for op in ("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub")},
    **{op: (_compare(op), None) for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    **{op: (_logic(op), None) for op in ("And", "Or")},
    "Cast": (lambda g: g.op.Cast(g.op.Cast(_unary("Identity")(g), to=ir.DataType.INT64), to=ir.DataType.FLOAT), -2.0),
    "Cast to bool": (
        lambda g: g.op.Cast(g.op.Cast(_unary("Identity")(g), to=ir.DataType.BOOL), to=ir.DataType.FLOAT), 1.0),
    "Not": (lambda g: g.op.Cast(g.op.Not(g.op.Unsqueeze(g.keep, g.ints([-1]))), to=ir.DataType.FLOAT), 1.0),
    "Sqrt": (lambda g: g.op.Sqrt(g.op.Add(g.tokens(), g.number(2.0))), None),
    "Where": (lambda g: g.op.Where(g.op.Unsqueeze(g.keep, g.ints([-1])), g.y, g.number(-9.0)), -9.0),
    "Mul by zero": (lambda g: g.op.Mul(g.y, g.tokens()), 0.0),
    "Reshape": (lambda g: g.op.Reshape(g.op.Mul(g.y, g.tokens()), g.ints([0, 0, 4, 4])), 0.0),
    "Transpose": (lambda g: g.op.Transpose(g.op.Transpose(g.tokens(), perm=[0, 2, 1]), perm=[0, 2, 1]), 0.0),
    "Squeeze": (lambda g: g.op.Squeeze(g.tokens(), g.ints([-1])), 0.0),
    "Unsqueeze": (lambda g: g.tokens(), 0.0),
    "Flatten": (lambda g: g.op.Reshape(g.op.Flatten(g.tokens(), axis=2), g.op.Shape(g.tokens())), 0.0),
    "Expand": (lambda g: g.op.Expand(g.tokens(), g.op.Shape(g.x)), 0.0),
}  # fmt: skip
"""With the number where it is worth saying."""
UNKNOWN: dict[str, Build] = {
    "noise": lambda g: g.op.Add(g.x, g.tokens()),
    "an integer quotient": lambda g: g.op.Div(g.op.Add(g.mask, g.ints(3)), g.ints(2)),
    "where the condition varies": lambda g: g.op.Where(g.op.Greater(g.x, g.number(0.0)), g.tokens(), g.number(0.0)),
    "slots moved": lambda g: g.op.Slice(g.tokens(), g.ints([-1]), g.ints([-99]), g.ints([1]), g.ints([-1])),
    "a running count": lambda g: g.op.CumSum(g.tokens(), g.ints(1)),
    "several numbers": lambda g: g.op.Mul(g.op.Add(g.tokens(), g.number(1.0)), g.weight(WIDTH)),
    "not a number": lambda g: g.op.Sqrt(g.op.Sub(g.tokens(), g.number(1.0))),
}


def _padded(build: Build) -> tuple[float | None, ir.Model]:
    graph = Attended()
    model = graph.model({"result": build(graph)})
    analysis = understand(model.graph, describe_inputs(model.graph)).analysis
    return analysis.padded_of(model.graph.outputs[0]), model


@pytest.mark.parametrize("case", list(CASES))
def test_padded_slots_hold_the_number(case: str) -> None:
    build, expected = CASES[case]
    number, model = _padded(build)
    assert number is not None
    assert expected is None or number == expected
    result = run(plain_session(ir.to_proto(model)), embeddings())["result"]
    assert np.allclose(result[PADDED], number, rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", list(UNKNOWN))
def test_what_varies_is_not_known(case: str) -> None:
    assert _padded(UNKNOWN[case])[0] is None


def test_every_row_has_a_case() -> None:
    assert set(_ELEMENTWISE) | set(_VIEWS) | {"Where"} <= set(CASES)
