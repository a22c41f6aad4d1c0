"""One cell of the model matrix: export, rewrite with padded and with ragged I/O, compare with eager PyTorch.

Nothing here asks the tool whether its result is right: feeds, references and the comparison are this file's own. Cells
are plain dictionaries so that they can be stored and continued.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import logging
import pathlib
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from model_families import Family, NotInTransformers, build, pixel_source
from torch import nn

import raggedrt
from raggedrt.errors import RaggedRTError
from raggedrt.export.torch_to_onnx import export_model, strip_metadata
from raggedrt.models.contract import ModelSource
from raggedrt.models.resolve import resolve
from raggedrt.models.task_modules import Normalize, Pooling, SentenceEmbedding, TaskModule
from raggedrt.models.wrap import text_source

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
OK, PARTIAL, DENSE, REFUSED, ABSENT, FAULT = "ok", "partial", "no padding", "refused", "absent", "FAULT"
TOLERANCE = 1e-4
"""Largest error relative to the largest value of the output, or to 1."""
EMBEDDINGS = {"sentence-embedding (mean)": "mean", "sentence-embedding (cls)": "cls"}
POOLINGS = {**EMBEDDINGS, "sentence-embedding (last token)": "lasttoken"}
LAST_TOKEN = "text-generation (last token)"
"""Logits of the last slot only, as generation asks for them (`logits_to_keep=1`)."""
PADDED_ROWS = ((24, (24, 9, 1)), (40, (40, 17)), (1, (1, 1)), (12, (12, 5, 0)))
RAGGED_ROWS = ((24, 9, 1), (16,), (1,), (7, 0, 5), (40, 3, 3, 31))


@dataclasses.dataclass(frozen=True)
class Combination:
    """What a cell is about; `exporter` is "raggedrt" or "torch.onnx"."""

    family: Family
    task: str
    attention: str
    opset: int
    exporter: str

    @property
    def key(self) -> str:
        """Its name in the stored results."""
        return f"{self.task}/{self.attention}/{self.opset}/{self.exporter}"


def check(
    combination: Combination, folder: pathlib.Path, *, natives: tuple[bool, ...] = (True, False)
) -> dict[str, Any]:
    """Try one combination; `natives`: with the op library, on function bodies, or both."""
    with _quiet():
        try:
            source, limit = _source(combination)
            path = folder / "model.onnx"
            _export(combination, source, path)
        except NotInTransformers as absence:
            return {"export": _outcome(ABSENT, absence)}
        except RaggedRTError as refusal:
            return {"export": _outcome(REFUSED, refusal)}
        except Exception as error:  # noqa: BLE001 - every other kind is a finding
            kind = ABSENT if combination.exporter == "torch.onnx" else FAULT
            return {"export": _outcome(kind, error)}
        return {
            "export": {"status": OK},
            "padded": _tried(_padded, source, path, limit, natives),
            "ragged": _tried(_ragged, source, path, limit, natives),
        }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def _outcome(status: str, reason: BaseException | str, **facts: Any) -> dict[str, Any]:
    text = re.sub(r"\S*model\.onnx: ", "", " ".join(str(reason).split())) or type(reason).__name__
    if status == FAULT and isinstance(reason, BaseException):
        text = f"{type(reason).__name__}: {text}"
    return {"status": status, "reason": text[:600], **facts}


def _tried(step: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    try:
        return step(*arguments)
    except RaggedRTError as refusal:
        return _outcome(REFUSED, refusal)
    except Exception as error:  # noqa: BLE001 - every other kind is a finding
        return _outcome(FAULT, error)


# --- sources and export ---------------------------------------------------------------------------------------------


def _source(combination: Combination) -> tuple[ModelSource, int | None]:
    """What is exported, and the longest rows that it takes."""
    family = combination.family
    pooling = POOLINGS.get(combination.task)
    task = combination.task.split(" (")[0]
    model = build(family, "feature-extraction" if pooling else task, combination.attention)
    if family.pixels is not None:
        return pixel_source(family, model), None
    if combination.exporter == "torch.onnx":
        if family.experts:
            model.set_experts_implementation(family.experts)  # type: ignore[operator]
        return _plain_source(model), 64
    resolved = resolve(model)
    assert resolved.model is not None
    source = resolved.model
    if combination.task == LAST_TOKEN:
        source.module.options = {**source.module.options, "logits_to_keep": 1}
    if pooling:
        head = SentenceEmbedding(source.module, Pooling((pooling,)), nn.Sequential(Normalize())).eval()
        source = dataclasses.replace(
            text_source(head, source.example_inputs, ["sentence_embedding"]), long_length=source.long_length
        )
    return source, resolved.position_limit


def _plain_source(model: nn.Module) -> ModelSource:
    """What somebody writes who exports by hand: ids and mask, all tensors that come out."""
    generator = torch.Generator().manual_seed(0)
    examples = {
        "input_ids": torch.randint(4, 100, (2, 16), generator=generator),
        "attention_mask": torch.ones(2, 16, dtype=torch.int64),
    }
    options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    module = TaskModule(model, (), options).eval()
    with torch.no_grad():
        result = module.call(**examples)
    module.outputs = tuple(name for name, value in result.items() if isinstance(value, torch.Tensor))
    return text_source(module, examples, module.outputs)


def _export(combination: Combination, source: ModelSource, path: pathlib.Path) -> None:
    if combination.exporter == "raggedrt":
        export_model(source, opset=combination.opset, output=path)
        return
    program: Any = torch.onnx.export(
        source.module,
        (),
        kwargs=dict(source.example_inputs),
        dynamo=True,
        opset_version=combination.opset,
        output_names=list(source.output_names),
        dynamic_shapes={
            name: {axis: torch.export.Dim(symbol) for axis, symbol in axes.items()}
            for name, axes in source.dynamic_axes.items()
        },
        verbose=False,
    )
    strip_metadata(program.model)
    program.save(str(path))


# --- padded I/O -----------------------------------------------------------------------------------------------------


def _padded(source: ModelSource, path: pathlib.Path, limit: int | None, natives: tuple[bool, ...]) -> dict[str, Any]:
    model, report = raggedrt.rewrite(path, allow_partial=True)
    worst = 0.0
    for native in natives:
        session = raggedrt.ort_session(model, native=native)
        for name, feeds, valid in _padded_cases(source, limit):
            worst = max(worst, _compare(session, source, feeds, valid, f"native={native}, {name}"))
    return _judged(model, report, source, worst)


def _judged(model: onnx.ModelProto, report: Any, source: ModelSource, worst: float) -> dict[str, Any]:
    sites = len(report.attention)
    lowered = sum(entry.op is not None for entry in report.attention)
    ops = ("PackTokens", "UnpackTokens", "PackingPlan")
    packs, unpacks, plans = (sum(n.op_type == op for n in model.graph.node) for op in ops)
    reasons = list(dict.fromkeys(f"{r.node}: {r.reason}" for r in report.refusals))
    facts = {"error": worst, "sites": sites, "lowered": lowered, "packs": packs, "unpacks": unpacks}
    if source.mask_input is None:
        direct = any(node.op_type == "RaggedAttention" for node in model.graph.node)
        status = DENSE if direct or (sites and reasons) else FAULT
        return _outcome(status, "; ".join(reasons) or "no attention was found", **facts)
    if not lowered or not plans:
        return _outcome(REFUSED if reasons else FAULT, "; ".join(reasons) or "left alone without a reason", **facts)
    whole = lowered == sites and packs <= len(source.example_inputs) + 3 and unpacks <= len(source.output_names)
    left = "; ".join(reasons) or f"{lowered} of {sites} sites, {packs} PackTokens, {unpacks} UnpackTokens"
    return {"status": OK, **facts} if whole else _outcome(PARTIAL, left, **facts)


def _padded_cases(source: ModelSource, limit: int | None) -> Iterator[tuple[str, Feeds, Array]]:
    """Names, feeds and valid slots: padding on the right, on the left, in holes, rows of one token, an empty row."""
    rng = np.random.default_rng(0)
    if source.mask_input is None:
        for batch in (1, 3):
            yield f"batch of {batch}", _values(source, np.ones((batch, 1), bool), rng), np.ones((batch, 1), bool)
        return
    long = source.long_length
    rows = [*PADDED_ROWS, *([(long, (long, long * 2 // 3))] if long else [])]
    for length, counts in rows:
        if limit is not None and length > limit:
            continue
        for side in ("right", "left", "holes"):
            valid = np.zeros((len(counts), length), bool)
            for row, count in enumerate(counts):
                slots = {"right": np.arange(count), "left": np.arange(length - count, length)}
                valid[row, slots.get(side, rng.permutation(length)[:count])] = True
            # Random ids under left padding: what padded slots hold must not matter.
            feeds = _values(source, valid, rng, None if side == "left" else _pad_token_id(source))
            yield f"{side}, {counts} of {length}", feeds, valid


def _values(source: ModelSource, valid: Array, rng: np.random.Generator, pad: int | None = None) -> Feeds:
    """Random values; padded slots hold the padding id, or random ids where `pad` is None."""
    feeds: Feeds = {}
    for name, example in source.example_inputs.items():
        if name == source.mask_input:
            feeds[name] = valid.astype(np.int64)
        elif example.is_floating_point():
            feeds[name] = rng.standard_normal((len(valid), *example.shape[1:])).astype(np.float32)
        else:
            ids = rng.integers(4 if name == "input_ids" else 0, int(example.max()) + 1, valid.shape)
            feeds[name] = ids if pad is None or name != "input_ids" else np.where(valid, ids, pad)
    return feeds


def _pad_token_id(source: ModelSource) -> int:
    configs = [module.config for module in source.module.modules() if hasattr(module, "config")]
    return next((pad for pad in (getattr(config, "pad_token_id", None) for config in configs) if pad is not None), 0)


def _reference(source: ModelSource, feeds: Feeds) -> list[Array]:
    with torch.inference_mode():
        result = source.module(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    return [value.numpy() for value in ((result,) if isinstance(result, torch.Tensor) else result)]


def _compare(session: Any, source: ModelSource, feeds: Feeds, valid: Array, what: str) -> float:
    """The largest error at valid places; raises where it is above the tolerance."""
    worst = 0.0
    got = session.run(list(source.output_names), feeds)
    for name, mine, wanted in zip(source.output_names, got, _reference(source, feeds), strict=True):
        if mine.shape != wanted.shape or mine.dtype != wanted.dtype:
            raise AssertionError(f"{what}: {name} is {mine.dtype}{mine.shape}, not {wanted.dtype}{wanted.shape}")
        per_token = wanted.shape[:2] == valid.shape and source.mask_input is not None
        where = valid if per_token else valid.any(axis=1)
        worst = max(worst, _error(mine[where], wanted[where], f"{what}: {name}"))
    return worst


def _error(mine: Array, wanted: Array, what: str) -> float:
    if not wanted.size:
        return 0.0
    mine, wanted = mine.astype(np.float64), wanted.astype(np.float64)
    error = float(np.abs(mine - wanted).max() / max(1.0, np.abs(wanted).max()))
    if not error <= TOLERANCE:  # so that NaN fails
        raise AssertionError(f"{what} is wrong by {error:.2e}")
    return error


# --- ragged I/O -----------------------------------------------------------------------------------------------------


def _ragged(source: ModelSource, path: pathlib.Path, limit: int | None, natives: tuple[bool, ...]) -> dict[str, Any]:
    model, report = raggedrt.rewrite(path, features=("pack",), io="ragged")
    rng, worst = np.random.default_rng(1), 0.0
    roles = {role.name: str(role.role) for role in report.outputs}
    for native in natives:
        session = raggedrt.ort_session(model, native=native)
        for counts in RAGGED_ROWS:
            if limit is None or max(counts) <= limit:
                rows = [_values(source, np.ones((1, count), bool), rng) for count in counts]
                worst = max(worst, _compare_rows(session, source, rows, roles, f"native={native}, rows {counts}"))
    left = [f"{entry.node}: {entry.reason}" for entry in report.attention if entry.op is None]
    return _outcome(PARTIAL, "; ".join(left), error=worst) if left else {"status": OK, "error": worst}


def _compare_rows(session: Any, source: ModelSource, rows: list[Feeds], roles: dict[str, str], what: str) -> float:
    counts = [row["input_ids"].shape[1] for row in rows]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    feeds = {name: np.concatenate([row[name][0] for row in rows]) for name in rows[0] if name != source.mask_input}
    feeds |= {"cu_seqlens": offsets, "max_seqlen": np.zeros(max(counts), np.float32)}
    got = session.run(list(source.output_names), {item.name: feeds[item.name] for item in session.get_inputs()})
    worst = 0.0
    for number, row in enumerate(rows):
        if not counts[number]:
            continue
        for name, mine, wanted in zip(source.output_names, got, _reference(source, row), strict=True):
            part = mine[offsets[number] : offsets[number + 1]] if "token" in roles[name] else mine[number]
            worst = max(worst, _error(part, wanted[0], f"{what}: {name} of row {number}"))
    return worst
