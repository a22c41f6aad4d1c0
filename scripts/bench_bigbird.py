"""BigBird-base end to end: packed and block-sparse in ONNX Runtime against Hugging Face BigBird in PyTorch.

All sides have the same random weights, the same rows with lengths U[0.2, 1] of the longest and the same threads; rounds
alternate, and the outputs of the timed calls are compared at valid places. Two ratios are promised: how many times
faster than PyTorch (at least 2), and how much of the predicted speed is reached (at least 0.9). The prediction is the
dense model of the same run: its time without attention, for the same valid tokens, plus its attention time times the
share of query-key pairs that BigBird's mask keeps.

    python scripts/bench_bigbird.py --threads 2 --output scripts/benchmarks/bigbird_cpu
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import torch

from raggedrt.diagnosing import machine_facts
from raggedrt.export.torch_to_onnx import export_model
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.pipeline import RewriteConfig, rewrite
from raggedrt.models.big_bird import dense_length
from raggedrt.models.factories import BIG_BIRD_BASE, random_model
from raggedrt.models.resolve import resolve
from raggedrt.models.transformers_loader import quiet_transformers
from raggedrt.plugins.runtime.library import library_info, op_library_path
from raggedrt.plugins.runtime.ort import ort_session

Array = npt.NDArray[Any]
LARGEST_ERROR = 1e-3
GOALS = {"speed_up": 2.0, "of_predicted": 0.9}
SIDES = ("transformers", "block sparse", "dense")


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is run."""

    length: int
    rows: int
    layers: int
    threads: int

    @property
    def lengths(self) -> Array:
        """Valid tokens of each row, the last one full."""
        drawn = np.random.default_rng(0).uniform(0.2, 1.0, self.rows) * self.length
        drawn[-1] = self.length
        return drawn.astype(np.int64)

    @property
    def mask(self) -> Array:
        """Int64 [rows, length]."""
        return (np.arange(self.length) < self.lengths[:, None]).astype(np.int64)

    def config(self, attention_type: str) -> dict[str, Any]:
        """Of the model; the position table covers the length."""
        return {
            **BIG_BIRD_BASE,
            "num_hidden_layers": self.layers,
            "max_position_embeddings": max(self.length, 4096),
            "attention_type": attention_type,
        }

    def feed(self) -> dict[str, Array]:
        """Random token ids under the mask."""
        ids = np.random.default_rng(1).integers(5, 1000, self.mask.shape)
        return {"input_ids": ids * self.mask, "attention_mask": self.mask, "token_type_ids": np.zeros_like(ids)}


def packed_session(
    setup: Setup, attention_type: str, folder: pathlib.Path
) -> tuple[ort.InferenceSession, ort.InferenceSession, MaskSpec]:
    """The converted model, the same with a profiler, and the mask of its layers."""
    model = random_model("big_bird", setup.config(attention_type))
    source = resolve(model).model
    if source is None:
        raise SystemExit("the model was not resolved to a PyTorch source")
    path = folder / f"{attention_type}.onnx"
    exported = export_model(source).model
    report = rewrite(exported, RewriteConfig(features=("pack", "fuse")))
    ir.save(exported, path)
    options = [ort.SessionOptions(), ort.SessionOptions()]
    for one in options:
        one.intra_op_num_threads = setup.threads
    options[1].enable_profiling = True
    options[1].profile_file_prefix = str(folder / attention_type)
    sessions = [ort_session(path, native=True, session_options=one) for one in options]
    masks = {json.dumps(entry.mask_spec) for entry in report.attention}
    if len(masks) != 1:
        raise SystemExit(f"expected one mask for all layers, found {len(masks)}")
    return sessions[0], sessions[1], MaskSpec.from_json(json.loads(masks.pop()))


def transformers_call(setup: Setup, feed: dict[str, Array]) -> Callable[[], list[Array]]:
    """Hugging Face's own block-sparse model in PyTorch."""
    torch.set_num_threads(setup.threads)
    model: Any = random_model("big_bird", setup.config("block_sparse"))
    tensors = {name: torch.from_numpy(array) for name, array in feed.items()}

    def call() -> list[Array]:
        with torch.inference_mode():
            result = model(**tensors)
        if model.attention_type != "block_sparse":
            raise SystemExit(f"transformers changed to full attention at {setup.length} tokens")
        return [result.last_hidden_state.numpy(), result.pooler_output.numpy()]

    return call


