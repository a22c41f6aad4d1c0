"""Leaves out each barrier, fence, commit and wait of the kernels in turn, or puts a weaker one in its place: the
emulator, or a result, has to tell.

`python -m helpers.mutations` (in the folder tests) prints the verdict on every mutant and the score.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from helpers.emulator import CHANGED, Change
from raggedrt.plugins.native.build import SOURCE_FOLDER

KERNELS = SOURCE_FOLDER / "cuda" / "kernels"
STATEMENT = re.compile(
    r"\b(sync_block|sync_warp|named_barrier|copy_async_commit|copy_async_wait|fence_device)\s*(?:<[^;]*>)?\("
)
WEAKER = {"sync_block": "sync_warp", "named_barrier": "sync_warp", "copy_async_wait": "for one group less"}
SEEDS = range(1, 6)

Run = Callable[[int], None]
"""A small use of kernels under the schedule of a seed; raises AssertionError where something is wrong."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of a kernel source."""

    file: str
    line: int
    name: str
    weaken: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.name} {WEAKER[self.name] if self.weaken else 'left out'}"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What happened with the change."""

    mutant: Mutant
    found: str
    """The error; empty where nothing was noticed."""


def mutants() -> Iterator[Mutant]:
    """Of every statement that orders threads or waits for copies, in every kernel source."""
    for path in sorted(KERNELS.glob("*.cu*")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for match in STATEMENT.finditer(line.split("//")[0]):
                yield Mutant(path.name, number, match[1])
                if match[1] in WEAKER:
                    yield Mutant(path.name, number, match[1], weaken=True)


def judge(mutant: Mutant, runs: Sequence[Run], seeds: Sequence[int] = SEEDS) -> Verdict:
    """Runs until one notices the change."""
    token = CHANGED.set(Change(f"kernels/{mutant.file}", mutant.line, mutant.weaken))
    try:
        for seed in seeds:
            for run in runs:
                try:
                    run(seed)
                except AssertionError as error:
                    return Verdict(mutant, str(error) or "a wrong result")
    finally:
        CHANGED.reset(token)
    return Verdict(mutant, "")


def judge_all(runs: Mapping[str, Sequence[Run]], seeds: Sequence[int] = SEEDS) -> list[Verdict]:
    """A verdict on every mutant; a file that `runs` does not have is one that no test looks at."""
    return [judge(mutant, runs.get(mutant.file, ()), seeds) for mutant in mutants()]


def score(verdicts: Sequence[Verdict]) -> float:
    """The share of the mutants that were noticed."""
    return sum(bool(verdict.found) for verdict in verdicts) / len(verdicts)


def main() -> None:
    """Prints every verdict."""
    from helpers.mutation_runs import RUNS

    start = time.monotonic()
    verdicts = judge_all(RUNS)
    for verdict in verdicts:
        print(f"{'found ' if verdict.found else 'MISSED'} {verdict.mutant}: {verdict.found[:160]}")
    print(f"score {score(verdicts):.3f} of {len(verdicts)} mutants, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
