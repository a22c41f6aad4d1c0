"""`raggedrt compare`."""

from __future__ import annotations

from typing import Annotated

import typer

import raggedrt
from raggedrt.cli import options
from raggedrt.cli.console import print_table, print_text


def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="the reference: PyTorch source, ONNX file or bundle", show_default=False)
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="what is checked: the same kinds", show_default=False)],
    task: options.Task = "auto",
    atol: options.Atol = None,
    rtol: options.Rtol = None,
    threads: options.Threads = None,
    report: options.Report = None,
    revision: options.Revision = None,
    allow_pickle: options.AllowPickle = False,
    trust_bundle: options.TrustBundle = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Numerics of two models over right-, left-, hole-padded, full, length-1 and empty rows."""
    comparison = raggedrt.compare(
        first,
        second,
        task=task,
        atol=atol,
        rtol=rtol,
        threads=threads,
        report=report,
        revision=revision,
        allow_pickle=allow_pickle,
        trust_bundle=trust_bundle,
    )
    if not quiet:
        print_table(comparison.columns, comparison.rows())
        print_text(comparison.note)
    comparison.require()
