"""`raggedrt build`."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

import raggedrt
from raggedrt.cli import options
from raggedrt.cli.console import print_text


def build(
    source: Annotated[
        str, typer.Argument(metavar="IN.onnx|BUNDLE|SOURCE", help="ONNX file, bundle, or what convert takes")
    ],
    output: Annotated[pathlib.Path, typer.Option("-o", "--output", metavar="FILE", help="engine to write")],
    target: options.Target = "tensorrt-rtx",
    io: options.Io = None,
    task: options.Task = "auto",
    dtype: options.Dtype = "fp32",
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
    force: options.Force = False,
    revision: options.Revision = None,
    allow_pickle: options.AllowPickle = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """A TensorRT engine with optimisation profiles; an ONNX file or a bundle is taken as it is."""
    built = raggedrt.build(
        source,
        output,
        target=target,
        io=io,
        task=task,
        dtype=dtype,
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
        force=force,
        revision=revision,
        allow_pickle=allow_pickle,
    )
    from raggedrt.plugins.bundle.reader import Bundle

    if isinstance(built, Bundle):  # in which ONNX Runtime compiled the model
        if not quiet:
            print_text(f"wrote {built.path}")
        return
    if not quiet:
        from raggedrt.engine_text import engine_text

        print_text(engine_text(built.record.model_dump(mode="json"), built.to_json()))
        print_text(f"\nwrote {output}, {output}.json and {output}.layers.json")
