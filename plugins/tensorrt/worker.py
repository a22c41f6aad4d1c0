"""The process that builds one engine: `python -m raggedrt.plugins.tensorrt.worker JOB.json`.

The builder is native code that may need all memory, abort, or not stop when it is asked to. In a process of its own
none of that reaches the caller, and what it used is known exactly. Standard output carries one JSON object per line.
"""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import resource
import sys
import time
from collections import defaultdict
from typing import Any

from raggedrt.plugins.tensorrt.engine_log import is_engine_text, layers_of, tensors_of
from raggedrt.plugins.tensorrt.job import HARDWARE_LEVELS, EngineJob

EXIT_REPORTED = 3
"""Exit status after an event `failed` that says everything."""
OUT_OF_MEMORY = ("out of memory", "bad_alloc", "outofmemory", "resource temporarily unavailable")
"""What errors say that mean it; the last one when there is no room for the stack of another thread."""
REPORT_SECONDS = 0.5
"""Least time between two reports of the builder's progress."""


class Stop(Exception):  # noqa: N818 - it ends the process with what was found, it is no fault of the program
    """The engine cannot be built; the event that says why."""

    def __init__(self, kind: str, **facts: Any) -> None:
        super().__init__(kind)
        self.event = {"event": "failed", "kind": kind, **facts}


