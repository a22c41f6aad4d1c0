"""RaggedAttention against ONNX Runtime's MultiHeadAttention on the same rows, in one process.

Rounds alternate between the two sides; the outputs of the timed sessions are compared at valid places. Times are
medians over rounds with the 10th to 90th percentile as spread. GFLOP/s counts the pairs that the mask keeps, so
padding and the hidden half of a causal mask are not work.

    python scripts/bench_attention.py --threads 2 --output scripts/benchmarks/attention_cpu
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from raggedrt.plugins.contract.op_definition import DOMAIN
from raggedrt.plugins.native.build import build_in_cache
from raggedrt.plugins.node import make_node
from raggedrt.plugins.runtime.library import library_info

Array = npt.NDArray[Any]
Feed = dict[str, Array]
LARGEST_ERROR = 1e-4
SETTLE_SECONDS = 0.06
"""After which waiting threads of a pool sleep: with less, short calls of the other side are 6 ms longer."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison; `goal` is the least ratio of ORT's time to ours that the project promises, None: no promise."""

    name: str
    lengths: tuple[int, ...]
    heads: int = 12
    head_size: int = 64
    causal: bool = False
    goal: float | None = None

    @property
    def padded_length(self) -> int:
        """S of the padded batch."""
        return max(self.lengths)

    @property
    def flops(self) -> float:
        """Floating point operations on the query-key pairs that the mask keeps."""
        pairs = sum(n * (n + 1) / 2 if self.causal else n * n for n in self.lengths)
        return 4.0 * pairs * self.heads * self.head_size


def uniform_lengths(rows: int, longest: int, seed: int = 0) -> tuple[int, ...]:
    """Lengths U[1, longest], the last one `longest` so that the padded batch has that width."""
    drawn = np.random.default_rng(seed).integers(1, longest + 1, rows - 1)
    return (*(int(length) for length in drawn), longest)


CASES = (
    Case("full rows", (512,) * 8, goal=1.0),
    Case("full rows", (1024,) * 4, goal=1.0),
    Case("full rows", (2048,) * 2, goal=1.0),
    Case("full rows", (4096,), goal=1.0),
    *(Case("head size", (1024,) * 4, head_size=size) for size in (32, 80, 96, 128)),
    Case("lengths U[1, 512]", uniform_lengths(32, 512), goal=2.5),
    Case("lengths U[1, 100]", uniform_lengths(32, 100), head_size=32),
    Case("short rows", (50,) * 32, head_size=32),
    Case("causal", (2048,) * 2, causal=True, goal=1.5),
    Case("causal", (4096,), causal=True, goal=1.5),
)


def ragged_session(case: Case, threads: int, library: pathlib.Path) -> ort.InferenceSession:
    """One RaggedAttention node on packed inputs."""
    width = case.heads * case.head_size
    values = {name: ir.val(name, ir.DataType.FLOAT, ["tokens", width]) for name in ("query", "key", "value")}
    values["cu_seqlens_q"] = values["cu_seqlens_k"] = ir.val("cu_seqlens", ir.DataType.INT32, ["offsets"])
    values["max_seqlen_q"] = values["max_seqlen_k"] = ir.val("max_seqlen", ir.DataType.FLOAT, ["longest"])
    attributes = {"num_heads": case.heads, "causal": int(case.causal)}
    node = make_node("RaggedAttention", values, attributes, name="attention")
    options = _options(threads)
    options.register_custom_ops_library(str(library))
    return _session(node, list(dict.fromkeys(values.values())), {"": 20, DOMAIN: 1}, options)


def padded_session(case: Case, threads: int) -> ort.InferenceSession:
    """One MultiHeadAttention node on [B, S, N*H] inputs; rows that are all full get no mask."""
    width = case.heads * case.head_size
    values = [ir.val(name, ir.DataType.FLOAT, ["batch", "slots", width]) for name in ("query", "key", "value")]
    inputs: list[ir.Value | None] = [*values]
    if min(case.lengths) != max(case.lengths):
        values.append(ir.val("mask", ir.DataType.INT32, ["batch", "slots"]))
        inputs += [None, values[-1]]
    attributes = {"num_heads": case.heads, "unidirectional": int(case.causal)}
    node = ir.node("MultiHeadAttention", inputs, attributes, domain="com.microsoft")
    node.outputs[0].name, node.outputs[0].dtype = "output", ir.DataType.FLOAT
    return _session(node, values, {"": 20, "com.microsoft": 1}, _options(threads))


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return options


def _session(
    node: ir.Node, inputs: Sequence[ir.Value], imports: dict[str, int], options: ort.SessionOptions
) -> ort.InferenceSession:
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports=imports, name="bench")
    model = ir.to_proto(ir.Model(graph, ir_version=10))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def make_feeds(case: Case) -> tuple[Feed, Feed]:
    """Packed and padded inputs with the same values at valid places, zeros in the padding."""
    rng = np.random.default_rng(1)
    valid = np.arange(case.padded_length) < np.array(case.lengths)[:, None]
    padded: Feed = {}
    packed: Feed = {
        "cu_seqlens": np.concatenate([[0], np.cumsum(case.lengths)]).astype(np.int32),
        "max_seqlen": np.zeros(case.padded_length, np.float32),
    }
    for name in ("query", "key", "value"):
        values = rng.standard_normal((*valid.shape, case.heads * case.head_size), np.float32)
        padded[name] = values * valid[:, :, None]
        packed[name] = np.ascontiguousarray(values[valid])
    if not valid.all():
        padded["mask"] = valid.astype(np.int32)
    return packed, padded


