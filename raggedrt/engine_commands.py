"""The command lines that build and run an engine again without RaggedRT, profile by profile."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
from collections.abc import Iterable, Sequence

from raggedrt.engine_samples import LOADER_NAME, sample_name
from raggedrt.plugins.bundle.manifest import EngineRecord, ShapeProfile
from raggedrt.plugins.kernel_packs.lookup import FOLDERS_VARIABLE
from raggedrt.plugins.tensorrt.flavour import version_numbers
from raggedrt.plugins.tensorrt.job import HARDWARE_LEVELS

BOUNDS = (("min", "minimum"), ("opt", "optimum"), ("max", "maximum"))
PROGRAMS = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "trtexec"}
"""The product's own tool, by target; that of TensorRT for RTX takes trtexec's options."""
REBUILT = "../rebuilt.plan"
"""What builds write: beside the bundle, which no verb opens with an engine in it that its manifest does not list."""
VALUES = "onnxruntime_values.json"
HARDWARE_MODES = {"ampere+": "ampere+", "same-compute-capability": "sameComputeCapability"}
"""Levels of hardware compatibility as trtexec calls them; Polygraphy takes TensorRT's own names."""
ALWAYS_TYPED = 11
"""Major version of TensorRT from which networks are strongly typed without a flag."""


@dataclasses.dataclass(frozen=True)
class Files:
    """Files of an engine, relative to the folder that command lines are run in.

    Attributes:
        graph: what it was built from.
        native: what ONNX Runtime runs, the same model.
        plugins: library with the plugins that it calls; None: it calls none.
        registrar: library that registers these when it is opened, which is all that Polygraphy does.
        samples: folder that `write_samples` filled; None: tools make inputs up, which packed tokens are not made for.
    """

    graph: str
    native: str
    plugins: str | None = None
    registrar: str | None = None
    samples: str | None = None


def commands(engine: EngineRecord, files: Files) -> list[tuple[str, str]]:
    """What each command line does, and the command line."""
    program = PROGRAMS[engine.target]
    lines = [
        (f"build the engine with {program}, as {REBUILT}", shlex.join([program, *_trtexec_build(engine, files)])),
        (f"time it with {program}, at the best shapes of each profile", _trtexec_run(engine, program, files)),
    ]
    if not _serialized(engine):  # Polygraphy has no option for it
        lines.append(
            (f"build the engine with Polygraphy, as {REBUILT}", _polygraphy(engine, files, _convert(engine, files)))
        )
    values = "the sample inputs" if files.samples is not None else "the same random values"
    return [
        *lines,
        (
            f"compare engine and ONNX Runtime on {values} with Polygraphy",
            "\n".join(_polygraphy(engine, files, line) for line in _runs(engine, files)),
        ),
    ]


def script(engine: EngineRecord, files: Files) -> str:
    """The command lines as a shell script that only shows them: building twice by accident takes time."""
    lines = ["# Command lines for the engine in this folder, to run one by one in it."]
    for what, command in commands(engine, files):
        lines += ["", f"# {what}", *command.splitlines()]
    return "\n".join(lines) + "\n"


def _serialized(engine: EngineRecord) -> bool:
    return engine.plugins is not None and engine.plugins.serialized


def _trtexec_build(engine: EngineRecord, files: Files) -> Iterable[str]:
    yield f"--onnx={files.graph}"
    yield f"--saveEngine={REBUILT}"
    yield from _trtexec_plugins(engine, files, building=True)
    if engine.target == "tensorrt-rtx":
        yield f"--computeCapabilities={','.join(map(str, engine.compute_capabilities))}"
    else:
        yield "--noTF32"
        if version_numbers(engine.builder_version)[:1] < (ALWAYS_TYPED,):
            yield "--stronglyTyped"
    if engine.version_compatible:
        yield "--versionCompatible"
    if engine.hardware_compatibility in HARDWARE_MODES:
        yield f"--hardwareCompatibilityLevel={HARDWARE_MODES[engine.hardware_compatibility]}"
    for number, profile in enumerate(engine.profiles):
        if len(engine.profiles) > 1:
            yield f"--profile={number}"
        for short, bound in BOUNDS:
            shapes = getattr(profile, bound)
            yield f"--{short}Shapes=" + ",".join(f"{name}:{'x'.join(map(str, s))}" for name, s in shapes.items())
    yield "--profilingVerbosity=detailed"
    yield "--skipInference"


