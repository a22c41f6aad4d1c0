"""The model matrix: every family x {eager, sdpa} x opset {18, 20, 24}, and heads and tasks, checked against PyTorch.

Each family runs in a process of its own; what was done already is kept, so that an interrupted run continues. The
table in the documentation is generated from the results.

    python scripts/model_matrix.py                      # what is missing, then docs/model-matrix.md
    python scripts/model_matrix.py --families BERT,T5 --again
    python scripts/model_matrix.py --families BERT --again --only "/24/" --record  # the rest stays as recorded
    python scripts/model_matrix.py --render             # only the document
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from matrix_checks import ABSENT, EMBEDDINGS, FAULT, REFUSED, Combination, check
from matrix_document import document
from model_families import FAMILIES, Family

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "model-matrix.json"
DOCUMENT = ROOT / "docs" / "model-matrix.md"
ATTENTION = ("sdpa", "eager")
EXPORTERS = ("raggedrt", "torch.onnx")
OPSETS, TASK_OPSET = (20, 18, 24), 20
PLAIN = {("eager", 20), ("sdpa", 20), ("sdpa", 24)}
"""Attention and opset of exports by PyTorch alone."""
MOST_SECONDS = 1800
"""For one family."""

Cells = dict[str, dict[str, Any]]


def combinations(family: Family, only: str = "") -> list[Combination]:
    """What is tried of a family, the most telling first; `only`: a regular expression that their keys match."""
    main = [
        Combination(family, family.task, attention, opset, exporter)
        for exporter in EXPORTERS
        for opset in OPSETS
        for attention in ATTENTION
        if exporter == "raggedrt" or (family.pixels is None and (attention, opset) in PLAIN)
    ]
    tasks = [*family.tasks, *(EMBEDDINGS if "fill-mask" in family.tasks else ())]
    heads = [Combination(family, task, "eager", TASK_OPSET, "raggedrt") for task in tasks]
    return [item for item in (*main, *heads) if re.search(only, item.key)]


def run_family(family: Family, store: pathlib.Path, wanted: Sequence[Combination], *, bodies: bool) -> None:
    """Fill the missing cells of a family's file; meant to be a process of its own."""
    import torch

    torch.set_num_threads(1)
    cells: Cells = json.loads(store.read_text()) if store.exists() else {}
    for combination in wanted:
        if combination.key in cells:
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="raggedrt-matrix-") as folder:
            cell = check(combination, pathlib.Path(folder), natives=(True, False) if bodies else (True,))
        cells[combination.key] = cell
        _write(store, cells)
        print(
            f"{family.name:16s} {combination.key:48s} {_summary(cell)} {time.perf_counter() - started:.1f} s",
            flush=True,
        )


def _summary(cell: dict[str, Any]) -> str:
    parts = [f"{name} {part['status']}" for name, part in cell.items()]
    reason = next((part["reason"] for part in cell.values() if part["status"] in (FAULT, REFUSED, "partial")), "")
    return f"{', '.join(parts)} {reason[:160]}"


def _write(path: pathlib.Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    os.replace(temporary, path)


def _start(family: Family, folder: pathlib.Path, arguments: argparse.Namespace) -> None:
    """Run one family in a process; what it did not finish becomes a fault of the combination that it died in."""
    store = folder / f"{family.key}.json"
    if not store.exists():
        _write(store, _recorded().get(family.name, {}))
    if arguments.again:
        known: Cells = json.loads(store.read_text())
        _write(store, {key: cell for key, cell in known.items() if not re.search(arguments.only, key)})
    command = [sys.executable, "-W", "ignore", __file__, "--child", family.key, "--folder", str(folder)]
    command += ["--no-bodies"] if arguments.no_bodies else []
    command += ["--only", arguments.only]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    while True:
        try:
            ended = subprocess.run(command, env=environment, timeout=MOST_SECONDS, check=False).returncode
        except subprocess.TimeoutExpired:
            ended = f"after {MOST_SECONDS} s"
        if ended == 0:
            return
        cells: Cells = json.loads(store.read_text()) if store.exists() else {}
        missing = next((item.key for item in combinations(family, arguments.only) if item.key not in cells), None)
        if missing is None:
            return
        _write(store, cells | {missing: {"export": {"status": FAULT, "reason": f"the process ended: {ended}"}}})


def _recorded() -> dict[str, Cells]:
    """The cells that the documentation has."""
    recorded: dict[str, Cells] = json.loads(RESULTS.read_text())["families"] if RESULTS.exists() else {}
    return recorded


def collect(folder: pathlib.Path) -> dict[str, Cells]:
    """The cells of all families: those that were run here, else as recorded."""
    stores = {family.name: folder / f"{family.key}.json" for family in FAMILIES}
    own = {name: json.loads(store.read_text()) for name, store in stores.items() if store.exists()}
    return {name: cells for name in stores if (cells := own.get(name) or _recorded().get(name))}


def versions() -> dict[str, str]:
    """What the results hold for."""
    import importlib.metadata

    packages = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript")
    return {name: importlib.metadata.version(name).split("+")[0] for name in packages}


def render(results: dict[str, Any]) -> None:
    """Write the document."""
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document(results))


def main() -> int:
    """Run what is asked for; returns 1 where a cell holds a fault."""
    parser = argparse.ArgumentParser(description="Check every model family against PyTorch.")
    parser.add_argument("--families", help="names or keys, separated by commas; all by default")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "model_matrix", help="for results")
    parser.add_argument("--again", action="store_true", help="drop what is known of these (and --only)")
    parser.add_argument("--only", default="", help="regular expression for task/attention/opset/exporter")
    parser.add_argument("--no-bodies", action="store_true", help="with the op library only")
    parser.add_argument("--render", action="store_true", help="only write the document again")
    parser.add_argument("--record", action="store_true", help="store the results in docs/ and write the document")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.render:
        render(json.loads(RESULTS.read_text()))
        return 0
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.child:
        family = next(family for family in FAMILIES if family.key == arguments.child)
        wanted = combinations(family, arguments.only)
        run_family(family, arguments.folder / f"{family.key}.json", wanted, bodies=not arguments.no_bodies)
        return 0
    names = [name.strip().lower() for name in (arguments.families or "").split(",") if name.strip()]
    for family in FAMILIES:
        if not names or family.key in names or family.name.lower() in names:
            _start(family, arguments.folder, arguments)
    cells = collect(arguments.folder)
    if arguments.record:
        RESULTS.parent.mkdir(exist_ok=True)
        _write(RESULTS, {"versions": versions(), "families": cells})
        render(json.loads(RESULTS.read_text()))
    parts = [part for family in cells.values() for cell in family.values() for part in cell.values()]
    counts = {status: sum(part["status"] == status for part in parts) for status in {part["status"] for part in parts}}
    print(", ".join(f"{count} {status}" for status, count in sorted(counts.items()) if status != ABSENT))
    return 1 if counts.get(FAULT) else 0


if __name__ == "__main__":
    sys.exit(main())
