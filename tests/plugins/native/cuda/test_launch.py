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


def _split(name: str, extra: tuple[str, ...] = (), *, tiles: bool = False, **attributes: int) -> Case:
    """Few short queries with long keys, which the launcher splits; one sequence without a key."""
    problem = Problem(
        lengths=(1, 3, 2), lengths_k=(1100, 300, 0), heads=2, kv_heads=1, head_size=32, extra=extra,
        tiles=(3, 1) if tiles else (0, 0),
    )  # fmt: skip
    options = {"num_heads": 2, "kv_num_heads": 1, **({"block_size": 8} if tiles else {}), **attributes}
    return Case(f"split_{name}", Group.CORNER, problem, options, ("lse",))


SPLIT_CASES = [
    _split("dense"),
    _split("causal", causal=1),
    _split("window", causal=1, window_left=700),
    _split("sink", ("head_sink",)),
    _split("alibi", ("alibi_slopes",)),
    _split("tiles", tiles=True),
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


@pytest.mark.emulated
@pytest.mark.parametrize("plan", [False, True], ids=["alone", "planned"])
@pytest.mark.parametrize("case", SPLIT_CASES, ids=[case.name for case in SPLIT_CASES])
def test_split_attention_emulated(case: Case, plan: bool) -> None:
    driver = emulated_driver()
    before = driver.calls("cuLaunchKernel")
    check(
        emulated_launcher(), driver, "RaggedAttention", case, ElementType.FLOAT16, plan=plan,
        tolerance=TENSOR_CORE_TOLERANCE,
    )  # fmt: skip
    assert driver.calls("cuLaunchKernel") - before == len(("work_list", "attention", "combine_splits")) + plan


@pytest.mark.emulated
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("case", [*SPLIT_CASES[:2], *TENSOR_CORE_CASES[1:6]], ids=lambda case: case.name)
def test_schedules_of_lanes_and_blocks_change_nothing(case: Case, seed: int) -> None:
    driver = emulated_driver()
    driver.seed(seed)
    try:
        check(
            emulated_launcher(), driver, "RaggedAttention", case, ElementType.FLOAT16, plan=seed == 1,
            tolerance=TENSOR_CORE_TOLERANCE,
        )  # fmt: skip
    finally:
        driver.seed(0)


@pytest.mark.cuda
@pytest.mark.parametrize("plan", [False, True], ids=["alone", "planned"])
@pytest.mark.parametrize("case", SPLIT_CASES, ids=[case.name for case in SPLIT_CASES])
def test_split_attention_on_a_device(case: Case, plan: bool) -> None:
    check(
        device_launcher(), device_driver(), "RaggedAttention", case, ElementType.FLOAT16, plan=plan,
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
