"""What a bundle is measured against: the unmodified model in ONNX Runtime, plain and with its own fusions."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib

import onnx_ir as ir

from raggedrt.errors import InputError
from raggedrt.export.input_specs import graph_input_specs, input_specs
from raggedrt.export.numerics import Runner
from raggedrt.export.padding_cases import InputSpec
from raggedrt.export.torch_to_onnx import DEFAULT_OPSET, export_model
from raggedrt.models.contract import ResolvedSource
from raggedrt.onnx_files import read_onnx
from raggedrt.onnx_runner import onnx_file_runner
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.runtime.ort import ort_session
from raggedrt.progress import step
from raggedrt.runners import RunnerOptions
from raggedrt.sources import resolve_source

LOGGER = logging.getLogger("raggedrt")


@dataclasses.dataclass(frozen=True)
class Baseline:
    """One way of running the unmodified model on padded arrays."""

    name: str
    label: str
    run: Runner
    specs: list[InputSpec]


def open_baselines(
    bundle: Bundle, source: str | os.PathLike[str] | None, folder: pathlib.Path, options: RunnerOptions
) -> list[Baseline]:
    """The plain model, then the same with onnxscript's fusions for ONNX Runtime where these apply.

    Args:
        bundle: what is measured.
        source: the unmodified model; None: the bundle's own source, if it is unchanged.
        folder: for temporary files.
        options: how models are opened.

    Raises:
        InputError: the source is missing, changed or not recorded.
    """
    resolved = _resolve_baseline(bundle, source, options)
    if resolved.model is None and resolved.path is not None:
        path = resolved.path
        specs = graph_input_specs(read_onnx(path).model)
    elif resolved.model is not None:
        path = folder / "baseline.onnx"
        step("exporting the baseline to ONNX (opset %d)", DEFAULT_OPSET)
        export_model(resolved.model, opset=DEFAULT_OPSET, output=path)
        specs = input_specs(resolved.model)
    label = str(source if source is not None else bundle.manifest.source.location)
    baselines = [Baseline("plain ONNX", label, onnx_file_runner(path, options.threads, options.providers), specs)]
    fused = _fuse(path, folder / "fused.onnx", options)
    if fused is not None:
        baselines.append(
            Baseline("ORT fusions", label, onnx_file_runner(fused, options.threads, options.providers), specs)
        )
    return baselines


def _resolve_baseline(bundle: Bundle, source: str | os.PathLike[str] | None, options: RunnerOptions) -> ResolvedSource:
    record = bundle.manifest.source
    task = record.task or "auto"
    if source is not None:
        text = os.fspath(source)
        asked = "auto" if text.endswith(".onnx") else task
        return resolve_source(text, task=asked, allow_pickle=options.allow_pickle, dtype=bundle.manifest.dtype)
    if not record.location:
        raise InputError(
            f"{bundle.path}: was made from an object of a program; name the unmodified model with --baseline"
        )
    try:
        resolved = resolve_source(
            record.location, task=task, allow_pickle=options.allow_pickle, dtype=bundle.manifest.dtype
        )
    except InputError as error:
        raise InputError(
            f"the bundle's source cannot be read ({error}); name the unmodified model with --baseline"
        ) from error
    if resolved.digest != record.digest:
        raise InputError(
            f"{record.location}: has changed since {bundle.path} was converted from it; convert again, or name the "
            "unmodified model with --baseline"
        )
    return resolved


def _fuse(path: pathlib.Path, fused: pathlib.Path, options: RunnerOptions) -> pathlib.Path | None:
    """The model after onnxscript's fusions for ONNX Runtime, the best padded form it has; None where they fail."""
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    step("fusing the baseline for ONNX Runtime")
    try:
        model, _ = optimize_for_ort(ir.load(path))
        ir.save(model, fused, external_data=f"{fused.name}.data")
        ort_session(fused, native=False, providers=options.providers)
    except Exception as error:  # noqa: BLE001 - a rewriter of others that may raise anything; the plain model remains
        LOGGER.warning("the baseline with ONNX Runtime fusions is left out: %s", error)
        return None
    return fused
