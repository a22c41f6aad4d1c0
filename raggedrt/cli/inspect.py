"""`raggedrt inspect`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

import raggedrt
from raggedrt.cli import options
from raggedrt.cli.console import print_json, print_text
from raggedrt.errors import InputError


def inspect(
    model: Annotated[
        pathlib.Path, typer.Argument(metavar="FILE|DIR", help="ONNX file, bundle or engine", show_default=False)
    ],
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    io: options.Io = None,
    length: Annotated[
        int | None, typer.Option(min=1, help="tokens at which masks are looked at", show_default=False)
    ] = None,
    draw: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="DIR", help="draw each distinct mask as PNG (needs the extra draw)", show_default=False),
    ] = None,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Attention sites, masks, what can be packed, and why not."""
    facts = raggedrt.inspect(model, io=io, length=length, draw=draw)
    if json:
        print_json(facts)
    else:
        from raggedrt.engine_text import engines_text
        from raggedrt.summaries import inspection_text

        if "nodes" in facts:
            print_text(inspection_text(facts))
        if engines := engines_text(facts):
            print_text(engines)
    if problem := facts.get("problem"):
        raise InputError(problem)  # what could be said is said; scripts see that the file is of no use
