"""Every kind of error that the emulator reports: a small kernel that has it is caught, its correct twin is not."""

from __future__ import annotations

import ctypes
import pathlib

import numpy as np
import pytest

from helpers.emulator import EmulationError, Grid, Kernels, Memory, Variant, aligned, registered
from raggedrt.plugins.native import emulated

pytestmark = pytest.mark.emulated

SOURCE = pathlib.Path(__file__).parent / "detectors.cu"
SEEDS = range(8)
WRITE = r"races with a write by thread \d+"
READ = r"races with a read by thread \d+"
COPY = r"destination of an asynchronous copy by thread \d+ that may still be in flight"
# Per program, in the order of its number: what the message of its broken form says.
PROGRAMS = {
    "read_of_another_warp": f"{WRITE}: no barrier of both orders them|{READ}",
    "read_of_another_lane": f"{WRITE}: no sync_warp or barrier orders them|{READ}",
    "read_after_shuffle": f"{WRITE}: no sync_warp or barrier orders them|{READ}",
    "write_after_read": f"store_shared of 4 bytes .* {READ}|{WRITE}",
    "write_after_earlier_read": f"store_shared of 4 bytes .* {READ}|{WRITE}",
    "both_store": f"store_shared of 4 bytes at shared offset 0 {WRITE}",
    "unwritten_shared": r"thread 5 \(.*\): load_shared of 4 bytes at shared offset 20 reads bytes that nobody has",
    "overrun_of_shared": "thread 3 .* at shared offset 4096, but the launch has 4096 bytes of shared memory",
    "misaligned_shared": r"store_shared of 16 bytes at shared offset \d+: not a multiple of its size",
    "misaligned_global": "load_global of 8 bytes at address 0x[0-9a-f]+: not a multiple of its size",
    "outside_global": r"thread 9 .* outside of all global memory: it is 0 bytes behind the end of `input` \(4096",
    "write_to_input": r"store_global of 4 bytes at offset 0 of `input` \(4096 bytes\) writes an input",
    "unwritten_global": r"load_global of 4 bytes at offset \d+ of `output` .* reads bytes that nobody has written",
    "copy_without_wait": COPY,
    "copy_without_commit": COPY,
    "copy_with_short_wait": COPY,
    "copy_without_barrier": f"load_shared of 4 bytes .* (?:{WRITE}|{COPY}|reads bytes that nobody has written)",
    "copy_with_barrier_before_wait": f"load_shared of 4 bytes .* (?:{WRITE}|{COPY})|copy_async of 4 bytes .* {READ}",
    "copy_over_readers": f"copy_async of 4 bytes .* {READ}|{COPY}|load_shared .* {WRITE}",
    "store_under_copy": f"store_shared of 4 bytes .* {COPY}",
    "copy_never_awaited": "leaves the kernel with 1 asynchronous copies in flight",
    "leaves_before_barrier": (
        r"deadlock, nothing can run. Block \(\d, 0\): threads 32-63 left the kernel; threads 0-31 wait at sync_block "
        r"\(detectors.cu:\d+\), where 32 of 64 threads have arrived|all 64 threads of the block, but \d+ have left"
    ),
    "different_barriers": r"while other threads wait at sync_block \(detectors.cu:\d+\): divergent barriers",
    "starved_named_barrier": r"deadlock.*threads 0-31 wait at named_barrier .*, where 32 of 64 threads have arrived",
    "torn_named_barrier": "completes named barrier 2 with only some lanes of warp",
    "barrier_of_others": f"{WRITE}: no barrier of both orders them|{READ}",
    "torn_shuffle": "of its warp waits at (?:a shuffle|ballot).*: a warp collective needs all 32 lanes at the same one",
    "leaves_before_shuffle": "leaves the kernel while lane|lane 4 of its warp has left the kernel",
    "matrix_of_another_lane": f"load_matrix of 16 bytes .* {WRITE}",
    "global_race_of_threads": f"of `scratch` .* (?:{WRITE}: no barrier of both|{READ}: no barrier of both)",
    "global_race_of_blocks": rf"of `scratch` .* {WRITE} of block \(\d, 0\): no chain of fence_device, atomic",
    "last_block_without_release": rf"of `scratch` .* {WRITE} of block \(\d, 0\)",
    "last_block_without_acquire": rf"of `scratch` .* {WRITE} of block \(\d, 0\)",
    "fence_before_barrier": r"of `scratch` .* races with a write by thread 1 of block \(\d, 0\)",
    "constant_that_is_written": r"and a load_global_readonly meet in one launch",
    "written_constant": r"store_global .* and a load_global_readonly meet in one launch",
    "read_beside_atomics": f"load_shared .* {WRITE}|an atomic .* (?:{READ}|{WRITE})",
    "halves_of_a_word": WRITE,
    "bytes_of_a_global_word": f"of `output` .* {WRITE}",
    "failed_check": r"thread 7 \(warp 0, lane 7\): seven is not welcome",
    "endless": "the launch runs for more than 1 seconds; is there an endless loop",
    "unwritten_registers": "an accumulator begins with zeros",
    "division_by_zero": r"thread 3 \(warp 0, lane 3\): an integer division by zero",
    "past_the_intrinsics": r"thread 3 \(warp 0, lane 3\): an access to memory that is not there: past the intrinsics",
}
MANY_BLOCKS = (
    "global_race_of_blocks",
    "last_block_without_release",
    "last_block_without_acquire",
    "fence_before_barrier",
)


# An endless loop costs a second, and not every compiler can poison registers.
FOUND_AT_ONCE = [
    name for name in PROGRAMS if name != "endless" and (name != "unwritten_registers" or emulated.poisons_registers())
]


class Params(ctypes.Structure):
    _fields_ = (
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("program", ctypes.c_int),
        ("broken", ctypes.c_int),
    )


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return Kernels([Variant(str(SOURCE), "detectors")])


def run(kernels: Kernels, program: str, broken: bool, seed: int) -> None:
    given, out, scratch = (aligned(1024, np.uint32) for _ in range(3))
    given[:] = np.arange(1024)
    memory = {
        "input": (given, Memory.INPUT),
        "output": (out, Memory.UNINITIALIZED),
        "scratch": (scratch, Memory.IN_OUT),
    }
    number = list(PROGRAMS).index(program)
    params = Params(given.ctypes.data, out.ctypes.data, scratch.ctypes.data, number, broken)
    grid = Grid(3, 1, 64, 4096) if program in MANY_BLOCKS else Grid(1, 1, 64, 4096)
    with registered(memory):
        kernels.run("detectors", params, grid, seed=seed, seconds=1.0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_correct_kernels_pass(kernels: Kernels, program: str, seed: int) -> None:
    run(kernels, program, False, seed)


@pytest.mark.parametrize("seed", [*SEEDS])
@pytest.mark.parametrize("program", FOUND_AT_ONCE)
def test_errors_are_found(kernels: Kernels, program: str, seed: int) -> None:
    with pytest.raises(EmulationError, match=PROGRAMS[program]):
        run(kernels, program, True, seed)


@pytest.mark.parametrize("seed", [0, 1])
def test_endless_loops_end(kernels: Kernels, seed: int) -> None:
    with pytest.raises(EmulationError, match=PROGRAMS["endless"]):
        run(kernels, "endless", True, seed)
