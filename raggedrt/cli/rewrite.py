"""`raggedrt rewrite`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from raggedrt.cli import options
from raggedrt.cli.console import print_text


def rewrite(
    model: Annotated[
        pathlib.Path, typer.Argument(metavar="IN.onnx", help="ONNX file of any exporter", show_default=False)
    ],
    output: Annotated[
        pathlib.Path | None,
        typer.Option("-o", "--output", metavar="OUT.onnx", help="ONNX file to write", show_default=False),
    ] = None,
    features: options.Features = "auto",
    target: options.Target = "ort-cpu",
    io: options.Io = None,
    opt_shapes: options.OptShapes = None,
    sparsity: options.Sparsity = None,
    plan: options.Plan = None,
    write_plan: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="FILE", help="write the attention sites as a YAML plan to edit", show_default=False),
    ] = None,
    accept_approximation: options.AcceptApproximation = False,
    mask_input: options.MaskInput = None,
    prefill: options.Prefill = False,
    allow_partial: options.AllowPartial = False,
    report: options.Report = None,
    force: options.Force = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Graph passes only: remove padding and fuse attention in an ONNX file."""
    from raggedrt.rewriting import rewrite_file
    from raggedrt.summaries import report_summary

    written = rewrite_file(
        model,
        output,
        features=features,
        target=target,
        io=io,
        opt_shapes=opt_shapes,
        sparsity=sparsity,
        plan=plan,
        write_plan=write_plan,
        accept_approximation=accept_approximation,
        mask_input=mask_input,
        prefill=prefill,
        allow_partial=allow_partial,
        report=report,
        force=force,
    )
    if not quiet:
        print_text(report_summary(written.to_json()))