def main(path: str) -> int:
    """Build what the job file at `path` says."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print; the events stay clean

    def send(event: dict[str, Any]) -> None:
        out.write(json.dumps(event) + "\n")

    job = EngineJob.from_json(pathlib.Path(path).read_text(encoding="utf-8"))
    try:
        send({"event": "done", **_build(job, send)})
    except Stop as stop:
        send(stop.event)
        return EXIT_REPORTED
    except MemoryError:
        send({"event": "failed", "kind": "memory", "messages": []})
        return EXIT_REPORTED
    except OSError as error:
        send({"event": "failed", "kind": "files", "messages": [os.strerror(error.errno or 0)]})
        return EXIT_REPORTED
    return 0


def _build(job: EngineJob, send: Any) -> dict[str, Any]:
    from polygraphy.backend.trt import Profile, engine_bytes_from_network

    trt: Any = importlib.import_module("tensorrt_rtx" if job.target == "tensorrt-rtx" else "tensorrt")
    log = _logger(trt)
    began = time.monotonic()
    builder = trt.Builder(log)
    registry = _load_plugins(trt, job, builder, log)
    network = builder.create_network(_strongly_typed(trt))
    parser = _parse(trt, job, network, registry, log)
    parsed = time.monotonic()
    profiles = [Profile() for _ in job.profiles]
    for profile, shapes in zip(profiles, job.profiles, strict=True):
        for name, (low, best, high) in shapes.items():
            profile.add(name, min=low, opt=best, max=high)
    try:
        config = _config(trt, job, builder, network, profiles, _monitor(trt, send))
        engine = engine_bytes_from_network((builder, network, parser), config, save_timing_cache=job.timing_cache)
    except Exception as error:  # noqa: BLE001 - Polygraphy raises its own kind, with all that the builder logged
        kind = "memory" if _is_memory(log.messages) else "builder"
        raise Stop(kind, messages=log.messages or [str(error).splitlines()[0]]) from None
    pathlib.Path(job.engine).write_bytes(engine)
    layers, inspected = _layers(trt, job, log, engine, network)
    pathlib.Path(job.layers).write_text(json.dumps(layers, indent=1) + "\n", encoding="utf-8")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "builder_version": trt.__version__,
        "parse_seconds": parsed - began,
        "build_seconds": time.monotonic() - parsed,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_memory_bytes": _peak_memory(),
        "device_memory_bytes": log.device_memory,
        "inspected": inspected,
        "tensors": _tensors(trt, network),
        "engine_tensors": tensors_of(log.engine_text),
    }


def _peak_memory() -> int:
    """Bytes of main memory that this process held at most; the usage of resources would count its parent's too."""
    lines = pathlib.Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _logger(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps errors, and what the builder says of the engine."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []
            self.device_memory: int | None = None
            self.engine_text = ""

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.messages.append(text)
            if is_engine_text(text):
                self.engine_text = text
            head, _, rest = text.partition("Total Activation Memory: ")
            if not head and rest.partition(" ")[0].isdigit():
                self.device_memory = int(rest.partition(" ")[0])

    return Log()


def _strongly_typed(trt: Any) -> int:
    # Newer products know nothing else, and some have dropped the flag.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _load_plugins(trt: Any, job: EngineJob, builder: Any, log: Any) -> Any:
    """The registry with our plugins, None where none are needed.

    What is to be serialised goes into the builder's registry, as TensorRT wants it; else the one of the process serves,
    where the engine finds the plugins too when it is inspected.
    """
    if job.target != "tensorrt-rtx":
        trt.init_libnvinfer_plugins(log, "")  # of these the parser makes some standard ops, such as NonZero
    if job.plugins is None:
        return None
    registry = builder.get_plugin_registry() if job.serialize_plugins else trt.get_plugin_registry()
    if registry.load_library(job.plugins) is None:
        raise Stop("plugins", library=job.plugins, messages=log.messages)
    return registry


def _is_plugin(registry: Any, node: Any) -> bool:
    """Whether a node is in plugin form and there is a creator for it."""
    named = {a.name: a.s.decode() for a in node.attribute if a.name in ("plugin_namespace", "plugin_version")}
    if registry is None or len(named) < 2:
        return False
    return registry.get_creator(node.op_type, named["plugin_version"], named["plugin_namespace"]) is not None


def _parse(trt: Any, job: EngineJob, network: Any, registry: Any, log: Any) -> Any:
    """Parse the graph; every op that cannot be taken is found before the build starts."""
    import onnx

    parser = trt.OnnxParser(network, log)
    nodes = onnx.load(job.onnx, load_external_data=False).graph.node
    refused: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        name = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        if _is_plugin(registry, node):
            continue
        if name in job.lacks or not parser.supports_operator(node.op_type) or "." in name:
            refused[name].append(node.name or next(iter(node.output), ""))
    if refused:
        raise Stop("ops", ops=dict(refused))
    if not parser.parse_from_file(job.onnx):
        errors = [parser.get_error(number) for number in range(parser.num_errors)]
        raise Stop("parser", messages=[f"{e.node_name()} ({e.node_operator()}): {e.desc()}" for e in errors])
    return parser


def _config(trt: Any, job: EngineJob, builder: Any, network: Any, profiles: Any, monitor: Any) -> Any:
    common = {
        "profiles": profiles,
        "progress_monitor": monitor,
        "profiling_verbosity": trt.ProfilingVerbosity.DETAILED,
        "load_timing_cache": job.timing_cache if job.timing_cache and os.path.exists(job.timing_cache) else None,
    }
    if job.target == "tensorrt-rtx":
        from polygraphy.backend.tensorrt_rtx import create_config_rtx

        pairs = [divmod(number, 10) for number in job.capabilities]
        return create_config_rtx(builder, network, compute_capabilities=pairs, **common)
    from polygraphy.backend.trt import create_config

    level = getattr(trt.HardwareCompatibilityLevel, HARDWARE_LEVELS[job.hardware_compatibility])
    common |= {"version_compatible": job.version_compatible, "hardware_compatibility_level": level}
    config = create_config(builder, network, **common)  # without TF32, which would round float32 products
    if job.serialize_plugins:
        config.plugins_to_serialize = [job.plugins]
    return config


def _monitor(trt: Any, send: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """The builder's phases; only the outermost ones are announced, at most two a second."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, tuple[str | None, int]] = {}
            self.shown = 0.0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.phases[name] = (parent, steps)
            self.report(name, 0)

        def phase_finish(self, name: str) -> None:
            self.phases.pop(name, None)

        def step_complete(self, name: str, step: int) -> bool:
            self.report(name, step + 1)
            return True

        def report(self, name: str, step: int) -> None:
            now = time.monotonic()
            if now - self.shown >= REPORT_SECONDS:
                self.shown = now
                send({"event": "phase", "name": name, "step": step, "steps": self.phases.get(name, (None, 0))[1]})

    return Monitor()


def _is_memory(messages: list[str]) -> bool:
    return any(word in text.lower() for text in messages for word in OUT_OF_MEMORY)


def _layers(trt: Any, job: EngineJob, log: Any, engine: bytes, network: Any) -> tuple[dict[str, Any], bool]:
    """What the engine's inspector says; without a GPU it cannot load the engine, but the builder may have said it.

    Else the network's layers serve, which are not those of the engine.
    """
    known = len(log.messages)
    runtime = trt.Runtime(log)
    if job.version_compatible:
        runtime.engine_host_code_allowed = True  # such an engine brings its runtime along
    loaded = runtime.deserialize_cuda_engine(engine)
    del log.messages[known:]
    if loaded is not None:
        text = loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        return json.loads(text), True
    if log.engine_text:
        return {"Layers": layers_of(log.engine_text)}, True
    return {"Layers": [_layer(network.get_layer(number)) for number in range(network.num_layers)]}, False


def _layer(layer: Any) -> dict[str, Any]:
    inputs = [layer.get_input(number) for number in range(layer.num_inputs)]
    outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
    return {
        "Name": layer.name,
        "LayerType": layer.type.name,
        "Inputs": [_tensor(tensor) for tensor in inputs if tensor is not None],
        "Outputs": [_tensor(tensor) for tensor in outputs if tensor is not None],
    }


def _tensor(tensor: Any) -> dict[str, Any]:
    try:
        shape: list[int] | None = list(tensor.shape)
    except ValueError:  # the rank is known on the device only
        shape = None
    return {"Name": tensor.name, "Dimensions": shape, "Format/Datatype": tensor.dtype.name}


def _tensors(trt: Any, network: Any) -> dict[str, list[dict[str, Any]]]:
    sides = {"inputs": (network.num_inputs, network.get_input), "outputs": (network.num_outputs, network.get_output)}
    return {side: [_tensor(get(number)) for number in range(count)] for side, (count, get) in sides.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
