"""`raggedrt doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

import raggedrt
from raggedrt.cli import options
from raggedrt.cli.console import print_json, print_table, print_text


def doctor(
    build_ops: Annotated[bool, typer.Option("--build-ops", help="build the op library into the user's cache")] = False,
    build_kernels: Annotated[
        bool,
        typer.Option("--build-kernels", help="build packs of the CUDA kernels into the user's cache; needs no GPU"),
    ] = False,
    build_plugins: Annotated[
        bool,
        typer.Option(
            "--build-plugins", help="build the TensorRT plugin library into the user's cache; needs TensorRT's headers"
        ),
    ] = False,
    compute_capability: Annotated[
        str | None,
        typer.Option(
            "--compute-capability",
            help="GPUs to build kernels for, such as 80,86,89; default the GPU present, else all",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Facts about this machine, then what each target needs."""
    found = raggedrt.doctor(
        build_ops=build_ops,
        build_kernels=build_kernels,
        build_plugins=build_plugins,
        compute_capability=compute_capability,
    )
    if json:
        print_json(found.to_json())
        return
    print_table(("fact", "value"), found.facts)
    print_text("")
    print_table(("target", "ready", "what is missing"), found.targets)
