"""Text families at the width of BERT-base, end to end: how much of what removing padding can give is reached on a CPU.

Each family has two layers of 768 features and 12 heads with random weights (the ratio is that of a layer; depth changes
it little) and rows with lengths U[0.1, 1]. The same export is timed in ONNX Runtime on the padded batch, converted by
RaggedRT on the same batch, and in ONNX Runtime on full rows of as many tokens: the ceiling. Rounds are interleaved, and
outputs of the timed sessions are compared. The goal is 0.85 of the ceiling.

    python scripts/bench_families.py --threads 2 --output scripts/benchmarks/families_cpu
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from model_families import FAMILIES, Family, build

import raggedrt
from raggedrt.diagnosing import machine_facts
from raggedrt.export.torch_to_onnx import export_model
from raggedrt.models.resolve import resolve
from raggedrt.models.transformers_loader import quiet_transformers

Array = npt.NDArray[Any]
GOAL = 0.85
LARGEST_ERROR = 1e-3
ORIGINAL, PACKED = "original.onnx", "packed.onnx"
# What a configuration names -> its value at this width; keys that a family does not have are left out.
WIDE: Mapping[str, Any] = {
    "vocab_size": 2000,
    "hidden_size": 768,
    "dim": 768,
    "d_model": 768,
    "n_embd": 768,
    "embedding_size": 128,
    "num_attention_heads": 12,
    "num_heads": 12,
    "n_heads": 12,
    "n_head": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "d_kv": 64,
    "query_pre_attn_scalar": 64,
    "intermediate_size": 3072,
    "hidden_dim": 3072,
    "d_ff": 3072,
    "max_position_embeddings": 520,
    "n_positions": 520,
    "position_buckets": 64,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "local_attention": 128,
    "sliding_window": 128,
    "attention_window": [128, 256],
    "block_size": 64,
}
SKIPPED = ("zaya", "gpt_oss")
"""Mixtures of experts: the time of their experts depends on how tokens are routed, not on padding alone."""


EAGER = ("mpnet", "deberta-v2", "deberta-v3", "gemma2", "big_bird", "longformer")
"""Families that transformers has no sdpa for."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is run: `rows` of lengths U[0.1, 1] of `length`, the first one full."""

    rows: int
    length: int
    rounds: int
    threads: int

    @property
    def mask(self) -> Array:
        """Valid slots of the padded batch, int64 [rows, length]."""
        drawn = np.random.default_rng(0).uniform(0.1, 1.0, self.rows) * self.length
        drawn[0] = self.length
        return (np.arange(self.length) < drawn.round()[:, None]).astype(np.int64)

    @property
    def full(self) -> Array:
        """As many tokens (nearly) in rows of one length."""
        return np.ones((self.rows, round(int(self.mask.sum()) / self.rows)), np.int64)

    def __str__(self) -> str:
        return f"{self.rows} rows with lengths U[0.1, 1] of {self.length}, {self.threads} threads, {self.rounds} rounds"


def wide(family: Family) -> Family:
    """The family with a configuration of this width."""
    config = {name: WIDE.get(name, value) for name, value in family.config.items()}
    return dataclasses.replace(family, overrides=config)


def prepare(family: Family, attention: str, folder: pathlib.Path) -> None:
    """Export and rewrite a family into a folder; nothing is timed here."""
    folder.mkdir(parents=True, exist_ok=True)
    resolved = resolve(build(wide(family), family.task, attention))
    assert resolved.model is not None
    export_model(resolved.model, opset=20, output=folder / ORIGINAL)
    model, report = raggedrt.rewrite(folder / ORIGINAL)
    left = [f"{entry.node}: {entry.reason}" for entry in report.attention if entry.op is None]
    if left:
        raise SystemExit(f"{family.name}: {'; '.join(left)}")
    onnx.save(model, folder / PACKED)


