"""`raggedrt list`."""

from __future__ import annotations

from typing import Annotated

import typer

from raggedrt.cli import options
from raggedrt.cli.console import print_json, print_table


def list_(
    what: Annotated[str, typer.Argument(metavar="ops|targets|patterns|models", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """What this version knows: ops, targets, attention patterns, model families."""
    from raggedrt.listing import list_registry

    columns, rows = list_registry(what)
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows)
