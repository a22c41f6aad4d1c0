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
    output: Annotated[pathlib.Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="ONNX file to write")],
    features: options.Features = "auto",
    target: options.Target = "ort-cpu",
    io: options.Io = None,
    opt_shapes: options.OptShapes = None,
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
        allow_partial=allow_partial,
        report=report,
        force=force,
    )
    if not quiet:
        print_text(report_summary(written.to_json()))
