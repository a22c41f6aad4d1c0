"""Every function body in ONNX Runtime, without a native library, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from helpers.op_models import case_model, run_case
from helpers.tolerances import ATTENTION, EXACT, Tolerance, assert_close
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.ops.arrays import NUMPY_TYPES
from raggedrt.plugins.ops.case import Case, Group
from raggedrt.plugins.ops.catalog import CASES, REFERENCES

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort_cpu

OPSETS = (17, 18, 20, 23, 24)
MOVES_DATA = {"AttentionPlan", "PackingPlan", "PackTokens", "UnpackTokens", "BlockMask"}


def small_cases() -> list[tuple[str, Case]]:
    return [(op, case) for op, cases in CASES.items() for case in cases if case.group is not Group.PERFORMANCE]


def _ids(value: object) -> str | None:
    return value.name if isinstance(value, Case | ElementType) else None


def _session(model: onnx.ModelProto) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _check(op: str, case: Case, element: ElementType, opset: int) -> None:
    dtype = NUMPY_TYPES[element]
    inputs = case.inputs(dtype, seed=opset)
    model = case_model(op, case, inputs, opset)
    onnx.checker.check_model(model)
    expected = REFERENCES[op](inputs, case.attributes, compute=np.float64)
    outputs = run_case(_session(model), inputs, expected)
    for name, output in outputs.items():
        assert_close(output, expected[name], _tolerance(op, output.dtype), f"{op} {case.name} {name}")


def _tolerance(op: str, dtype: np.dtype[Any]) -> Tolerance:
    return EXACT if op in MOVES_DATA else ATTENTION[dtype]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("op", "case"), small_cases(), ids=_ids)
def test_body_agrees_with_the_reference(op: str, case: Case, opset: int) -> None:
    _check(op, case, case.element_types[0], opset)


@pytest.mark.parametrize(
    ("op", "case", "element"),
    [(op, case, element) for op, case in small_cases() for element in case.element_types[1:]],
    ids=_ids,
)
def test_body_serves_every_element_type(op: str, case: Case, element: ElementType) -> None:
    _check(op, case, element, 20)


@pytest.mark.parametrize("op", CASES)
def test_a_perturbed_output_is_noticed(op: str) -> None:
    case = CASES[op][1]
    inputs = case.inputs(np.dtype(np.float32))
    expected = REFERENCES[op](inputs, case.attributes)
    outputs = run_case(_session(case_model(op, case, inputs, 20)), inputs, expected)
    for name, output in outputs.items():
        changed = output.copy()
        changed.flat[-1] += 1 if changed.dtype.kind == "i" else 1e-3
        with pytest.raises(AssertionError, match="1 of"):
            assert_close(changed, expected[name], _tolerance(op, changed.dtype), name)
