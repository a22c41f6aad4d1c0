"""Bodies in the form that engines get: 16-bit products, float32 softmax, on ONNX Runtime's CPU provider."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from helpers.op_models import case_model, run_case
from helpers.tolerances import ATTENTION, Tolerance, assert_close
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.ops.arrays import Array
from raggedrt.plugins.ops.case import Case, Group
from raggedrt.plugins.ops.catalog import CASES, REFERENCES
from raggedrt.plugins.ops.ragged_attention.cases import Problem

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort_cpu

HALF_PRODUCTS = Tolerance(4e-3, 8e-3)
"""Results of order 1 when scores of order 4 were rounded to 11 bits."""
HALF = {"large_scores": Tolerance(1e-1, 5e-2)}
FLOAT32 = {"large_scores": Tolerance(2e-3, 2e-3)}
"""Scores of a thousand have an error of 1e-4 in float32 too."""
NO_BATCH = {"no_row_capacity"}
"""An engine's profiles begin with one sequence."""
CASES_HERE = [
    pytest.param(case, id=case.name)
    for case in CASES["RaggedAttention"]
    if case.group is not Group.PERFORMANCE and case.name not in NO_BATCH
]


def _keep_rounding(model: onnx.ModelProto) -> None:
    """ONNX Runtime's CPU multiplies in float32 and skips a rounding that is cast back; an op in between keeps it."""
    for function in model.functions:
        for node in [node for node in function.node if node.op_type == "MatMul"]:
            place = list(function.node).index(node)
            function.node.insert(place + 1, onnx.helper.make_node("Max", [f"{node.output[0]}_wide"], [node.output[0]]))
            node.output[0] += "_wide"


def _outputs(
    case: Case, inputs: dict[str, Array], opset: int = 20, *, exact: bool = False
) -> dict[str, tuple[Array, Array]]:
    """What the body gives and what is right, by output."""
    op = "RaggedAttention"
    model = case_model(op, case, inputs, opset, engine=True, exact=exact)
    _keep_rounding(model)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = REFERENCES[op](inputs, case.attributes, compute=np.float64)
    return {name: (array, expected[name]) for name, array in run_case(session, inputs, expected).items()}


@pytest.mark.parametrize("case", CASES_HERE)
@pytest.mark.parametrize("opset", [17, 20])
def test_float32_stays_exact(case: Case, opset: int) -> None:
    inputs = case.inputs(np.dtype(np.float32), seed=opset)
    tolerance = FLOAT32.get(case.name, ATTENTION[np.dtype(np.float32)])
    for name, (got, want) in _outputs(case, inputs, opset).items():
        assert_close(got, want, tolerance, name)


@pytest.mark.parametrize("case", [case for case in CASES_HERE if ElementType.FLOAT16 in case.values[0].element_types])
def test_half_precision_is_as_exact_as_its_scores(case: Case) -> None:
    inputs = case.inputs(np.dtype(np.float16), seed=3)
    for name, (got, want) in _outputs(case, inputs).items():
        assert_close(got, want, HALF.get(case.name, HALF_PRODUCTS), name)


def test_exact_products_of_large_scores_in_half_precision() -> None:
    (case,) = [case for case in CASES["RaggedAttention"] if case.name == "large_scores"]
    inputs = case.inputs(np.dtype(np.float16), seed=3)
    for name, (got, want) in _outputs(case, inputs, exact=True).items():
        assert_close(got, want, ATTENTION[np.dtype(np.float16)], name)


HOSTILE = {
    "one token per row": Problem(lengths=(1,) * 40, head_size=64),
    "long rows": Problem(lengths=(1500, 1, 700), head_size=64, heads=2, kv_heads=2),
    "scores of some hundreds": Problem(lengths=(90, 1, 33), head_size=64, magnitude=9.0),
    "scores of thousands": Problem(lengths=(50, 2), head_size=64, magnitude=25.0),
    "tiny scores": Problem(lengths=(300, 5), head_size=64, magnitude=1e-3),
    "scale that is no power of two": Problem(lengths=(60, 7), head_size=80, magnitude=3.0),
    "slopes over long distances": Problem(lengths=(1200, 3), extra=("alibi_slopes",), head_size=32, magnitude=2.0),
    "table by distance": Problem(width=200, extra=("distance_bias",), head_size=32, magnitude=3.0),
    "table that hides": Problem(width=60, extra=("hiding_bias",), head_size=32, magnitude=3.0),
    "sink": Problem(lengths=(400, 1, 90), extra=("head_sink",), head_size=32, magnitude=3.0),
    "shared heads": Problem(lengths=(200, 4), heads=6, kv_heads=2, head_size=64, magnitude=3.0),
}


@pytest.mark.parametrize("attributes", [{}, {"causal": 1}, {"softcap": 30.0}], ids=["plain", "causal", "softcap"])
@pytest.mark.parametrize("name", HOSTILE)
def test_the_error_is_that_of_rounded_scores(name: str, attributes: dict[str, Any]) -> None:
    """Queries, scores and weights are rounded to 11 bits, and nothing else adds to that."""
    problem = HOSTILE[name]
    case = Case(
        name, Group.CORNER, problem, {"num_heads": problem.heads, "kv_num_heads": problem.kv_heads, **attributes}
    )
    inputs = case.inputs(np.dtype(np.float16))
    shared = problem.heads // problem.kv_heads
    query, key = (inputs[n].astype(np.float64).reshape(len(inputs[n]), -1, problem.head_size) for n in ("query", "key"))
    scores = np.einsum("qnh,knh->nqk", query, key.repeat(shared, 1)) / problem.head_size**0.5
    norms = np.linalg.norm(query, axis=2).max() * np.linalg.norm(key, axis=2).max() / problem.head_size**0.5
    shift = 2.0**-11 * (np.abs(scores).max() + norms)  # of one score; of two, that a weight depends on, twice that
    allowed = (np.expm1(min(2 * shift, 50.0)) + 3e-3) * np.abs(inputs["value"]).max()
    ((got, want),) = _outputs(case, inputs).values()
    assert np.isfinite(got).all()
    error = np.abs(got.astype(np.float64) - want.astype(np.float64)).max()
    assert error <= allowed, f"{error:.2e} > {allowed:.2e}"