def bind(session: ort.InferenceSession, feed: Feed) -> tuple[Callable[[], object], ort.OrtValue]:
    """A call on bound memory, and the output it writes: no copies and no fresh pages are timed on either side."""
    binding = session.io_binding()
    for name in (value.name for value in session.get_inputs()):
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(feed[name]))
    output = ort.OrtValue.ortvalue_from_numpy(np.zeros_like(feed["query"]))
    binding.bind_ortvalue_output(session.get_outputs()[0].name, output)
    return lambda: session.run_with_iobinding(binding), output


def time_alternately(sides: Sequence[Callable[[], object]], seconds: float) -> list[list[float]]:
    """Times per side in seconds: rounds alternate, at least 9, until `seconds` are spent; two warm-up rounds.

    Each timed call follows a pause and an untimed call: threads of the other side spin for more work for some
    milliseconds after theirs, on the cores that this side needs.
    """
    times: list[list[float]] = [[] for _ in sides]
    started = time.perf_counter()
    while len(times[0]) < 11 or time.perf_counter() - started < seconds:
        for side, spent in zip(sides, times, strict=True):
            time.sleep(SETTLE_SECONDS)
            side()
            begin = time.perf_counter()
            side()
            spent.append(time.perf_counter() - begin)
    return [spent[2:] for spent in times]


def measure(case: Case, threads: int, seconds: float, library: pathlib.Path) -> dict[str, Any]:
    """One row of the record."""
    packed, padded = make_feeds(case)
    ours, got = bind(ragged_session(case, threads, library), packed)
    theirs, expected = bind(padded_session(case, threads), padded)
    spent = time_alternately([ours, theirs], seconds)
    valid = np.arange(case.padded_length) < np.array(case.lengths)[:, None]
    error = float(np.abs(got.numpy() - expected.numpy()[valid]).max())
    if not error < LARGEST_ERROR:
        raise SystemExit(f"{case}: outputs differ by {error}; a speed of wrong results means nothing")
    medians = [float(np.median(times)) for times in spent]
    return {
        "case": case.name,
        "rows": len(case.lengths),
        "longest": case.padded_length,
        "valid_tokens": sum(case.lengths),
        "padded_tokens": len(case.lengths) * case.padded_length,
        "heads": case.heads,
        "head_size": case.head_size,
        "ours_ms": _milliseconds(spent[0]),
        "ort_ms": _milliseconds(spent[1]),
        "ours_gflops": round(case.flops / medians[0] / 1e9, 1),
        "ort_gflops": round(case.flops / medians[1] / 1e9, 1),
        "ratio": round(medians[1] / medians[0], 3),
        "ratio_of_best": round(min(spent[1]) / min(spent[0]), 3),
        "goal": case.goal,
        "rounds": len(spent[0]),
        "max_abs_error": error,
    }


def _milliseconds(times: Sequence[float]) -> dict[str, float]:
    low, middle, high = np.percentile(times, (10, 50, 90)) * 1e3
    return {name: float(f"{value:.4g}") for name, value in (("p10", low), ("median", middle), ("p90", high))}


def machine_facts(threads: int, library: pathlib.Path) -> dict[str, Any]:
    """What the numbers depend on."""
    info = library_info(library)
    cpu = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        cpu = models[0].split(":", 1)[1].strip() if models else cpu
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu,
        "isa": info.isa[0],
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 1),
        "onnxruntime": ort.__version__,
        "raggedrt": info.version,
        "library": info.digest[:16],
        "commit": commit or "unknown",
    }


COLUMNS = (
    "| case | rows x longest | heads x size | valid/padded | ours ms (p10-p90) | ORT ms (p10-p90) "
    "| ours GFLOP/s | ORT GFLOP/s | ratio | goal |"
)


def markdown(facts: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The record as a page."""
    lines = ["# RaggedAttention against ONNX Runtime MultiHeadAttention (CPU, float32)", ""]
    lines += [" · ".join(f"{name} {value}" for name, value in facts.items()), "", COLUMNS]
    lines.append("|" + "---|" * (COLUMNS.count("|") - 1))
    lines += [markdown_row(row) for row in rows]
    return "\n".join(lines) + "\n"


def markdown_row(row: dict[str, Any]) -> str:
    """One line of the table."""
    spread = [f"{ms['median']:.2f} ({ms['p10']:.2f}-{ms['p90']:.2f})" for ms in (row["ours_ms"], row["ort_ms"])]
    cells = [
        row["case"],
        f"{row['rows']} x {row['longest']}",
        f"{row['heads']} x {row['head_size']}",
        f"{row['valid_tokens']}/{row['padded_tokens']}",
        *spread,
        f"{row['ours_gflops']:.0f}",
        f"{row['ort_gflops']:.0f}",
        f"{row['ratio']:.2f}",
        "" if row["goal"] is None else f"{row['goal']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    """Measure every case, print the table, write it where asked; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="spent per case")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--output", type=pathlib.Path, help="writes OUTPUT.json and OUTPUT.md")
    options = parser.parse_args()
    library = build_in_cache()
    facts = machine_facts(options.threads, library)
    rows = []
    print(COLUMNS)
    for case in CASES:
        if options.only in case.name:
            rows.append(measure(case, options.threads, options.seconds, library))
            print(markdown_row(rows[-1]), flush=True)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(markdown(facts, rows))
    return int(any(row["goal"] and row["ratio"] < row["goal"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
