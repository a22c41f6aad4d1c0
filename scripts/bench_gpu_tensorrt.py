"""BERT-base fp16 in TensorRT 10 or 11: packed tokens with our plugins against the same TensorRT on padded input.

Both engines have the same random weights, are built on this GPU for the batch that is timed, and get the same batches,
with lengths U[0.2, 1] of the longest row. Of the outputs only the pooled one, which is small, is fetched while they are
timed; hidden states are compared at valid places before.

    python scripts/bench_gpu_tensorrt.py --output scripts/benchmarks/gpu_tensorrt
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from bench_gpu_model import LARGEST_ERROR, LAYERS, bert, feeds_of, packed_feeds, time_calls
from gpu_timing import NO_GPU, arguments, goal, gpu_facts, summary, why_no_gpu, write_record

ROWS, LENGTHS, LEAST = 16, (512, 1024), 1.4
PADDED, OURS = "TensorRT padded", "TensorRT with plugins, ragged I/O"
HIDDEN, POOLED = "last_hidden_state", "pooler_output"
Call = Callable[[list[str]], Any]


def engines(source: pathlib.Path, folder: pathlib.Path, longest: int) -> dict[str, Call]:
    """A call of each engine, which takes the outputs that are wanted and gives them as arrays."""
    import raggedrt
    from raggedrt.plugins.tensorrt.engine_file import read_engine_file
    from raggedrt.plugins.tensorrt.runner import EngineRunner, open_engine

    feeds, valid = feeds_of(ROWS, longest)
    shapes = {f"{bound}_shapes": f"input_ids:{ROWS}x{longest}" for bound in ("opt", "max")}
    shapes["min_shapes"] = "input_ids:1x1"
    plain, plan = folder / f"plain-{longest}.onnx", folder / f"plain-{longest}.plan"
    raggedrt.export(source, plain, dtype="fp16")
    raggedrt.build(plain, plan, target="tensorrt", **shapes)
    found = read_engine_file(plan)
    inputs, outputs = ([record.name for record in records] for records in (found.inputs, found.outputs))
    padded = EngineRunner(found.engine, plan, inputs, outputs)
    bundle = raggedrt.convert(source, folder / f"ours-{longest}", target="tensorrt", dtype="fp16", **shapes)
    ours = open_engine(bundle, trusted=True)
    packed: dict[str, Any] = {**packed_feeds(feeds, valid), "max_seqlen": np.zeros(longest, np.float32)}
    given = {name: feeds[name] for name in inputs}
    taken = {value.name: packed[value.name] for value in ours.get_inputs()}
    return {PADDED: lambda names: padded.run(names, given), OURS: lambda names: ours.run(names, taken)}


def compare(calls: Mapping[str, Call], valid: Any) -> float:
    """The greatest difference of hidden states at valid places.

    Raises:
        SystemExit: it is too great.
    """
    (padded,), (packed,) = (calls[name]([HIDDEN]) for name in (PADDED, OURS))
    want = np.asarray(padded, np.float32)[valid]
    error = float(np.abs(np.asarray(packed, np.float32) - want).max())
    if not error < LARGEST_ERROR * max(1.0, float(np.abs(want).max())):
        raise SystemExit(f"outputs differ by {error}; a speed of wrong results means nothing")
    return error


def why_not() -> str | None:
    """What keeps this machine from measuring, or None."""
    from raggedrt.errors import TargetError
    from raggedrt.plugins.tensorrt.engine_plugins import plugins_for
    from raggedrt.plugins.tensorrt.flavour import FLAVOURS, require_builder

    problem = why_no_gpu()
    if problem is not None:
        return problem
    try:
        plugins_for(require_builder(FLAVOURS["tensorrt"]), build=True)
    except TargetError as error:
        return str(error)
    return None


def main() -> int:
    """Measure, print and write what was asked for; 1 where a promise is missed, 5 where nothing can be measured."""
    options = arguments(__doc__)
    problem = why_not()
    if problem is not None:
        print(f"nothing to measure on: {problem}")
        return NO_GPU
    sections, goals = {}, []
    for longest in LENGTHS[:1] if options.quick else LENGTHS:
        with tempfile.TemporaryDirectory(prefix="raggedrt-bench-") as folder:
            source = bert(pathlib.Path(folder) / "source", 2 if options.quick else LAYERS)
            calls = engines(source, pathlib.Path(folder), longest)
            _, valid = feeds_of(ROWS, longest)
            error = compare(calls, valid)
            timed = time_calls({name: lambda call=call: call([POOLED]) for name, call in calls.items()}, options.rounds)
        times = {name: summary(values) for name, values in timed.items()}
        sections[f"S={longest}, fill {valid.mean():.2f}, error {error:.2g}"] = [
            {"contender": name, "microseconds": times[name]} for name in times
        ]
        goals.append(goal(f"against {PADDED}, S={longest}", times[PADDED]["median"] / times[OURS]["median"], LEAST))
    for line in (*(row for rows in sections.values() for row in rows), *goals):
        print(line)
    if options.output:
        record = {"facts": {**gpu_facts(), "batch": ROWS}, "sections": sections, "goals": goals}
        write_record(options.output, "BERT-base fp16 in TensorRT", record)
    return int(any(line[""] == "MISSED" for line in goals))


if __name__ == "__main__":
    raise SystemExit(main())
