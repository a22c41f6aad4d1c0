"""`export`: PyTorch to ONNX, verified against PyTorch."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

from raggedrt.errors import InputError
from raggedrt.export.numerics import DEFAULT_TOLERANCES
from raggedrt.export.torch_to_onnx import DEFAULT_OPSET, export_model
from raggedrt.export.verify import verify_export
from raggedrt.export.widen import wide_file
from raggedrt.models.contract import ModelSource
from raggedrt.outputs import refuse_existing, staged
from raggedrt.progress import step
from raggedrt.sources import resolve_source, wide_source
from raggedrt.verification import make_tolerance

if TYPE_CHECKING:
    from torch import nn

    from raggedrt.export.numerics import Comparison


def export(
    source: str | os.PathLike[str] | ModelSource | nn.Module,
    output: str | os.PathLike[str],
    *,
    task: str = "auto",
    dtype: str = "fp32",
    opset: int = DEFAULT_OPSET,
    atol: float | None = None,
    rtol: float | None = None,
    force: bool = False,
    revision: str | None = None,
    allow_pickle: bool = False,
) -> Comparison:
    """Export a PyTorch model to an ONNX file with dynamic batch and sequence, verified against PyTorch.

    Args:
        source: model directory, Hub id, `package.module:factory` or `.pt2` file; from Python also a module.
        output: ONNX file to write; weights above 1.5 GB go to `<output>.data` beside it.
        task: task head to export; `"auto"` follows the model's config.
        dtype: `"fp32"`, `"fp16"` or `"bf16"`.
        opset: ONNX opset.
        atol: absolute tolerance of the verification; default by dtype.
        rtol: relative tolerance; default by dtype.
        force: replace an existing file.
        revision: revision of a Hub model.
        allow_pickle: accept pickled checkpoints and `.pt2` programs, which can run code.

    Returns:
        The errors against PyTorch, per output.

    Raises:
        InputError: the source cannot be read or exported, or `output` exists.
        NumericsError: the exported model differs from PyTorch; nothing is written.
        TargetError: PyTorch or ONNX Runtime is missing.
    """
    destination = pathlib.Path(output)
    refuse_existing(destination, force=force)
    resolved = resolve_source(source, task=task, revision=revision, allow_pickle=allow_pickle, dtype=dtype)
    if resolved.model is None:
        raise InputError(f"{source}: is an ONNX file already; `raggedrt rewrite` takes it as it is")
    with staged(destination) as path:
        step("exporting to ONNX (opset %d)", opset)
        export_model(resolved.model, opset=opset, output=path)
        step("verifying the export against PyTorch")
        with wide_file(path) as (runnable, wide):
            tolerance = make_tolerance(atol, rtol, dtype)
            return verify_export(
                wide_source(resolved.model),
                runnable,
                pad_token_id=resolved.pad_token_id,
                position_limit=resolved.position_limit,
                tolerance=tolerance or DEFAULT_TOLERANCES["bfloat16"] if wide else tolerance,
            )
