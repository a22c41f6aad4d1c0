"""The typer application: one command per verb, one file per command."""

from __future__ import annotations

from typing import Annotated

import typer

from raggedrt.cli.bench import bench
from raggedrt.cli.build import build
from raggedrt.cli.compare import compare
from raggedrt.cli.console import start_logging
from raggedrt.cli.convert import convert
from raggedrt.cli.doctor import doctor
from raggedrt.cli.export import export
from raggedrt.cli.inspect import inspect
from raggedrt.cli.list_ import list_
from raggedrt.cli.rewrite import rewrite
from raggedrt.cli.run import run
from raggedrt.cli.ship import ship

VERBS = (convert, export, rewrite, inspect, build, run, compare, bench, ship, doctor)

app = typer.Typer(
    name="raggedrt",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _verb in VERBS:
    app.command()(_verb)
app.command("list")(list_)


def _print_version(value: bool) -> None:
    if value:
        from raggedrt.diagnosing import version_line

        print(version_line())
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="toolchain, op ABI and library digest"),
    ] = False,
) -> None:
    """Convert transformers to ONNX models that spend no time on padding."""
    start_logging()
