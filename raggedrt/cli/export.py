"""`raggedrt export`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

import raggedrt
from raggedrt.cli import options


def export(
    source: options.Source,
    output: Annotated[pathlib.Path, typer.Option("-o", "--output", metavar="FILE", help="ONNX file to write")],
    task: options.Task = "auto",
    dtype: options.Dtype = "fp32",
    opset: options.Opset = 20,
    atol: options.Atol = None,
    rtol: options.Rtol = None,
    force: options.Force = False,
    revision: options.Revision = None,
    allow_pickle: options.AllowPickle = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """PyTorch to ONNX only, verified against PyTorch."""
    raggedrt.export(
        source,
        output,
        task=task,
        dtype=dtype,
        opset=opset,
        atol=atol,
        rtol=rtol,
        force=force,
        revision=revision,
        allow_pickle=allow_pickle,
    )
