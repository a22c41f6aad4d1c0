"""What the GPU benchmarks share: times of cold calls, contenders in turns, records with where they were made.

Before each timed call a buffer larger than the second-level cache is written, so that every call reads its operands
from memory. Contenders take turns; times are medians with the 10th to 90th percentile. Clocks are left as they are.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import pathlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
NO_GPU = 5
"""Exit code where there is nothing to measure on, as of `raggedrt` itself."""
Times = dict[str, list[float]]


def uniform_lengths(rows: int, low: float, longest: int, seed: int = 0) -> list[int]:
    """Lengths drawn from U[low, 1] of `longest` tokens, at least one; the last row is full."""
    drawn = np.random.default_rng(seed).uniform(low, 1.0, rows) * longest
    lengths = [max(1, round(length)) for length in drawn]
    lengths[-1] = longest
    return lengths


def attention_flops(pairs: int, heads: int, head_size: int) -> int:
    """Floating-point operations of both products over `pairs` of a query and a key that see each other."""
    return 4 * pairs * heads * head_size


def copied_bytes(tokens: int, slots: int, row_bytes: int) -> dict[str, int]:
    """Bytes that packing and unpacking read and write: tokens once each way, indices, and every slot that is zeroed."""
    moved = 2 * tokens * row_bytes + 4 * tokens
    return {"pack": moved, "unpack": moved + (slots - tokens) * row_bytes}


def summary(times: Sequence[float]) -> dict[str, float]:
    """Median and spread in microseconds, with four digits."""
    low, middle, high = (float(value) for value in np.percentile(times, (10, 50, 90)))
    return {name: float(f"{value:.4g}") for name, value in (("p10", low), ("median", middle), ("p90", high))}


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers; 0 without any."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else 0.0


def time_in_turns(contenders: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 3) -> Times:
    """Microseconds of each contender in each round, measured on the device with cold caches."""
    import torch

    cache = torch.cuda.get_device_properties(0).L2_cache_size
    flush = torch.empty(max(4 * cache, 64 << 20), dtype=torch.int8, device="cuda")
    times: Times = {name: [] for name in contenders}
    for number in range(rounds + warm_up):
        for name, call in contenders.items():
            flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            if number >= warm_up:
                times[name].append(start.elapsed_time(end) * 1e3)
    return times


def first_error(
    make: Callable[[], Callable[[], object]], missing: dict[str, str], name: str
) -> Callable[[], object] | None:
    """A contender that ran once, or None with the reason in `missing`."""
    import torch

    try:
        call = make()
        call()
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - whatever keeps another project's code from running is no fault of ours
        missing[name] = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        return None
    return call


def gpu_facts() -> dict[str, Any]:
    """Where a record was made."""
    import importlib.metadata as packages

    from raggedrt.diagnosing import machine_facts
    from raggedrt.plugins.runtime.cuda_device import cuda_state

    state = cuda_state()
    names = ("torch", "onnxruntime-gpu", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "triton")
    versions = {}
    for name in names:
        try:
            versions[name] = packages.version(name)
        except packages.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "gpu": ", ".join(map(str, state.devices)),
        "driver": _driver(),
        "cuda": ".".join(map(str, state.version or ())),
        **machine_facts(),
        **versions,
        "commit": _commit(),
    }


def _driver() -> str:
    text = pathlib.Path("/proc/driver/nvidia/version")
    lines = text.read_text(errors="replace").splitlines() if text.is_file() else []
    return lines[0].partition(":")[2].strip() if lines else "unknown"


def _commit() -> str:
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(
        ["git", "-C", str(ROOT), "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False
    )
    return (done.stdout.strip() or "unknown") + (" with changes" if changed.stdout.strip() else "")


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of plain values as a table; columns in the order of their first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(name, "")) for name in columns) + " |" for row in rows]
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, Mapping) and "median" in value:
        return f"{value['median']:g} ({value['p10']:g}-{value['p90']:g})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def page(title: str, record: Mapping[str, Any]) -> str:
    """A record as Markdown: facts, one table per section, goals, what was missing."""
    facts = " · ".join(f"{name} {value}" for name, value in record["facts"].items())
    lines = [f"# {title}", "", facts, ""]
    for name, rows in record["sections"].items():
        lines += [f"## {name}", "", *(markdown_table(rows) if rows else ["nothing ran"]), ""]
    goals = record.get("goals", [])
    if goals:
        lines += ["## Goals", "", *markdown_table(goals), ""]
    if record["missing"]:
        lines += ["## Missing", "", *(f"- {name}: {reason}" for name, reason in record["missing"].items()), ""]
    return "\n".join(lines)


def write_record(output: pathlib.Path, title: str, record: Mapping[str, Any]) -> None:
    """OUTPUT.json and OUTPUT.md."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    output.with_suffix(".md").write_text(page(title, record), encoding="utf-8")


def goal(name: str, value: float | None, least: float) -> dict[str, Any]:
    """A promised ratio and what was measured; None: nothing to judge by."""
    verdict = "not measured" if value is None else "met" if value >= least else "MISSED"
    return {"goal": name, "at least": least, "measured": "" if value is None else round(value, 3), "": verdict}


def arguments(description: str | None) -> argparse.Namespace:
    """The options of every GPU benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--only", default="", help="sections whose name contains this")
    parser.add_argument("--quick", action="store_true", help="the smallest size of every section")
    parser.add_argument("--output", type=pathlib.Path, help="writes OUTPUT.json and OUTPUT.md")
    return parser.parse_args()


def why_no_gpu() -> str | None:
    """What keeps this machine from measuring, or None."""
    from raggedrt.plugins.runtime.cuda_device import cuda_state

    state = cuda_state()
    if state.problem is not None:
        return state.problem
    import torch

    return (
        None if torch.cuda.is_available() else f"PyTorch {torch.__version__} cannot use the GPU; install a CUDA build"
    )
