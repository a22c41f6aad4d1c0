"""BERT-base end to end in ONNX Runtime's CUDA provider: packed against padded, fp16.

All sides have the same random weights and the same batches, with lengths U[0.2, 1] of the longest row; inputs are on
the host, outputs stay on the device, and outputs of the timed sessions are compared at valid places. Baselines: the
plain export, the same after onnxscript's fusions for ONNX Runtime, and ONNX Runtime's own packing mode where its tools
take the model.

    python scripts/bench_gpu_model.py --output scripts/benchmarks/gpu_model
"""

from __future__ import annotations

import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gpu_timing import (
    NO_GPU,
    Times,
    arguments,
    first_error,
    goal,
    gpu_facts,
    summary,
    uniform_lengths,
    why_no_gpu,
    write_record,
)

ROWS, LONGEST, LAYERS = 16, 1024, 12
LARGEST_ERROR = 5e-2
PACKING_MODE = "ORT packing mode"
PADDED = ("ORT padded", "ORT padded, fused")
OURS, RAGGED = "ours, padded I/O", "ours, ragged I/O with CUDA graphs"
GOALS = ((PADDED, 1.5), ((PACKING_MODE,), 1.05))


def feeds_of(rows: int, longest: int, seed: int = 0) -> tuple[dict[str, Any], Any]:
    """Right-padded ids with a mask, and where tokens are."""
    rng = np.random.default_rng(seed)
    valid = np.arange(longest) < np.array(uniform_lengths(rows, 0.2, longest, seed))[:, None]
    ids = np.where(valid, rng.integers(1000, 30000, valid.shape), 0)
    mask = valid.astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}, valid


def packed_feeds(feeds: Mapping[str, Any], valid: Any) -> dict[str, Any]:
    """The same tokens end to end, as a bundle with ragged I/O takes them."""
    offsets = np.concatenate([[0], np.cumsum(valid.sum(axis=1))]).astype(np.int32)
    return {
        "input_ids": feeds["input_ids"][valid],
        "token_type_ids": feeds["token_type_ids"][valid],
        "cu_seqlens": offsets,
    }


