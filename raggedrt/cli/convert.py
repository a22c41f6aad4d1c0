"""`raggedrt convert`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

import raggedrt
from raggedrt.cli import options
from raggedrt.cli.console import print_text


def convert(
    source: options.Source,
    output: Annotated[pathlib.Path, typer.Option("-o", "--output", metavar="DIR", help="bundle to write")],
    target: options.Target = "ort-cpu",
    io: options.Io = None,
    task: options.Task = "auto",
    dtype: options.Dtype = "fp32",
    features: options.Features = "auto",
    opset: options.Opset = 20,
    min_shapes: options.MinShapes = None,
    opt_shapes: options.OptShapes = None,
    max_shapes: options.MaxShapes = None,
    profiles: options.Profiles = None,
    lengths: options.EngineLengths = None,
    batch_sizes: options.BatchSizes = None,
    buckets: options.Buckets = None,
    compute_capability: options.ComputeCapability = None,
    timing_cache: options.TimingCache = None,
    plugins: options.Plugins = None,
    version_compatible: options.VersionCompatible = False,
    hardware_compatibility: options.HardwareCompatibility = None,
    ep_context: options.EpContext = False,
    sparsity: options.Sparsity = None,
    plan: options.Plan = None,
    accept_approximation: options.AcceptApproximation = False,
    prefill: options.Prefill = False,
    atol: options.Atol = None,
    rtol: options.Rtol = None,
    report: options.Report = None,
    force: options.Force = False,
    allow_partial: options.AllowPartial = False,
    revision: options.Revision = None,
    allow_pickle: options.AllowPickle = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """The whole job: export, rewrite, verify, write a bundle."""
    bundle = raggedrt.convert(
        source,
        output,
        target=target,
        io=io,
        task=task,
        dtype=dtype,
        features=features,
        opset=opset,
        min_shapes=min_shapes,
        opt_shapes=opt_shapes,
        max_shapes=max_shapes,
        profiles=profiles,
        lengths=lengths,
        batch_sizes=batch_sizes,
        buckets=buckets,
        compute_capability=compute_capability,
        timing_cache=timing_cache,
        plugins=plugins,
        version_compatible=version_compatible,
        hardware_compatibility=hardware_compatibility,
        ep_context=ep_context,
        sparsity=sparsity,
        plan=plan,
        accept_approximation=accept_approximation,
        prefill=prefill,
        atol=atol,
        rtol=rtol,
        report=report,
        force=force,
        allow_partial=allow_partial,
        revision=revision,
        allow_pickle=allow_pickle,
    )
    if not quiet:
        from raggedrt.summaries import bundle_text, report_summary

        print_text(report_summary(bundle.report))
        manifest = bundle.manifest.model_dump(mode="json", exclude={"files"})
        print_text("\n" + bundle_text(manifest))
        for record in manifest["engines"]:
            from raggedrt.engine_text import engine_text

            print_text("\n" + engine_text(record, bundle.report.get("engine")))
        print_text(f"\nwrote {bundle.path}")
