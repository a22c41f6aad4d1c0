"""Random calls of every op through the launcher against the references: emulated, and the same on a device."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from helpers.cuda_driver import Driver
from helpers.cuda_launcher import Launcher, device_memory
from helpers.cuda_ops import run_op
from helpers.cuda_setup import device_driver, device_launcher, emulated_driver, emulated_launcher
from helpers.random_calls import MAKERS, Call, calls
from helpers.tolerances import ATTENTION, EXACT, Tolerance, assert_close
from raggedrt.plugins.ops.arrays import Array
from raggedrt.plugins.ops.catalog import REFERENCES

ON_TENSOR_CORES = {
    np.dtype(np.float16): Tolerance(2e-3, 4e-3),
    np.dtype(ml_dtypes.bfloat16): Tolerance(1.2e-2, 1.6e-2),
}
"""Weights are rounded to the element type before they meet the values."""
FEW, MANY = range(12), range(1000, 1120)


def check(launcher: Launcher, driver: Driver, call: Call) -> None:
    """Outputs of the device against the reference."""
    with device_memory(driver) as memory:
        found = run_op(launcher, memory, call.op, call.inputs, call.attributes, plan=call.plan)
    for name, want in REFERENCES[call.op](call.inputs, call.attributes, compute=np.float64).items():
        assert_close(found[name], want, _tolerance(call, want), f"{call.op}.{name}")


def _tolerance(call: Call, want: Array) -> Tolerance:
    if call.op != "RaggedAttention":
        return EXACT
    return ON_TENSOR_CORES.get(call.inputs["query"].dtype, ATTENTION[want.dtype])


@pytest.mark.emulated
@pytest.mark.parametrize("seed", FEW)
@pytest.mark.parametrize("kind", MAKERS)
def test_emulated(kind: str, seed: int) -> None:
    for call in calls(kind, seed):
        check(emulated_launcher(), emulated_driver(), call)


@pytest.mark.slow
@pytest.mark.emulated
@pytest.mark.parametrize("kind", MAKERS)
def test_many_emulated(kind: str) -> None:
    for seed in MANY:
        for call in calls(kind, seed):
            check(emulated_launcher(), emulated_driver(), call)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", MAKERS)
def test_many_on_a_device(kind: str) -> None:
    for seed in MANY:
        for call in calls(kind, seed):
            check(device_launcher(), device_driver(), call)
