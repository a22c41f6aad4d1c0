"""Every barrier, fence, commit and wait of the kernels is needed: without it the emulator, or a result, tells."""

from __future__ import annotations

import pytest

from helpers.mutation_runs import RUNS
from helpers.mutations import SEEDS, Site, judge, judge_all, score, sites

pytestmark = pytest.mark.emulated

SITES = list(sites())
NEEDED_SCORE = 0.95
# Statements whose absence changes nothing, with the reason.
EQUIVALENT: dict[str, str] = {}


def test_the_kernels_have_statements_to_leave_out() -> None:
    names = {site.name for site in SITES}
    assert {"sync_block", "sync_warp", "copy_async_commit", "copy_async_wait"} <= names


@pytest.mark.parametrize("file", sorted(RUNS))
def test_nothing_is_found_where_nothing_is_missing(file: str) -> None:
    for run in RUNS[file]:
        for seed in SEEDS:
            run(seed)


def test_a_statement_that_does_not_exist_is_not_missed() -> None:
    assert not judge(Site("attention.cu", 1, "sync_block"), RUNS["attention.cu"], [1]).found


@pytest.mark.parametrize("site", [site for site in SITES if str(site) not in EQUIVALENT], ids=str)
def test_a_missing_statement_is_found(site: Site) -> None:
    assert judge(site, RUNS.get(site.file, ())).found


@pytest.mark.slow
def test_score_over_many_schedules() -> None:
    """Each seed alone finds nearly everything, so one that is unlucky hides little."""
    for seed in range(100, 110):
        verdicts = judge_all(RUNS, [seed])
        assert score(verdicts) >= NEEDED_SCORE, [str(verdict.site) for verdict in verdicts if not verdict.found]
