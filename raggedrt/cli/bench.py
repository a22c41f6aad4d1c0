"""`raggedrt bench`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

import raggedrt
from raggedrt.cli import options
from raggedrt.cli.console import print_table, print_text


def bench(
    bundle: Annotated[pathlib.Path, typer.Argument(metavar="DIR", help="bundle", show_default=False)],
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="the unmodified model  [default: the source, if unchanged]", show_default=False
        ),
    ] = None,
    lengths: Annotated[str, typer.Option(help="distribution of lengths as shares of --max-length")] = "U[0.1,1]",
    lengths_from: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FILE.txt", help="measure lengths: one text per line, bundle's tokenizer", show_default=False
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="sequences per batch")] = 32,
    batches: Annotated[int, typer.Option(min=1, help="batches per round")] = 4,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="tokens of the longest sequence  [default: 128, or the model's positions where these are fewer]",
            show_default=False,
        ),
    ] = None,
    order: Annotated[str, typer.Option(help="arrival or sorted (by length, before batching)")] = "arrival",
    rounds: Annotated[int, typer.Option(min=1, help="timed rounds, interleaved")] = 5,
    threads: options.Threads = None,
    seed: Annotated[int, typer.Option(help="seed of lengths and token ids")] = 0,
    atol: options.Atol = None,
    rtol: options.Rtol = None,
    report: options.Report = None,
    allow_pickle: options.AllowPickle = False,
    trust_bundle: options.TrustBundle = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Time a bundle against the unmodified model on a length distribution."""
    result = raggedrt.bench(
        bundle,
        baseline=baseline,
        lengths=lengths,
        lengths_from=lengths_from,
        batch_size=batch_size,
        batches=batches,
        max_length=max_length,
        order=order,
        rounds=rounds,
        threads=threads,
        seed=seed,
        atol=atol,
        rtol=rtol,
        report=report,
        allow_pickle=allow_pickle,
        trust_bundle=trust_bundle,
    )
    print_text(result.headline)
    print_table(result.columns, result.rows())
    print_text(result.conclusion)
