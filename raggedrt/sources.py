"""From SOURCE to an ONNX file of the original model, and what verification needs beside it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import onnx_ir as ir

from raggedrt.errors import InputError
from raggedrt.export.input_specs import graph_input_specs, input_specs
from raggedrt.export.numerics import DEFAULT_TOLERANCES, Case, Runner, Tolerance
from raggedrt.export.padding_cases import InputSpec, padding_cases
from raggedrt.export.torch_to_onnx import export_model
from raggedrt.export.verify import eager_runner, verify_export
from raggedrt.export.widen import wide_file
from raggedrt.models.contract import ModelSource, ResolvedSource
from raggedrt.onnx_files import read_onnx
from raggedrt.onnx_runner import onnx_file_runner
from raggedrt.prefill import leave_out_caches, started_empty
from raggedrt.progress import step


@dataclasses.dataclass(frozen=True)
class Original:
    """The model before the graph passes.

    Attributes:
        resolved: where it came from.
        path: its ONNX file.
        model: its graph, for rewriting in place.
        specs: how values for its inputs are made.
        cases: feeds over every kind of padding.
        reference: computes what is right: PyTorch where the source is PyTorch, else (and for bfloat16, which runs in
            float32) the ONNX file.
    """

    resolved: ResolvedSource
    path: pathlib.Path
    model: ir.Model
    specs: list[InputSpec]
    cases: list[Case]
    reference: Runner

    @property
    def mask_input(self) -> str | None:
        """Name of the padding mask: what a PyTorch source says, in an ONNX file the input of a usual name."""
        if self.resolved.model is not None:
            return self.resolved.model.mask_input
        return next((spec.name for spec in self.specs if spec.role == "mask" and len(spec.axes) == 2), None)


def resolve_source(
    source: Any, *, task: str = "auto", revision: str | None = None, allow_pickle: bool = False, dtype: str = "fp32"
) -> ResolvedSource:
    """`models.resolve`, announced as a step."""
    from raggedrt.models.resolve import resolve

    step("reading %s", source if isinstance(source, str | os.PathLike) else type(source).__name__)
    return resolve(source, task=task, revision=revision, allow_pickle=allow_pickle, dtype=dtype)


def original_onnx(
    resolved: ResolvedSource,
    folder: pathlib.Path,
    *,
    opset: int,
    tolerance: Tolerance | None = None,
    prefill: bool = False,
) -> Original:
    """Export a PyTorch source into `folder` and verify it; take an ONNX source as it is.

    With `prefill` the caches of an ONNX source are left out of `model`, and its reference runs on empty ones.

    Raises:
        InputError: the source cannot be exported or is no valid ONNX.
        NumericsError: the export differs from PyTorch.
    """
    if resolved.model is None:
        if resolved.path is None:
            raise TypeError("a resolved source has a model or a path")
        model = read_onnx(resolved.path).model
        caches = leave_out_caches(model) if prefill else []
        specs = graph_input_specs(model)
        cases = padding_cases(specs, position_limit=resolved.position_limit)
        reference = onnx_file_runner(resolved.path)
        return Original(
            resolved, resolved.path, model, specs, cases, started_empty(reference, caches) if caches else reference
        )
    if prefill:
        raise InputError("--prefill is for ONNX files that take a cache; PyTorch models are exported without one")
    path = folder / "original.onnx"
    step("exporting to ONNX (opset %d)", opset)
    exported = export_model(resolved.model, opset=opset, output=path)
    step("verifying the export against PyTorch")
    pad, limit = resolved.pad_token_id, resolved.position_limit
    source = wide_source(resolved.model)
    with wide_file(path) as (runnable, wide):
        # The graph's constants are rounded too, such as the scale of attention; the module's were not.
        loose = tolerance or DEFAULT_TOLERANCES["bfloat16"] if wide else tolerance
        verify_export(source, runnable, tolerance=loose, pad_token_id=pad, position_limit=limit)
    specs = input_specs(resolved.model)
    cases = padding_cases(specs, pad_token_id=pad, position_limit=limit, long_length=resolved.model.long_length)
    reference = onnx_file_runner(path) if wide else eager_runner(resolved.model)
    return Original(resolved, path, exported.model, specs, cases, reference)


def wide_source(source: ModelSource) -> ModelSource:
    """A bfloat16 module in float32 with the same weights, as `wide_file` does for its graph; others as they are."""
    import torch

    from raggedrt.models.wrap import source_in_dtype

    module = source.module
    if not isinstance(module, torch.nn.Module):
        return source
    if all(tensor.dtype != torch.bfloat16 for tensor in module.state_dict().values()):
        return source
    return source_in_dtype(source, torch.float32)
