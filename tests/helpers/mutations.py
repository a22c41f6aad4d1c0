"""Leaves out each barrier, fence, commit and wait of the kernels in turn: the emulator, or a result, has to tell.

`python -m helpers.mutations` (in the folder tests) prints the verdict on every statement and the score.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from helpers.emulator import SKIPPED
from raggedrt.plugins.native.build import SOURCE_FOLDER

KERNELS = SOURCE_FOLDER / "cuda" / "kernels"
STATEMENT = re.compile(
    r"\b(sync_block|sync_warp|named_barrier|copy_async_commit|copy_async_wait|fence_device)\s*(?:<[^;]*>)?\("
)
SEEDS = range(1, 6)

Run = Callable[[int], None]
"""A small use of kernels under the schedule of a seed; raises AssertionError where something is wrong."""


@dataclasses.dataclass(frozen=True)
class Site:
    """One statement of a kernel source."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.name}"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What happened without the statement."""

    site: Site
    found: str
    """The error; empty where nothing was noticed."""


def sites() -> Iterator[Site]:
    """Every statement that orders threads or waits for copies, of every kernel source."""
    for path in sorted(KERNELS.glob("*.cu*")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for match in STATEMENT.finditer(line.split("//")[0]):
                yield Site(path.name, number, match[1])


def judge(site: Site, runs: Sequence[Run], seeds: Sequence[int] = SEEDS) -> Verdict:
    """Runs until one notices that the statement is missing."""
    token = SKIPPED.set((f"kernels/{site.file}", site.line))
    try:
        for seed in seeds:
            for run in runs:
                try:
                    run(seed)
                except AssertionError as error:
                    return Verdict(site, str(error) or "a wrong result")
    finally:
        SKIPPED.reset(token)
    return Verdict(site, "")


def judge_all(runs: Mapping[str, Sequence[Run]], seeds: Sequence[int] = SEEDS) -> list[Verdict]:
    """A verdict on every statement; a file that `runs` does not have is one that no test looks at."""
    return [judge(site, runs.get(site.file, ()), seeds) for site in sites()]


def score(verdicts: Sequence[Verdict]) -> float:
    """The share of the statements whose absence was noticed."""
    return sum(bool(verdict.found) for verdict in verdicts) / len(verdicts)


def main() -> None:
    """Prints every verdict."""
    from helpers.mutation_runs import RUNS

    start = time.monotonic()
    verdicts = judge_all(RUNS)
    for verdict in verdicts:
        print(f"{'found ' if verdict.found else 'MISSED'} {verdict.site}: {verdict.found[:160]}")
    print(f"score {score(verdicts):.3f} of {len(verdicts)} statements, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
