"""`raggedrt run`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

import raggedrt
from raggedrt.cli import options
from raggedrt.cli.console import print_table


def run(
    bundle: Annotated[pathlib.Path, typer.Argument(metavar="DIR", help="bundle", show_default=False)],
    output: Annotated[pathlib.Path, typer.Option("-o", "--output", metavar="OUT.npz", help="outputs to write")],
    inputs: Annotated[
        pathlib.Path | None, typer.Option(metavar="F.npz", help="input arrays by name", show_default=False)
    ] = None,
    text: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="FILE", help="one text per line, for the bundle's tokenizer", show_default=False),
    ] = None,
    threads: options.Threads = None,
    trust_bundle: options.TrustBundle = False,
    force: options.Force = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """One inference from a bundle."""
    outputs = raggedrt.run(
        bundle, inputs=inputs, text=text, output=output, threads=threads, trust_bundle=trust_bundle, force=force
    )
    if not quiet:
        print_table(("output", "shape", "dtype"), [(n, list(a.shape), a.dtype) for n, a in outputs.items()])
