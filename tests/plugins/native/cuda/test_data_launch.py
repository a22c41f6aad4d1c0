"""Corner cases of the kernels around attention through the launcher: emulated, and the same on a device."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import data_corners as corners
from helpers.cuda_calls import AttentionPlanCall, AttentionProblem, MaskTerms, TileList
from helpers.cuda_driver import Driver
from helpers.cuda_launcher import Launcher, device_memory, outputs_of, run_call
from helpers.cuda_ops import run_op
from helpers.cuda_setup import device_driver, device_launcher, emulated_driver, emulated_launcher
from helpers.tolerances import ATTENTION, EXACT, Tolerance, assert_close
from helpers.work_lists import CALLS, Lengths, WorkList, check_work_list
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.ops.arrays import NUMPY_TYPES
from raggedrt.plugins.ops.case import Case
from raggedrt.plugins.ops.catalog import REFERENCES
from raggedrt.plugins.ops.ragged_attention.cases import Problem

HALF_WEIGHTS = Tolerance(2e-3, 4e-3)
"""Where the launcher takes tensor cores, weights are rounded to half before they meet the values."""
EMULATED_HEAD_SIZE = 32
"""Largest one that the emulated pack has."""

EXACT_ROWS = [
    *(("PackingPlan", case, ElementType.FLOAT) for case in corners.PACKING),
    *(("PackTokens", case, ElementType.FLOAT) for case in corners.COPIES),
    *(("BlockMask", case, ElementType.FLOAT) for case in corners.BLOCK_MASKS),
]
ATTENTION_ROWS = [("RaggedAttention", case, element) for case in corners.ATTENTION for element in case.element_types]


def _head_size(case: Case) -> int:
    problem = case.generate
    assert isinstance(problem, Problem)
    return max(problem.head_size, problem.value_head_size)


SMALL_ROWS = [row for row in ATTENTION_ROWS if _head_size(row[1]) <= EMULATED_HEAD_SIZE]


def check(launcher: Launcher, driver: Driver, op: str, case: Case, element: ElementType) -> None:
    """Outputs of the device against the reference."""
    inputs = case.inputs(NUMPY_TYPES[element], 7)
    with device_memory(driver) as memory:
        found = run_op(launcher, memory, op, inputs, case.attributes)
    for name, want in REFERENCES[op](inputs, case.attributes, compute=np.float64).items():
        limit = EXACT if want.dtype.kind not in "fV" or op == "PackTokens" else ATTENTION[want.dtype]
        if op == "RaggedAttention" and element is not ElementType.FLOAT:
            limit = HALF_WEIGHTS
        assert_close(found[name], want, limit, f"{op}.{case.name}.{name}")


def planned(launcher: Launcher, driver: Driver, call: Lengths) -> WorkList:
    """The work list of an AttentionPlan."""
    rng = np.random.default_rng(3)
    positions, tiles = call.positions_q(rng), call.tiles(rng)
    keys = None if positions is None else np.arange(sum(call.key_lengths), dtype=np.int32)
    tokens = np.array(call.global_tokens, np.int32)
    with device_memory(driver) as memory:
        problem = AttentionProblem(
            cu_seqlens_q=memory.put(np.cumsum([0, *call.queries]).astype(np.int32)),
            cu_seqlens_k=memory.put(np.cumsum([0, *call.key_lengths]).astype(np.int32)),
            positions_q=memory.put(positions), positions_k=memory.put(keys), sequences=len(call.queries),
            total_q=sum(call.queries) + call.tail, total_k=sum(call.key_lengths), num_heads=1, kv_num_heads=1,
            head_size=8, value_head_size=8, scale=1.0, causal=call.causal,
            mask=MaskTerms(*call.window, 1, memory.on_host(tokens), len(tokens)),
        )  # fmt: skip
        if tiles:
            sequences, groups, ends = tiles["tile_ptr"].shape
            problem.tiles = TileList(
                ptr=memory.put(tiles["tile_ptr"]), sequences=sequences, groups=groups, rows=ends - 1,
                block_size=call.block_size,
            )  # fmt: skip
        size = launcher.work_list_size(problem)
        made = memory.output("work_list", (size,), np.int32)
        longest = [max([0, *lengths]) for lengths in (call.queries, call.key_lengths)]
        run_call(launcher, memory, "attention_plan", AttentionPlanCall(problem, *longest, made))
        words = outputs_of(memory)["work_list"]
    return WorkList(call, words[4 : 4 + 4 * int(words[0])].reshape(-1, 4), positions, tiles)


PLANS = {name: call for name, call in CALLS.items() if call.splits == 1}
"""Splits are the launcher's own decision."""


def _names(rows: list[tuple[str, Case, ElementType]]) -> list[str]:
    return [f"{op}-{case.name}-{element.name}" for op, case, element in rows]


@pytest.mark.emulated
@pytest.mark.parametrize(("op", "case", "element"), [*EXACT_ROWS, *SMALL_ROWS], ids=_names([*EXACT_ROWS, *SMALL_ROWS]))
def test_corners_emulated(op: str, case: Case, element: ElementType) -> None:
    check(emulated_launcher(), emulated_driver(), op, case, element)


@pytest.mark.emulated
@pytest.mark.parametrize("name", PLANS)
def test_plans_emulated(name: str) -> None:
    check_work_list(planned(emulated_launcher(), emulated_driver(), PLANS[name]))


@pytest.mark.cuda
@pytest.mark.parametrize("name", PLANS)
def test_plans_on_a_device(name: str) -> None:
    check_work_list(planned(device_launcher(), device_driver(), PLANS[name]))


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("op", "case", "element"), [*EXACT_ROWS, *ATTENTION_ROWS], ids=_names([*EXACT_ROWS, *ATTENTION_ROWS])
)
def test_corners_on_a_device(op: str, case: Case, element: ElementType) -> None:
    check(device_launcher(), device_driver(), op, case, element)
