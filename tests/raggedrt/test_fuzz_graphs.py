"""Mutated graphs, for a bounded time: `inspect` and `rewrite` end in the right values or in an error of ours.

`python tests/helpers/fuzz_worker.py FOLDER SEED SEED+1` (with the root and tests on PYTHONPATH) repeats a seed.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.project import ROOT

pytestmark = pytest.mark.ort_cpu
SECONDS = 240
"""For all seeds together; one takes about 0.2 s."""
SEEDS = 60
FIRST = int(os.environ.get("RAGGEDRT_FUZZ_SEED", "0"))
"""Another range of seeds than that of every run."""
FAULTS = ("wrong", "raised", "internal", None)


def outcomes(folder: Path, first: int, last: int) -> tuple[dict[int, dict[str, Any]], str]:
    """What the worker says of each seed, and how its process ended."""
    worker = ROOT / "tests" / "helpers" / "fuzz_worker.py"
    command = [sys.executable, str(worker), str(folder), str(first), str(last)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment, cwd=folder
        )
        output, ended = done.stdout, f"exit status {done.returncode}: {done.stderr[-300:]}"
    except subprocess.TimeoutExpired as late:
        output, ended = (late.stdout or b"").decode(), f"killed after {SECONDS} s"
    rows: dict[int, dict[str, Any]] = {}
    for line in output.splitlines():
        row = json.loads(line)
        rows.setdefault(row["seed"], {}).update(row)
    return rows, ended


@pytest.mark.slow
def test_mutated_graphs(tmp_path: Path) -> None:
    rows, ended = outcomes(tmp_path, FIRST, FIRST + SEEDS)
    faults = [row for row in rows.values() if row.get("outcome") in FAULTS]
    assert not faults, f"{ended}\n" + "\n".join(map(str, faults))
    assert len(rows) == SEEDS, ended
    counts = collections.Counter(row["outcome"] for row in rows.values())
    assert counts["equal"] >= SEEDS // 10, counts  # or the mutations leave nothing to compare
    assert counts["refused"] >= SEEDS // 10, counts


def test_a_seed_gives_the_same_graph_each_time(tmp_path: Path) -> None:
    first, second = (outcomes(tmp_path, 3, 6)[0] for _ in range(2))
    assert first == second
    assert len(first) == 3