def _trtexec_plugins(engine: EngineRecord, files: Files, *, building: bool) -> Iterable[str]:
    """The library exports its creators, which TensorRT calls dynamic; an engine that has it inside needs none."""
    if files.plugins is None or (_serialized(engine) and not building):
        return
    yield f"--dynamicPlugins={files.plugins}"
    if _serialized(engine):
        yield f"--setPluginsToSerialize={files.plugins}"


def _trtexec_run(engine: EngineRecord, program: str, files: Files) -> str:
    lines = []
    for number, profile in enumerate(engine.profiles):
        shapes = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in profile.optimum.items())
        command = [program, f"--loadEngine={engine.file}", *_trtexec_plugins(engine, files, building=False)]
        if engine.version_compatible:
            command.append("--versionCompatible")
        command += [f"--useProfile={number}", f"--shapes={shapes}"]
        if files.samples is not None:
            values = ",".join(f"{name}:{files.samples}/{number}/{sample_name(name)}" for name in profile.optimum)
            command.append(f"--loadInputs={values}")
        lines.append(_kernels(engine, files) + shlex.join(command))
    return "\n".join(lines)


def _kernels(engine: EngineRecord, files: Files) -> str:
    """Where plugins inside of an engine look for kernel packs: they lie beside no library."""
    if files.plugins is None or not _serialized(engine):
        return ""
    return f"{FOLDERS_VARIABLE}={shlex.quote(pathlib.PurePosixPath(files.plugins).parent.as_posix())} "


def _polygraphy(engine: EngineRecord, files: Files, arguments: Iterable[str]) -> str:
    if engine.target == "tensorrt-rtx":
        return "POLYGRAPHY_USE_TENSORRT_RTX=1 " + shlex.join(["polygraphy", *arguments])
    if files.registrar is None or _serialized(engine):
        return _kernels(engine, files) + shlex.join(["polygraphy", *arguments])
    # Polygraphy opens plugin libraries before TensorRT, and they are registered where that is loaded already.
    program = ["python3", "-c", "import tensorrt; from polygraphy.tools import main; main()"]
    return shlex.join([*program, *arguments, "--plugins", files.registrar])


def _convert(engine: EngineRecord, files: Files) -> Iterable[str]:
    yield from ("convert", files.graph, "-o", REBUILT, "--strongly-typed", *_profiles(engine.profiles))
    if engine.target == "tensorrt-rtx":
        yield "--compute-capabilities"
        yield from (f"{number // 10}.{number % 10}" for number in engine.compute_capabilities)
    if engine.version_compatible:
        yield "--version-compatible"
    if engine.hardware_compatibility in HARDWARE_MODES:
        yield from ("--hardware-compatibility-level", HARDWARE_LEVELS[engine.hardware_compatibility].lower())


def _profiles(profiles: Sequence[ShapeProfile]) -> Iterable[str]:
    for profile in profiles:
        for short, bound in BOUNDS:
            yield f"--trt-{short}-shapes"
            yield from _shapes(getattr(profile, bound))


def _shapes(shapes: dict[str, tuple[int, ...]]) -> Iterable[str]:
    return (f"{name}:[{','.join(map(str, shape))}]" for name, shape in shapes.items())


def _runs(engine: EngineRecord, files: Files) -> Iterable[list[str]]:
    """Two runs, the second against what the first wrote: Polygraphy takes an engine as the only model of a run."""
    inputs = ["--input-shapes", *_shapes(engine.profiles[0].optimum)]
    if files.samples is not None:
        inputs += ["--data-loader-script", f"{files.samples}/{LOADER_NAME}"]
    yield ["run", files.native, "--onnxrt", *inputs, "--save-outputs", VALUES]
    yield ["run", engine.file, "--model-type", "engine", "--trt", *inputs, "--load-outputs", VALUES]