def measure(family: Family, attention: str, folder: pathlib.Path, setup: Setup) -> dict[str, Any]:
    """Times of one family, and the share of the ceiling that is reached."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = setup.threads, 3
    original = ort.InferenceSession(str(folder / ORIGINAL), options, providers=["CPUExecutionProvider"])
    packed = raggedrt.ort_session(folder / PACKED, native=True, threads=setup.threads)
    names = [item.name for item in original.get_inputs()]
    padded, full = (feeds(setup, mask, names) for mask in (setup.mask, setup.full))
    error = difference(original.run(None, padded), packed.run(None, padded), setup.mask)
    jobs: dict[str, Callable[[], Any]] = {
        "padded": lambda: original.run(None, padded),
        "packed": lambda: packed.run(None, padded),
        "full": lambda: original.run(None, full),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(setup.rounds + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if number:
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    share = median["full"] * int(setup.mask.sum()) / int(setup.full.sum()) / median["packed"]
    speed_up = median["padded"] / median["packed"]
    return {
        "attention": attention,
        "seconds": seconds,
        "speed_up": speed_up,
        "ceiling": speed_up / share,
        "of_ceiling": share,
        "largest_error": error,
    }


def feeds(setup: Setup, mask: Array, names: Sequence[str]) -> dict[str, Array]:
    """Random ids under a mask, padded with zeros."""
    ids = np.random.default_rng(1).integers(5, WIDE["vocab_size"], mask.shape)
    values = {"input_ids": np.where(mask != 0, ids, 0), "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
    return {name: values[name] for name in names}


def difference(wanted: Sequence[Array], got: Sequence[Array], mask: Array) -> float:
    """Largest error at valid places, of the largest value.

    Raises:
        SystemExit: it is not small.
    """
    errors = []
    for one, two in zip(wanted, got, strict=True):
        where = mask != 0 if one.shape[:2] == mask.shape else slice(None)
        errors.append(float(np.abs(one[where] - two[where]).max() / max(1.0, np.abs(one[where]).max())))
    if not max(errors) <= LARGEST_ERROR:
        raise SystemExit(f"the timed outputs differ by {max(errors):.2e}")
    return max(errors)


def table(results: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = [
        "# Families on a CPU, end to end",
        "",
        f"Two layers at the width of BERT-base, float32; {results['setup']}; medians of interleaved rounds.",
        f"The ceiling is ONNX Runtime with the same export on as many tokens in full rows; the goal is {GOAL:g} of it.",
        f"{', '.join(f'{name} {value}' for name, value in results['machine'].items())}.",
        "",
        "| family | attention | faster than ONNX Runtime | ceiling | share of the ceiling |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['attention']} | {row['speed_up']:.2f}x | {row['ceiling']:.2f}x | {row['of_ceiling']:.2f} |"
        for name, row in results["families"].items()
    ]
    return "\n".join(lines) + "\n"


def chosen(text: str) -> list[tuple[Family, str]]:
    """The families that are named, all by default, with the attention implementation that each has."""
    wanted = {name.strip().lower() for name in text.split(",") if name.strip()}
    return [
        (family, "eager" if family.key in EAGER else "sdpa")
        for family in FAMILIES
        if not family.pixels
        and family.key not in SKIPPED
        and (not wanted or wanted & {family.key, family.name.lower()})
    ]


def machine() -> dict[str, str]:
    """What a reader of the record needs to know of the machine."""
    return {name: value for name, value in machine_facts().items() if name != "op library"}


def known_rows(output: pathlib.Path | None, setup: Setup) -> dict[str, Any]:
    """What was measured before with the same setup: families can be measured one after the other."""
    stored = None if output is None else output.with_suffix(".json")
    if stored is None or not stored.exists():
        return {}
    results = json.loads(stored.read_text())
    same = results["setup"] == str(setup) and results["machine"] == machine()
    return dict(results["families"]) if same else {}


def main() -> int:
    """Prepare or measure what is asked for; returns 1 where a family misses the goal."""
    parser = argparse.ArgumentParser(description="Time text families against their no-padding ceiling.")
    parser.add_argument("--families", default="", help="names or keys, separated by commas; all by default")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("build", "families"), help="for models")
    parser.add_argument("--prepare", action="store_true", help="only export and rewrite what is missing")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=256, help="tokens of the longest row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=pathlib.Path, help="write OUTPUT.json and OUTPUT.md, keeping other families")
    arguments = parser.parse_args()
    families = chosen(arguments.families)
    for family, attention in families:
        folder = arguments.folder / family.key
        if not (folder / PACKED).exists():
            with quiet_transformers():
                prepare(family, attention, folder)
            print(f"{family.name:16s} prepared", flush=True)
    if arguments.prepare:
        return 0
    setup = Setup(arguments.rows, arguments.length, arguments.rounds, arguments.threads)
    rows = known_rows(arguments.output, setup)
    for family, attention in families:
        rows[family.name] = row = measure(family, attention, arguments.folder / family.key, setup)
        print(f"{family.name:16s} {row['of_ceiling']:.3f} of {row['ceiling']:.2f}x", flush=True)
    results = {"setup": str(setup), "goal": GOAL, "machine": machine(), "families": rows}
    if arguments.output:
        arguments.output.with_suffix(".json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        arguments.output.with_suffix(".md").write_text(table(results))
    missed = [name for name, row in rows.items() if row["of_ceiling"] < GOAL]
    print(f"{len(rows) - len(missed)} of {len(rows)} families reach {GOAL:g}{f'; not {missed}' if missed else ''}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
