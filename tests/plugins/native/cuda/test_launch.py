"""Every op through launcher, driver and kernels: emulated on a CPU, the same on a device."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from helpers.cuda_driver import Driver
from helpers.cuda_launcher import Launcher, device_memory
from helpers.cuda_ops import run_op
from helpers.cuda_setup import device_driver, device_launcher, emulated_driver, emulated_launcher
from helpers.tolerances import ATTENTION, EXACT, Tolerance, assert_close
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.ops.arrays import NUMPY_TYPES
from raggedrt.plugins.ops.case import Case, Group
from raggedrt.plugins.ops.catalog import CASES, REFERENCES
from raggedrt.plugins.ops.ragged_attention.cases import Problem

EXACTLY = ("BlockMask", "PackingPlan", "PackTokens", "UnpackTokens")
TENSOR_CORE_TOLERANCE = Tolerance(2e-3, 4e-3)
"""Weights are rounded to half before they meet the values."""


def _cases(op: str) -> list[tuple[str, Case, ElementType]]:
    """Every case that is not for timing, in its first element type, float16 where it may have it."""
    found = []
    for case in CASES[op]:
        if case.group is not Group.PERFORMANCE:
            kinds = case.element_types
            found.append((op, case, ElementType.FLOAT16 if ElementType.FLOAT16 in kinds else kinds[0]))
    return found


def _for_tensor_cores(case: Case) -> Case:
    """The same with the head size of a tensor-core kernel, and sequences that fill more than one of its tiles."""
    problem = case.generate
    assert isinstance(problem, Problem)
    width = problem.width if problem.width in (0, 9) else 80
    width = 70 if problem.width == 9 and problem.mask != "no_token" else width
    lengths = tuple(length * 31 for length in problem.lengths)
    lengths_k = tuple(length * 31 for length in problem.lengths_k)
    changed = dataclasses.replace(
        problem, head_size=32, value_head_size=0, width=width, lengths=lengths, lengths_k=lengths_k
    )
    return dataclasses.replace(case, generate=changed)


PLAIN = [row for op in (*EXACTLY, "MergeAttentionStates") for row in _cases(op)]
ATTENTION_CASES = [
    (case, element) for _, case, _ in _cases("RaggedAttention") for element in (ElementType.FLOAT, ElementType.BFLOAT16)
]
TENSOR_CORE_CASES = [
    _for_tensor_cores(case) for _, case, _ in _cases("RaggedAttention") if not case.name.startswith("head_size")
]


def check(
    launcher: Launcher, driver: Driver, op: str, case: Case, element: ElementType, *, plan: bool = False,
    tolerance: Tolerance | None = None,
) -> None:  # fmt: skip
    """Outputs of the device against the reference."""
    inputs = case.inputs(NUMPY_TYPES[element])
    attributes = case.attributes
    with device_memory(driver) as memory:
        found = run_op(launcher, memory, op, inputs, attributes, plan=plan)
    expected = REFERENCES[op](inputs, attributes, compute=np.float64)
    for name, want in expected.items():
        kind = np.dtype(want.dtype)
        limit = EXACT if op in EXACTLY else tolerance or ATTENTION[kind]
        assert_close(found[name], want, limit if kind.kind in "fV" else EXACT, f"{op}.{case.name}.{name}")


def _names(rows: list[tuple[str, Case, ElementType]]) -> list[str]:
    return [f"{op}-{case.name}" for op, case, _ in rows]


@pytest.mark.emulated
@pytest.mark.parametrize(("op", "case", "element"), PLAIN, ids=_names(PLAIN))
def test_plain_ops_emulated(op: str, case: Case, element: ElementType) -> None:
    check(emulated_launcher(), emulated_driver(), op, case, element)


@pytest.mark.emulated
@pytest.mark.parametrize(("case", "element"), ATTENTION_CASES, ids=[f"{c.name}-{e.name}" for c, e in ATTENTION_CASES])
def test_attention_by_rows_emulated(case: Case, element: ElementType) -> None:
    check(emulated_launcher(), emulated_driver(), "RaggedAttention", case, element)


@pytest.mark.emulated
@pytest.mark.parametrize("plan", [False, True], ids=["alone", "planned"])
@pytest.mark.parametrize("case", TENSOR_CORE_CASES, ids=[case.name for case in TENSOR_CORE_CASES])
def test_attention_by_tiles_emulated(case: Case, plan: bool) -> None:
    check(
        emulated_launcher(), emulated_driver(), "RaggedAttention", case, ElementType.FLOAT16, plan=plan,
        tolerance=TENSOR_CORE_TOLERANCE,
    )  # fmt: skip


@pytest.mark.cuda
@pytest.mark.parametrize(("op", "case", "element"), PLAIN, ids=_names(PLAIN))
def test_plain_ops_on_a_device(op: str, case: Case, element: ElementType) -> None:
    check(device_launcher(), device_driver(), op, case, element)


@pytest.mark.cuda
@pytest.mark.parametrize(("case", "element"), ATTENTION_CASES, ids=[f"{c.name}-{e.name}" for c, e in ATTENTION_CASES])
def test_attention_by_rows_on_a_device(case: Case, element: ElementType) -> None:
    check(device_launcher(), device_driver(), "RaggedAttention", case, element)


@pytest.mark.cuda
@pytest.mark.parametrize("plan", [False, True], ids=["alone", "planned"])
@pytest.mark.parametrize("case", TENSOR_CORE_CASES, ids=[case.name for case in TENSOR_CORE_CASES])
def test_attention_by_tiles_on_a_device(case: Case, plan: bool) -> None:
    check(
        device_launcher(), device_driver(), "RaggedAttention", case, ElementType.FLOAT16, plan=plan,
        tolerance=TENSOR_CORE_TOLERANCE,
    )  # fmt: skip
