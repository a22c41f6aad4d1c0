"""The command lines that build and run an engine again without RaggedRT, profile by profile."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from raggedrt.plugins.bundle.manifest import EngineRecord, ShapeProfile

BOUNDS = (("min", "minimum"), ("opt", "optimum"), ("max", "maximum"))
PROGRAMS = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "trtexec"}
"""The product's own tool, by target; that of TensorRT for RTX takes trtexec's options."""


def commands(engine: EngineRecord, graph: str, *, plugins: Sequence[str] = ()) -> list[tuple[str, str]]:
    """What each command line does, and the command line; paths are relative to the folder they are run in.

    Args:
        engine: the engine to build again.
        graph: its ONNX file.
        plugins: plugin libraries that it needs.
    """
    program = PROGRAMS[engine.target]
    return [
        (f"build the engine with {program}", shlex.join([program, *_trtexec_build(engine, graph, plugins)])),
        (f"time it with {program}, at the best shapes of each profile", _trtexec_run(engine, program, plugins)),
        ("build the engine with Polygraphy", _environment(engine) + shlex.join(_polygraphy(engine, graph, plugins))),
        (
            "compare engine and ONNX Runtime on the same random values with Polygraphy",
            _environment(engine) + shlex.join(_polygraphy_run(engine, graph, plugins)),
        ),
    ]


def script(engine: EngineRecord, graph: str, *, plugins: Sequence[str] = ()) -> str:
    """The command lines as a shell script that only shows them: building twice by accident takes time."""
    lines = ["# Command lines for the engine in this folder, to run one by one in it."]
    for what, command in commands(engine, graph, plugins=plugins):
        lines += ["", f"# {what}", *command.splitlines()]
    return "\n".join(lines) + "\n"


def _environment(engine: EngineRecord) -> str:
    return "POLYGRAPHY_USE_TENSORRT_RTX=1 " if engine.target == "tensorrt-rtx" else ""


def _trtexec_build(engine: EngineRecord, graph: str, plugins: Sequence[str]) -> Iterable[str]:
    yield f"--onnx={graph}"
    yield f"--saveEngine={engine.file}"
    yield from (f"--staticPlugins={path}" for path in plugins)
    if engine.target == "tensorrt-rtx":
        yield f"--computeCapabilities={','.join(map(str, engine.compute_capabilities))}"
    else:
        yield "--stronglyTyped"
    for number, profile in enumerate(engine.profiles):
        if len(engine.profiles) > 1:
            yield f"--profile={number}"
        for short, bound in BOUNDS:
            shapes = getattr(profile, bound)
            yield f"--{short}Shapes=" + ",".join(f"{name}:{'x'.join(map(str, s))}" for name, s in shapes.items())
    yield "--profilingVerbosity=detailed"
    yield "--skipInference"


def _trtexec_run(engine: EngineRecord, program: str, plugins: Sequence[str]) -> str:
    lines = []
    for number, profile in enumerate(engine.profiles):
        shapes = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in profile.optimum.items())
        command = [program, f"--loadEngine={engine.file}", *(f"--staticPlugins={path}" for path in plugins)]
        lines.append(shlex.join([*command, f"--useProfile={number}", f"--shapes={shapes}"]))
    return "\n".join(lines)


def _polygraphy(engine: EngineRecord, graph: str, plugins: Sequence[str]) -> Iterable[str]:
    yield from ("polygraphy", "convert", graph, "-o", engine.file, "--strongly-typed", *_profiles(engine.profiles))
    if engine.target == "tensorrt-rtx":
        yield "--compute-capabilities"
        yield from (f"{number // 10}.{number % 10}" for number in engine.compute_capabilities)
    if plugins:
        yield from ("--plugins", *plugins)


def _profiles(profiles: Sequence[ShapeProfile]) -> Iterable[str]:
    for profile in profiles:
        for short, bound in BOUNDS:
            yield f"--trt-{short}-shapes"
            yield from _shapes(getattr(profile, bound))


def _shapes(shapes: dict[str, tuple[int, ...]]) -> Iterable[str]:
    return (f"{name}:[{','.join(map(str, shape))}]" for name, shape in shapes.items())


def _polygraphy_run(engine: EngineRecord, graph: str, plugins: Sequence[str]) -> Iterable[str]:
    yield from ("polygraphy", "run", graph, "--onnxrt", "--trt", "--load-engine", engine.file)
    yield from ("--strongly-typed", "--input-shapes", *_shapes(engine.profiles[0].optimum))
    if plugins:
        yield from ("--plugins", *plugins)
