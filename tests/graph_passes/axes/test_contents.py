"""A case for every op that shape arithmetic is followed through: symbolic elements are those of the network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from helpers.attended import Attended, embeddings
from helpers.encoder_runs import plain_session, run
from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import BATCH_SYMBOL, TOKEN_SYMBOL
from raggedrt.graph_passes.axes.contents import _RULES as CONTENT_RULES
from raggedrt.graph_passes.graph_inputs import describe_inputs
from raggedrt.graph_passes.sites.find import understand

pytestmark = pytest.mark.ort_cpu

Build = Callable[[Attended], ir.Value]
SIZES = {BATCH_SYMBOL: 6, TOKEN_SYMBOL: 7}
"""Of the batch that the graph is run on."""


def _dims(g: Attended) -> ir.Value:
    """(batch, sequence, 16)."""
    return g.op.Shape(g.x)


def _one(g: Attended, axis: int) -> ir.Value:
    return g.op.Shape(g.x, start=axis, end=axis + 1)


CASES: dict[str, Build] = {
    "Add": lambda g: g.op.Add(g.op.Add(_dims(g), _dims(g)), g.ints(0)),
    "Cast": lambda g: g.op.Cast(g.op.Cast(_dims(g), to=ir.DataType.INT32), to=ir.DataType.INT64),
    "Concat": lambda g: g.op.Concat(_one(g, 1), g.ints([-1, 3]), _one(g, 0), axis=0),
    "ConstantOfShape": lambda g: g.op.Mul(
        g.op.ConstantOfShape(g.op.Shape(_dims(g)), value=ir.tensor([2], dtype=ir.DataType.INT64)), _dims(g)
    ),
    "Div": lambda g: g.op.Div(
        g.op.Concat(g.op.Mul(_dims(g), g.ints([4, 4, 4])), g.ints([17]), axis=0), g.ints([2, 4, 1, 2])
    ),
    "Equal": lambda g: g.op.Cast(g.op.Equal(_dims(g), g.ints([-1, -1, 16])), to=ir.DataType.INT64),
    "Gather": lambda g: g.op.Gather(_dims(g), g.ints([1, -1, 0])),
    "Identity": lambda g: g.op.Identity(_dims(g)),
    "Max": lambda g: g.op.Max(g.op.Shape(g.x, start=2), g.ints([9])),
    "Min": lambda g: g.op.Min(g.op.Shape(g.x, start=2), g.ints([9])),
    "Mul": lambda g: g.op.Mul(_one(g, 0), _one(g, 1)),
    "Not": lambda g: g.op.Cast(
        g.op.Not(g.op.Cast(g.op.Sub(_dims(g), g.op.Add(_dims(g), g.ints([0, 0, 2]))), to=ir.DataType.BOOL)),
        to=ir.DataType.INT64,
    ),
    "ReduceProd": lambda g: g.op.ReduceProd(_dims(g), keepdims=0),
    "Reshape": lambda g: g.op.Reshape(g.op.Squeeze(_one(g, 1)), g.ints([1])),
    "Shape": lambda g: g.op.Shape(g.heads(g.x), start=1, end=-1),
    "Size": lambda g: g.op.Size(g.x),
    "Slice": lambda g: g.op.Slice(_dims(g), g.ints([-2]), g.ints([99])),
    "Squeeze": lambda g: g.op.Squeeze(_one(g, 0), g.ints([0])),
    "Sub": lambda g: g.op.Sub(g.op.Mul(_dims(g), g.ints(3)), _dims(g)),
    "Unsqueeze": lambda g: g.op.Unsqueeze(g.op.Squeeze(_one(g, 1)), g.ints([0])),
    "Where": lambda g: g.op.Where(g.op.Equal(g.ints([-1, 2, -1]), g.ints(-1)), _dims(g), g.ints([5, 6, 7])),
}
UNKNOWN: dict[str, Build] = {
    "a sum of two symbols": lambda g: g.op.Add(_one(g, 0), _one(g, 1)),
    "the larger of two symbols": lambda g: g.op.Max(_one(g, 0), _one(g, 1)),
    "a quotient that may round": lambda g: g.op.Div(_one(g, 0), g.ints([2])),
    "whether two symbols agree": lambda g: g.op.Equal(_one(g, 0), _one(g, 1)),
    "whether less than nothing is a number": lambda g: g.op.Equal(g.op.Mul(_one(g, 1), g.ints([-1])), g.ints([-7])),
    "the content of an input": lambda g: g.op.Slice(g.op.Squeeze(g.mask), g.ints([0]), g.ints([1])),
    "a slice by steps": lambda g: g.op.Slice(_dims(g), g.ints([0]), g.ints([3]), g.ints([0]), g.ints([2])),
}


def _analysed(build: Build) -> tuple[AxisAnalysis, ir.Model]:
    graph = Attended()
    model = graph.model({"result": build(graph)})
    return understand(model.graph, describe_inputs(model.graph)).analysis, model


@pytest.mark.parametrize("op_type", list(CASES))
def test_elements_are_those_of_the_network(op_type: str) -> None:
    analysis, model = _analysed(CASES[op_type])
    assert op_type in {node.op_type for node in model.graph}
    content = analysis.content_of(model.graph.outputs[0])
    assert content is not None
    values = []
    for element in content.elements:
        assert element is not None
        values.append(element.coefficient * int(np.prod([SIZES[symbol] for symbol in element.symbols])))
    result = run(plain_session(ir.to_proto(model)), embeddings())["result"]
    assert content.scalar == (result.ndim == 0)
    assert values == result.reshape(-1).tolist()


@pytest.mark.parametrize("case", list(UNKNOWN))
def test_what_is_not_known_is_not_guessed(case: str) -> None:
    analysis, model = _analysed(UNKNOWN[case])
    content = analysis.content_of(model.graph.outputs[0])
    assert content is None or None in content.elements


def test_every_row_has_a_case() -> None:
    assert set(CONTENT_RULES) == set(CASES)
