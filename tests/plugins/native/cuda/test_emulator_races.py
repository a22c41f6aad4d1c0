"""The race detector against an oracle that keeps a clock per thread: random programs, the same verdicts."""

from __future__ import annotations

import ctypes
import dataclasses
import enum
import functools
import pathlib

import numpy as np
import pytest

from helpers.emulator import EmulationError, Grid, Kernels, Memory, Variant, aligned, registered

pytestmark = pytest.mark.emulated

SOURCE = pathlib.Path(__file__).parent / "interpreter.cu"
THREADS, WARPS, WORDS = 96, 3, 6
PROGRAMS = 150
SEEDS = (0, 1, 2)


class What(enum.IntEnum):
    """Operations of interpreter.cu."""

    NOTHING = 0
    LOAD = 1
    STORE = 2
    ATOMIC = 3
    LOAD_GLOBAL = 4
    STORE_GLOBAL = 5
    COPY = 6
    COMMIT = 7
    WAIT_ALL = 8
    WAIT_OLDER = 9
    SYNC_WARP = 10
    SYNC_BLOCK = 11
    NAMED_BARRIER = 12
    SHUFFLE = 13
    LOAD_HALF = 14
    STORE_HALF = 15


WRITES = {What.STORE, What.STORE_GLOBAL, What.COPY, What.STORE_HALF, What.ATOMIC}
ACCESSES = (What.LOAD, What.STORE, What.LOAD_GLOBAL, What.STORE_GLOBAL, What.LOAD_HALF, What.STORE_HALF)


class Params(ctypes.Structure):
    _fields_ = (
        ("program", ctypes.c_void_p),
        ("input", ctypes.c_void_p),
        ("global_", ctypes.c_void_p),
        ("steps", ctypes.c_int),
        ("words", ctypes.c_int),
    )


@dataclasses.dataclass(frozen=True)
class Step:
    """What some threads do at one point of the program."""

    what: What
    threads: tuple[int, ...]
    where: int = 0
    count: int = 0


def random_program(rng: np.random.Generator, kinds: tuple[What, ...], steps: int) -> list[Step]:
    """Accesses of one thread or a few, and barriers of all, of a warp, or of some warps."""
    program = []
    for _ in range(steps):
        draw = rng.random()
        if draw < 0.45:
            threads = rng.choice(THREADS, rng.choice([1, 1, 2]), replace=False)
            what = What(rng.choice(kinds))
            program.append(Step(what, tuple(map(int, threads)), int(rng.integers(WORDS)), int(rng.integers(2))))
        elif draw < 0.75:
            warp = int(rng.integers(WARPS))
            what = What.SYNC_WARP if rng.random() < 0.8 else What.SHUFFLE
            program.append(Step(what, tuple(range(32 * warp, 32 * warp + 32))))
        elif draw < 0.85:
            program.append(Step(What.SYNC_BLOCK, tuple(range(THREADS))))
        else:
            warps = sorted(rng.choice(WARPS, rng.integers(1, WARPS + 1), replace=False))
            threads = tuple(32 * int(warp) + lane for warp in warps for lane in range(32))
            own_id = sum(1 << int(warp) for warp in warps)  # others may wait at the same time
            program.append(Step(What.NAMED_BARRIER, threads, own_id, len(warps)))
    return program


@dataclasses.dataclass
class Done:
    """An access: [begin, end] of its thread's time, the latter open while a copy is in flight."""

    thread: int
    begin: int
    end: float
    writes: bool
    atomic: bool
    bytes: range
    shared: bool


