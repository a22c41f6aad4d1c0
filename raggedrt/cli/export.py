"""`raggedrt export`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

import raggedrt
from raggedrt.cli import options
from raggedrt.cli.console import print_table, print_text


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
    errors = raggedrt.export(
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
    if not quiet:
        rows = [(error.output, f"{error.max_abs:.1e}", f"{error.max_rel:.1e}") for error in errors.outputs]
        print_table(("output", "max abs error", "max rel error"), rows)
        print_text(
            f"wrote {output}, verified against PyTorch" if rows else f"wrote {output}, not verified: {errors.skipped}"
        )
