"""Several threads, streams and devices at once: one loading per kernel, no shared memory, no order but a stream's."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from helpers.cuda_launcher import Launcher, device_memory, run_call
from helpers.cuda_ops import attention_call, give_plan, run_op
from helpers.cuda_setup import EMULATED_CAPABILITY, emulated_driver, emulated_launcher, emulated_pack
from helpers.tolerances import Tolerance, assert_close
from raggedrt.plugins.native import emulated
from raggedrt.plugins.ops.arrays import Array
from raggedrt.plugins.ops.catalog import REFERENCES
from raggedrt.plugins.ops.ragged_attention.cases import Problem

pytestmark = pytest.mark.emulated

HALF = np.dtype(np.float16)
TOLERANCE = Tolerance(2e-3, 4e-3)
HEADS = {"num_heads": 2, "kv_num_heads": 2}
THREADS = 4


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    """A launcher that has opened no device yet."""
    emulated_driver()
    emulated_pack(tmp_path, EMULATED_CAPABILITY)
    return Launcher(tmp_path, emulated.build_runtime(), tmp_path)


@pytest.fixture
def any_order() -> Iterator[Callable[[int], None]]:
    """Lets streams wait, and run in an order of this seed."""
    yield emulated_driver().seed
    emulated_driver().seed(0)


def inputs_of(seed: int, *lengths: int) -> dict[str, Array]:
    problem = Problem(lengths=lengths, heads=2, kv_heads=2, head_size=32)
    return problem(np.random.default_rng(seed), HALF)


def expect(found: Array, inputs: dict[str, Array]) -> None:
    want = REFERENCES["RaggedAttention"](inputs, HEADS, compute=np.float64)["output"]
    assert_close(found, want, TOLERANCE, "output")


def test_threads_share_devices_and_kernels(launcher: Launcher) -> None:
    """Every thread has a stream; each kernel is loaded once although all ask for it first at the same time."""
    driver = emulated_driver()
    before = driver.calls("cuLibraryLoadData")
    together = threading.Barrier(THREADS)

    def work(seed: int) -> None:
        driver.make_current(0)
        inputs = inputs_of(seed, 70 + seed, 33)
        with driver.stream() as stream, device_memory(driver) as memory:
            together.wait(timeout=60)
            expect(run_op(launcher, memory, "RaggedAttention", inputs, HEADS, stream=stream)["output"], inputs)

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work, seed) for seed in range(THREADS)]:
            done.result()
    assert driver.calls("cuLibraryLoadData") - before == len(("work_list", "attention"))


def test_each_device_has_its_kernels(launcher: Launcher) -> None:
    """The device is that of the thread's context; the launcher changes no context."""
    driver = emulated_driver()
    names = {}
    inputs = inputs_of(0, 40)
    try:
        for ordinal in (1, 0):
            driver.make_current(ordinal)
            names[ordinal], _ = launcher.device()
            with device_memory(driver) as memory:
                expect(run_op(launcher, memory, "RaggedAttention", inputs, HEADS)["output"], inputs)
            assert current_device() == ordinal
    finally:
        driver.make_current(0)
    assert names == {0: "emulated device 0", 1: "emulated device 1"}


def current_device() -> int:
    device = ctypes.c_int()
    emulated_driver().call("cuCtxGetDevice", ctypes.byref(device))
    return device.value


def test_a_thread_without_context_gets_that_of_device_0(launcher: Launcher) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(launcher.device).result()[0] == "emulated device 0"


@pytest.mark.parametrize("seed", range(1, 7))
def test_streams_in_any_order(any_order: Callable[[int], None], seed: int) -> None:
    """Calls on several streams with workspaces of their own; only a stream has an order."""
    driver, launcher = emulated_driver(), emulated_launcher()
    any_order(seed)
    with driver.stream() as first, driver.stream() as second, device_memory(driver) as memory:
        runs = []
        for number, stream in enumerate((first, second, first, second)):
            inputs = inputs_of(10 * seed + number, 65, 7 + number)
            call = attention_call(memory, inputs, HEADS, lse=True)
            if number % 2:
                give_plan(launcher, memory, call, stream)
            run_call(launcher, memory, "attention", call, stream)
            runs.append((inputs, memory.outputs.pop("output")))
        for stream in (second, first):
            driver.synchronize(stream)
        for inputs, (address, shape, dtype) in runs:
            expect(driver.download(address, shape, dtype), inputs)


@pytest.mark.parametrize("seed", range(1, 5))
def test_nothing_of_the_host_is_read_after_the_call(any_order: Callable[[int], None], seed: int) -> None:
    """Structs and arrays of the host may be gone when the kernels run."""
    driver, launcher = emulated_driver(), emulated_launcher()
    inputs = inputs_of(seed, 90)
    attributes = {**HEADS, "global_tokens": [3, 50], "window_left": 4, "window_right": 4}
    any_order(seed)
    with driver.stream() as stream, device_memory(driver) as memory:
        call = attention_call(memory, inputs, attributes, lse=True)
        run_call(launcher, memory, "attention", call, stream)
        tokens = memory.host[-1]
        assert isinstance(tokens, np.ndarray)
        tokens[...] = -1
        ctypes.memset(ctypes.addressof(call), 0xA5, ctypes.sizeof(call))
        driver.synchronize(stream)
        found = memory.results()["output"]
    want = REFERENCES["RaggedAttention"](inputs, attributes, compute=np.float64)["output"]
    assert_close(found, want, TOLERANCE, "output")


def test_the_launcher_takes_no_device_memory(launcher: Launcher) -> None:
    driver = emulated_driver()
    inputs = inputs_of(3, 80, 20)
    with device_memory(driver) as memory:
        call = attention_call(memory, inputs, HEADS, lse=True)
        wanted = launcher.workspace_bytes("attention", call)
        workspace = memory.make(wanted)
        before = driver.allocated()
        launcher("attention_launch", ctypes.byref(call), ctypes.c_void_p(workspace), None)
        assert driver.allocated() == before