def attention_share(session: ort.InferenceSession, feed: dict[str, Array]) -> float:
    """Share of the nodes' time that is attention (and making its tiles), from ONNX Runtime's profiler."""
    for _ in range(2):
        session.run(None, feed)
    events = json.loads(pathlib.Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event.get("name", "").endswith("_kernel_time")]
    half = kernels[len(kernels) // 2 :]  # the second call
    spent = {True: 0.0, False: 0.0}
    for event in half:
        spent[event["args"]["op_name"] in ("RaggedAttention", "BlockMask")] += event["dur"]
    return spent[True] / (spent[True] + spent[False])


def kept_share(spec: MaskSpec, setup: Setup) -> tuple[float, float]:
    """Kept pairs of the valid ones: what the mask shows, and what whole tiles of the block size cover."""
    kept = covered = valid = 0
    block = 64
    for length in setup.lengths.tolist():
        slots = np.arange(length)
        starts = np.arange(0, length, block)
        sizes = np.minimum(starts + block, length) - starts
        tiles = spec.visible_at(starts, starts, setup.length)
        kept += int(sizes @ tiles.astype(np.int64) @ sizes)
        covered += int(tiles.sum()) * block * block
        valid += len(slots) ** 2
    return kept / valid, covered / valid


def time_alternately(sides: Sequence[Callable[[], list[Array]]], rounds: int) -> tuple[Array, list[list[Array]]]:
    """Seconds [rounds, sides] after one warm-up round, and the outputs of the last round."""
    times, outputs = np.zeros((rounds, len(sides))), [side() for side in sides]
    for number in range(rounds):
        for place, side in enumerate(sides):
            started = time.perf_counter()
            outputs[place] = side()
            times[number, place] = time.perf_counter() - started
    return times, outputs


def measure(setup: Setup, rounds: int) -> dict[str, Any]:
    """The record."""
    feed = setup.feed()
    with tempfile.TemporaryDirectory(prefix="raggedrt-") as folder, quiet_transformers():
        sparse, sparse_profiled, spec = packed_session(setup, "block_sparse", pathlib.Path(folder))
        dense, dense_profiled, _ = packed_session(setup, "original_full", pathlib.Path(folder))
        shares = [attention_share(session, feed) for session in (sparse_profiled, dense_profiled)]
        del sparse_profiled, dense_profiled
        sides = [transformers_call(setup, feed), lambda: sparse.run(None, feed), lambda: dense.run(None, feed)]
        times, outputs = time_alternately(sides, rounds)
    valid = setup.mask[:, :, None] != 0
    error = max(
        float(np.abs((outputs[0][0] - outputs[1][0]) * valid).max()), float(np.abs(outputs[0][1] - outputs[1][1]).max())
    )
    if not error < LARGEST_ERROR:
        raise SystemExit(f"outputs differ by {error}; a speed of wrong results means nothing")
    theirs, ours, full = np.median(times, axis=0).tolist()
    kept, covered = kept_share(spec, setup)
    dense_to_predicted = 1 - shares[1] * (1 - kept)
    return {
        "rows": setup.rows,
        "length": setup.length,
        "layers": setup.layers,
        "valid_tokens": int(setup.lengths.sum()),
        "padded_tokens": setup.rows * setup.length,
        "rounds": rounds,
        "seconds": {side: [round(float(s), 4) for s in times[:, place]] for place, side in enumerate(SIDES)},
        "median_seconds": dict(zip(SIDES, (round(s, 4) for s in (theirs, ours, full)), strict=True)),
        "attention_share": dict(zip(SIDES[1:], (round(s, 4) for s in shares), strict=True)),
        "kept_share_of_valid_pairs": round(kept, 4),
        "share_covered_by_tiles": round(covered, 4),
        "predicted_seconds": round(full * dense_to_predicted, 4),
        "speed_up": round(theirs / ours, 3),
        "of_predicted": round(full * dense_to_predicted / ours, 3),
        "over_dense_packed": round(full / ours, 3),
        "in_each_round": {
            "speed_up": (times[:, 0] / times[:, 1]).round(3).tolist(),
            "of_predicted": (times[:, 2] * dense_to_predicted / times[:, 1]).round(3).tolist(),
        },
        "max_abs_error": error,
    }


def markdown(facts: dict[str, Any], record: dict[str, Any]) -> str:
    """The record as a page."""
    lines = ["# BigBird-base (random weights) end to end, CPU, float32", ""]
    lines += [
        " · ".join(f"{name} {value}" for name, value in facts.items()),
        "",
        "| what | value | goal |",
        "|---|---|---|",
    ]
    for name, value in record.items():
        shown = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else value
        goal = f">= {GOALS[name]}" if name in GOALS else ""
        lines.append(f"| {name.replace('_', ' ')} | {shown} | {goal} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, write where asked; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=4096, help="padded length in tokens")
    parser.add_argument("--rows", type=int, default=4, help="rows of the batch")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=pathlib.Path, help="writes OUTPUT.json and OUTPUT.md")
    options = parser.parse_args()
    block, random = BIG_BIRD_BASE["block_size"], BIG_BIRD_BASE["num_random_blocks"]
    if options.length <= dense_length(block, random):
        parser.error(f"up to {dense_length(block, random)} tokens BigBird is dense; give a larger --length")
    setup = Setup(options.length, options.rows, options.layers, options.threads)
    facts = {name: fact for name, fact in machine_facts().items() if name != "op library"}  # it names a folder
    library = library_info(op_library_path())
    facts |= {"op library": f"{library.digest[:16]} ({library.isa[0]})", "threads": str(options.threads)}
    facts |= {"load before": str(round(os.getloadavg()[0], 1)), "date": time.strftime("%Y-%m-%d")}
    record = measure(setup, options.rounds)
    print(markdown(facts, record))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".json").write_text(json.dumps({**facts, **record}, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(markdown(facts, record))
    return int(any(record[name] < goal for name, goal in GOALS.items()))


if __name__ == "__main__":
    raise SystemExit(main())