class Oracle:
    """Happens-before by a vector clock per thread: exact, and slow."""

    def __init__(self) -> None:
        self.clocks = np.zeros((THREADS, THREADS))
        self.done: list[Done] = []
        self.race = False
        self.flying: dict[int, list[tuple[int, Done]]] = {}  # thread -> (group, copy)
        self.groups = dict.fromkeys(range(THREADS), 0)

    def run(self, program: list[Step]) -> bool:
        """Whether the program has a race."""
        for step in program:
            if step.what in (What.SYNC_WARP, What.SYNC_BLOCK, What.NAMED_BARRIER):
                members = list(step.threads)
                for thread in members:
                    self.clocks[thread, thread] += 1
                self.clocks[members] = self.clocks[members].max(axis=0)
                continue
            for thread in step.threads:
                self._one(step, thread)
        return self.race

    def _one(self, step: Step, thread: int) -> None:
        self.clocks[thread, thread] += 1
        now = int(self.clocks[thread, thread])
        if step.what is What.COMMIT:
            self.groups[thread] += 1
        elif step.what in (What.WAIT_ALL, What.WAIT_OLDER):
            self._land(thread, self.groups[thread] - (step.what is What.WAIT_OLDER), now)
        elif step.what in WRITES or step.what in (What.LOAD, What.LOAD_GLOBAL, What.LOAD_HALF):
            self._access(step, thread, now)

    def _land(self, thread: int, below: int, now: int) -> None:
        flying = self.flying.get(thread, [])
        for group, copy in flying:
            if group < below:
                copy.end = now
        self.flying[thread] = [(group, copy) for group, copy in flying if group >= below]

    def _access(self, step: Step, thread: int, now: int) -> None:
        half = step.what in (What.LOAD_HALF, What.STORE_HALF)
        first = 4 * step.where + (2 * step.count if half else 0)
        shared = step.what not in (What.LOAD_GLOBAL, What.STORE_GLOBAL)
        covered = range(first, first + (2 if half else 4))
        copies, atomic = step.what is What.COPY, step.what is What.ATOMIC
        mine = Done(thread, now, np.inf if copies else now, step.what in WRITES, atomic, covered, shared)
        self.race |= any(self._conflict(other, mine) for other in self.done)
        self.done.append(mine)
        if copies:
            self.flying.setdefault(thread, []).append((self.groups[thread], mine))

    def _conflict(self, other: Done, mine: Done) -> bool:
        apart = other.bytes.stop <= mine.bytes.start or mine.bytes.stop <= other.bytes.start
        if apart or other.shared != mine.shared or not (other.writes or mine.writes) or (other.atomic and mine.atomic):
            return False
        return bool(self.clocks[mine.thread, other.thread] < other.end)


@functools.cache
def kernels() -> Kernels:
    return Kernels([Variant(str(SOURCE), "interpreter")])


def found(program: list[Step], seed: int) -> str:
    """What the emulator says about the program; empty: nothing."""
    codes, given, memory = (
        aligned((len(program), THREADS), np.uint32),
        aligned(WORDS, np.uint32),
        aligned(WORDS, np.uint32),
    )
    for row, step in zip(codes, program, strict=True):
        row[list(step.threads)] = step.what << 16 | step.where << 8 | step.count
    arrays = {"program": (codes, Memory.INPUT), "input": (given, Memory.INPUT), "global": (memory, Memory.IN_OUT)}
    params = Params(codes.ctypes.data, given.ctypes.data, memory.ctypes.data, len(program), WORDS)
    with registered(arrays):
        try:
            kernels().run("interpreter", params, Grid(threads=THREADS, shared_bytes=4 * WORDS), seed=seed)
        except EmulationError as error:
            return str(error)
    return ""


def check(kinds: tuple[What, ...], steps: int, number: int) -> bool:
    program = random_program(np.random.default_rng([number, steps]), kinds, steps)
    expected = Oracle().run(program)
    for seed in SEEDS:
        message = found(program, seed)
        assert bool(message) == expected, f"program {number}, seed {seed}: {message or 'nothing found'}"
        assert not message or "races with" in message or "may still be in flight" in message
    return expected


SHARED = (What.LOAD, What.STORE)
WIDTHS = (What.LOAD, What.STORE, What.LOAD_HALF, What.STORE_HALF)
COPIES = (What.LOAD, What.STORE, What.COPY, What.COPY, What.COMMIT, What.WAIT_ALL, What.WAIT_OLDER)


@pytest.mark.parametrize(
    ("kinds", "steps"),
    [
        pytest.param(SHARED, 12, id="shared"),
        pytest.param(WIDTHS, 14, id="widths"),
        pytest.param((*SHARED, What.LOAD_GLOBAL, What.STORE_GLOBAL), 16, id="global"),
        pytest.param(COPIES, 16, id="copies"),
        pytest.param((What.LOAD, What.ATOMIC, What.ATOMIC), 10, id="atomics"),
    ],
)
def test_races_are_those_of_the_oracle(kinds: tuple[What, ...], steps: int) -> None:
    verdicts = [check(kinds, steps, number) for number in range(PROGRAMS)]
    assert 0.15 < np.mean(verdicts) < 0.9  # both kinds of programs are there