def judge(times: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """The promises: the best of each kind of baseline over our padded session."""
    judged = []
    for names, least in GOALS:
        known = [times[name]["median"] for name in names if name in times]
        ratio = min(known) / times[OURS]["median"] if known and OURS in times else None
        judged.append(goal(f"against {' and '.join(names)}", ratio, least))
    return judged


def bert(folder: pathlib.Path, layers: int) -> pathlib.Path:
    """A directory with a BERT-base of random weights and long positions."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig(num_hidden_layers=layers, max_position_embeddings=LONGEST)).eval().save_pretrained(folder)
    return folder


def baseline_files(source: pathlib.Path, folder: pathlib.Path, missing: dict[str, str]) -> dict[str, pathlib.Path]:
    """ONNX files of the baselines that can be made here."""
    import raggedrt

    plain = folder / "plain.onnx"
    raggedrt.export(source, plain, dtype="fp16")
    found = {PADDED[0]: plain}
    for name, make in ((PADDED[1], _fuse), (PACKING_MODE, _packing_mode)):
        target = folder / f"{name.replace(' ', '_').replace(',', '')}.onnx"
        try:
            make(plain, target)
            found[name] = target
        except Exception as error:  # noqa: BLE001 - tools of others on a model they may not know
            missing[name] = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return found


def _fuse(plain: pathlib.Path, target: pathlib.Path) -> None:
    import onnx_ir as ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    model, _ = optimize_for_ort(ir.load(plain))
    ir.save(model, target, external_data=f"{target.name}.data")


def _packing_mode(plain: pathlib.Path, target: pathlib.Path) -> None:
    from onnxruntime.transformers.convert_to_packing_mode import PackingMode
    from onnxruntime.transformers.optimizer import optimize_model

    model = optimize_model(str(plain), model_type="bert", num_heads=12, hidden_size=768, use_gpu=True)
    PackingMode(model).convert(True)
    if not any(node.op_type.startswith("Packed") for node in model.model.graph.node):
        raise RuntimeError("ONNX Runtime's tools find no attention to pack in this export")
    model.save_model_to_file(str(target), use_external_data_format=True)


def contenders(
    folder: pathlib.Path, feeds: dict[str, Any], valid: Any, missing: dict[str, str], layers: int
) -> dict[str, Callable[[], Any]]:
    """Calls that run once each; outputs are tensors on the device."""
    import raggedrt
    from raggedrt.plugins.runtime.calls import Caller, place_of
    from raggedrt.plugins.runtime.ort import ort_session
    from raggedrt.plugins.runtime.targets import configured_providers

    source = bert(folder / "bert", layers)
    found: dict[str, Callable[[], Any]] = {}

    def ours(io: str, **options: Any) -> Callable[[], Callable[[], Any]]:
        def make() -> Callable[[], Any]:
            bundle = raggedrt.convert(source, folder / io, target="ort-cuda", dtype="fp16", io=io, force=True)
            session = raggedrt.Session(bundle, **options)
            given = feeds if io == "padded" else packed_feeds(feeds, valid)
            return lambda: session.run(given, on_device=True)

        return make

    def baseline(path: pathlib.Path) -> Callable[[], Callable[[], Any]]:
        def make() -> Callable[[], Any]:
            session = ort_session(path, native=False, providers=configured_providers("ort-cuda"))
            names = [value.name for value in session.get_outputs()]
            known = {value.name for value in session.get_inputs()}
            call = Caller(session, names, place_of(session, 0, None), beyond_numpy=False)
            given = {name: array for name, array in feeds.items() if name in known}
            return lambda: call(given, on_device=True)

        return make

    graphs = [{"enable_cuda_graph": "1"}, {}]
    makers = {OURS: ours("padded"), RAGGED: ours("ragged", capacity=1024, provider_options=graphs)}
    makers |= {name: baseline(path) for name, path in baseline_files(source, folder, missing).items()}
    for name, make in makers.items():
        call = first_error(make, missing, name)
        if call is not None:
            found[name] = call
    return found


def compare(calls: Mapping[str, Callable[[], Any]], valid: Any) -> dict[str, float]:
    """How far each contender's hidden states are from the plain export's at valid places.

    Raises:
        SystemExit: one differs too much, or there is nothing to compare with.
    """
    if PADDED[0] not in calls:
        raise SystemExit("the plain export does not run here, so nothing says what is right")
    hidden = {name: _hidden(call(), valid) for name, call in calls.items()}
    want = hidden[PADDED[0]]
    errors = {name: float(np.abs(got - want).max()) for name, got in hidden.items()}
    if not max(errors.values()) < LARGEST_ERROR * max(1.0, float(np.abs(want).max())):
        raise SystemExit(f"outputs differ by {errors}; a speed of wrong results means nothing")
    return errors


def _hidden(outputs: Mapping[str, Any], valid: Any) -> Any:
    """Hidden states [T, H] of valid tokens, from padded or from packed outputs."""
    array = next(iter(outputs.values())).numpy().astype(np.float32)
    return array[valid] if array.ndim == 3 else array[: int(valid.sum())]


def time_calls(calls: Mapping[str, Callable[[], Any]], rounds: int) -> Times:
    """Microseconds of each call in each round; a call returns when the device is done."""
    times: Times = {name: [] for name in calls}
    for number in range(rounds + 3):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number >= 3:
                times[name].append((time.perf_counter() - start) * 1e6)
    return times


def main() -> int:
    """Measure, print and write what was asked for; 1 where a promise is missed, 5 without a GPU."""
    options = arguments(__doc__)
    problem = why_no_gpu()
    if problem is not None:
        print(f"nothing to measure on: {problem}")
        return NO_GPU
    missing: dict[str, str] = {}
    feeds, valid = feeds_of(ROWS, LONGEST)
    with tempfile.TemporaryDirectory(prefix="raggedrt-bench-") as folder:
        calls = contenders(pathlib.Path(folder), feeds, valid, missing, 2 if options.quick else LAYERS)
        errors = compare(calls, valid)
        times = {name: summary(values) for name, values in time_calls(calls, options.rounds).items()}
    rows = [{"contender": name, "microseconds": times[name], "max error": errors[name]} for name in times]
    goals = judge(times)
    for line in (*rows, *goals, *missing.items()):
        print(line)
    facts = {**gpu_facts(), "batch": ROWS, "longest": LONGEST, "fill": round(float(valid.mean()), 3)}
    if options.output:
        record = {"facts": facts, "sections": {"BERT-base fp16": rows}, "goals": goals, "missing": missing}
        write_record(options.output, "BERT-base in ONNX Runtime's CUDA provider", record)
    return int(any(line[""] == "MISSED" for line in goals))


if __name__ == "__main__":
    raise SystemExit(main())
