"""Rewrite and inspect mutated graphs, one seed after the other: `python fuzz_worker.py FOLDER FIRST LAST [GRAPH ...]`.

A line of JSON on standard output for each seed: {"seed", "graph", "mutations", "outcome", "detail"}. `outcome` is
"equal", "refused", "not run" (the original does not run either), or a fault: "wrong", "raised", "internal" (an error of
ours that hides one of Python). The seed is printed before the work, so that whoever started the process knows which one
ended it. Memory is limited here, time by whoever started it. The root and `tests` have to be on PYTHONPATH.
"""

from __future__ import annotations

import json
import logging
import pathlib
import resource
import sys
import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

import raggedrt
import raggedrt.summaries
from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.graph_mutations import mutated
from raggedrt.errors import FeatureError, InputError, NumericsError, RaggedRTError, TargetError

MEMORY = 6 << 30
BATCH, LENGTH = 3, 13
LENGTHS = (13, 9, 1)
SPECS: tuple[dict[str, Any], ...] = (
    {},
    {"attention": "sdpa", "rope": True, "positions": "none", "kv_heads": 2},
    {"attention": "attention_4d", "opset": 23, "mask": "causal_padding"},
    {"attention": "attention_3d", "opset": 24, "kv_heads": 2, "head": "cls_slice"},
    {"attention": "mha", "head": "masked_mean"},
    {"attention": "contrib_attention", "positions": "cumsum"},
    {"attention": "eager_where", "mask": "window", "positions": "range"},
    {"attention": "disentangled", "layout": "flat"},
    {"attention": "bmm", "layout": "activation", "mask": "globals"},
)
OWN_ERRORS = (InputError, FeatureError, NumericsError, TargetError)


def main() -> None:
    """Run the seeds of the command line."""
    folder, first, last = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    graphs = [(str(path), onnx.load(path)) for path in sys.argv[4:]]
    for seed in range(first, last):
        rng = np.random.default_rng(seed)
        if graphs:
            name, model = graphs[int(rng.integers(len(graphs)))]
        else:
            spec = SPECS[int(rng.integers(len(SPECS)))]
            name, model = str(spec), ir.to_proto(build_encoder(EncoderSpec(**spec)))
        data, done = mutated(model, rng)
        print(json.dumps({"seed": seed, "graph": name, "mutations": done}), flush=True)
        (folder / "m.onnx").write_bytes(data)
        outcome, detail = attempt(folder / "m.onnx", rng)
        print(json.dumps({"seed": seed, "outcome": outcome, "detail": detail[:500]}), flush=True)


def attempt(path: pathlib.Path, rng: np.random.Generator) -> tuple[str, str]:
    """What became of one file."""
    try:
        facts = raggedrt.inspect(path)
        json.dumps(facts)
        raggedrt.summaries.inspection_text(facts)
    except OWN_ERRORS:
        pass
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return "raised", f"inspect: {type(error).__name__}: {error}"
    try:
        model, report = raggedrt.rewrite(path, allow_partial=True)
    except OWN_ERRORS as refusal:
        return "refused", str(refusal)
    except RaggedRTError as error:
        return ("internal" if _loads(path) else "refused"), str(error)
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return "raised", f"rewrite: {type(error).__name__}: {error}"
    return compared(path, model, report, rng)


def compared(path: pathlib.Path, model: onnx.ModelProto, report: Any, rng: np.random.Generator) -> tuple[str, str]:
    """Original and result on the same input, where the original runs."""
    mask = (np.arange(LENGTH) < np.array(LENGTHS)[:, None]).astype(np.int64)
    try:
        original = _session(path.read_bytes())
        feeds = {item.name: _feed(item, mask, rng) for item in original.get_inputs()}
        wanted = original.run(None, feeds)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime refuses it, whatever the kind
        return "not run", str(error)
    if not all(np.isfinite(array).all() and np.abs(array).max(initial=0) < 1e4 for array in wanted if _is_float(array)):
        return "not run", "its values are not finite"
    try:
        names = [item.name for item in original.get_outputs()]
        got = raggedrt.ort_session(model, native=False).run(names, feeds)
    except Exception as error:  # noqa: BLE001 - what the original can do, the result can
        return "raised", f"the result does not run: {error}"
    roles = {role.name: str(role.role) for role in report.outputs}
    for name, mine, array in zip(names, got, wanted, strict=True):
        problem = _difference(mine, array, mask.astype(bool), roles.get(name, "other"))
        if problem:
            return "wrong", f"{name}: {problem}"
    return "equal", f"{sum(entry.op is not None for entry in report.attention)} lowered"


def _loads(path: pathlib.Path) -> bool:
    """Whether ONNX Runtime takes the original: then it is valid, and a failure of the passes is a fault."""
    try:
        _session(path.read_bytes())
    except Exception:  # noqa: BLE001 - whatever the kind
        return False
    return True


def _session(data: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _feed(item: Any, mask: Any, rng: np.random.Generator) -> Any:
    if item.name in ("attention_mask", "mask", "input_mask"):
        return mask.astype({"tensor(int64)": np.int64, "tensor(int32)": np.int32}.get(item.type, np.float32))
    sizes = iter((BATCH, LENGTH))
    shape = [size if isinstance(size, int) else next(sizes, 2) for size in item.shape]
    if "float" in item.type:
        return rng.standard_normal(shape).astype(np.float16 if "16" in item.type else np.float32)
    if "bool" in item.type:
        return rng.random(shape) < 0.5
    return rng.integers(2, 16, shape).astype(np.int32 if "32" in item.type else np.int64)


def _is_float(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f"


def _difference(mine: Any, wanted: Any, valid: Any, role: str) -> str | None:
    """None where they are equal at valid places. Of axes that no role explains, only what no padding is in counts."""
    if mine.shape != wanted.shape or mine.dtype != wanted.dtype:
        return f"{mine.dtype}{mine.shape}, not {wanted.dtype}{wanted.shape}"
    if role == "per_token":
        mine, wanted = mine[valid], wanted[valid]
    elif role != "per_sequence" and LENGTH in wanted.shape:
        return None
    if not wanted.size or wanted.dtype.kind not in "fiub":
        return None
    error = float(np.abs(mine.astype(np.float64) - wanted.astype(np.float64)).max())
    largest = max(1.0, float(np.abs(wanted.astype(np.float64)).max()))
    return None if error <= 2e-4 * largest else f"wrong by {error:.2e} of {largest:.2e} ({role})"


if __name__ == "__main__":
    main()
