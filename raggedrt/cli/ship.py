"""`raggedrt ship`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

import raggedrt
from raggedrt.cli import options
from raggedrt.cli.console import print_text


def ship(
    bundle: Annotated[pathlib.Path, typer.Argument(metavar="DIR", help="bundle")],
    output: Annotated[pathlib.Path, typer.Option("-o", "--output", metavar="OUT", help="what to write")],
    format: Annotated[  # noqa: A002 - the option's name
        str, typer.Option(help="dir, tar (also .tar.gz), or triton (a model repository)")
    ] = "dir",
    name: Annotated[str | None, typer.Option(help="triton: name of the model", show_default=False)] = None,
    max_batch_size: Annotated[
        int | None, typer.Option(help="triton: most requests per batch", show_default=False)
    ] = None,
    server_path: Annotated[
        str | None, typer.Option(help="triton: where the repository lies on the server", show_default=False)
    ] = None,
    force: options.Force = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """A bundle with its libraries, for another machine: folder, tar file or Triton model repository."""
    shipped = raggedrt.ship(
        bundle,
        output,
        format=format,
        name=name,
        max_batch_size=max_batch_size,
        server_path=server_path,
        force=force,
    )
    if not quiet:
        added = f" with {', '.join(shipped.libraries)}" if shipped.libraries else ""
        print_text("\n".join([f"wrote {shipped.path}{added}", *shipped.notes]))
