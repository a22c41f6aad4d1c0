"""Options that several verbs share, declared once."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from raggedrt.cli.console import set_quiet, set_verbose

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="model directory, Hub id org/name, package.module:factory, .onnx file or .pt2 program",
        show_default=False,
    ),
]
Task = Annotated[str, typer.Option(help="task head to export; auto follows the model's config")]
Target = Annotated[str, typer.Option(help="where the model will run: see `raggedrt list targets`")]
Io = Annotated[
    str | None,
    typer.Option(help="padded (drop-in) or ragged inputs and outputs  [default: by target]", show_default=False),
]
Dtype = Annotated[str, typer.Option(help="element type of weights and activations: fp32, fp16 or bf16")]
Features = Annotated[str, typer.Option(help="auto, or required features: pack,sparse,fuse")]
Opset = Annotated[int, typer.Option(help="ONNX opset to export")]
OptShapes = Annotated[
    str | None, typer.Option(help="typical shapes, NAME:1x128,…; densities are stated for them", show_default=False)
]
MinShapes = Annotated[str | None, typer.Option(help="least shapes of an engine, NAME:1x16,…", show_default=False)]
MaxShapes = Annotated[str | None, typer.Option(help="greatest shapes of an engine, NAME:32x512,…", show_default=False)]
Profiles = Annotated[
    pathlib.Path | None,
    typer.Option(metavar="FILE", help="YAML with several profiles of an engine, instead of shapes", show_default=False),
]
EngineLengths = Annotated[
    str | None,
    typer.Option(help="lengths an engine is for, instead: uniform(16,512), 12,40,128 or a file", show_default=False),
]
BatchSizes = Annotated[str | None, typer.Option(help="sequences per call an engine is for: 1,8,32", show_default=False)]
Buckets = Annotated[
    int | None, typer.Option(min=1, help="profiles to make from lengths  [default: 3]", show_default=False)
]
ComputeCapability = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="GPUs an engine is for  [default: here's, or 80,86,89,120]", show_default=False),
]
TimingCache = Annotated[
    pathlib.Path | None,
    typer.Option(metavar="FILE", help="where an engine's builder keeps measurements", show_default=False),
]
Plugins = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE", help="plugins of a TensorRT engine: beside it  [default] or serialized", show_default=False
    ),
]
VersionCompatible = Annotated[
    bool, typer.Option("--version-compatible", help="later versions of TensorRT run the engine too")
]
HardwareCompatibility = Annotated[
    str | None,
    typer.Option(
        metavar="LEVEL",
        help="GPUs a TensorRT engine is for beside this one: none, ampere+ or same-compute-capability",
        show_default=False,
    ),
]
EpContext = Annotated[
    bool, typer.Option("--ep-context", help="compile an engine with ONNX Runtime here (target ort-trt; needs its GPU)")
]
Sparsity = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="mask to impose on every attention: window(256), bigbird(block=64), …; needs --accept-approximation",
        show_default=False,
    ),
]
Plan = Annotated[
    pathlib.Path | None,
    typer.Option(metavar="FILE", help="YAML plan that says it site by site (rewrite --write-plan)", show_default=False),
]
AcceptApproximation = Annotated[
    bool, typer.Option("--accept-approximation", help="outputs may move; the report says how far")
]
Atol = Annotated[float | None, typer.Option(help="absolute tolerance  [default: by dtype]", show_default=False)]
Rtol = Annotated[float | None, typer.Option(help="relative tolerance  [default: by dtype]", show_default=False)]
Report = Annotated[
    pathlib.Path | None, typer.Option(metavar="FILE", help="also write the report as JSON", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="replace an existing output")]
MaskInput = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="input that says which slots hold tokens  [default: attention_mask, input_mask or mask]",
        show_default=False,
    ),
]
Prefill = Annotated[
    bool, typer.Option("--prefill", help="every call starts without a cache: leave out the inputs that hold one")
]
AllowPartial = Annotated[bool, typer.Option("--allow-partial", help="a feature that matched nothing is no error")]
Revision = Annotated[str | None, typer.Option(help="revision of a Hub model", show_default=False)]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="accept .bin and .pt2 sources, which can run code of their author")
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="threads of a session  [default: all cores]", show_default=False)
]
TrustBundle = Annotated[bool, typer.Option("--trust-bundle", help="load libraries that lie inside the bundle")]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", callback=set_verbose, is_eager=True, help="show details and tracebacks")
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", callback=set_quiet, is_eager=True, help="only warnings and errors")
]
