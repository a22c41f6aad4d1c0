"""Every barrier, fence, commit and wait of the kernels is needed, and as strong as it is: the emulator tells."""

from __future__ import annotations

import pytest

from helpers.mutation_runs import RUNS
from helpers.mutations import SEEDS, Mutant, judge, judge_all, mutants, score

pytestmark = pytest.mark.emulated

MUTANTS = list(mutants())
NEEDED_SCORE = 0.95
# Mutants that are as right as the kernel, with the reason.
EQUIVALENT: dict[str, str] = {}


def test_the_kernels_have_statements_to_leave_out() -> None:
    names = {mutant.name for mutant in MUTANTS}
    assert {"sync_block", "sync_warp", "copy_async_commit", "copy_async_wait"} <= names


@pytest.mark.parametrize("file", sorted(RUNS))
def test_nothing_is_found_where_nothing_is_missing(file: str) -> None:
    for run in RUNS[file]:
        for seed in SEEDS:
            run(seed)


def test_a_statement_that_does_not_exist_is_not_missed() -> None:
    assert not judge(Mutant("attention.cu", 1, "sync_block"), RUNS["attention.cu"], [1]).found


@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if str(mutant) not in EQUIVALENT], ids=str)
def test_a_mutant_is_found(mutant: Mutant) -> None:
    assert judge(mutant, RUNS.get(mutant.file, ())).found


@pytest.mark.slow
def test_score_over_many_schedules() -> None:
    """Each seed alone finds nearly everything, so one that is unlucky hides little."""
    for seed in range(100, 110):
        verdicts = judge_all(RUNS, [seed])
        assert score(verdicts) >= NEEDED_SCORE, [str(verdict.mutant) for verdict in verdicts if not verdict.found]
