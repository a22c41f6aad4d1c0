"""Build an engine in a process of its own, and tell what became of it."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raggedrt.errors import InputError, RaggedRTError, TargetError
from raggedrt.plugins.tensorrt.flavour import Flavour
from raggedrt.plugins.tensorrt.job import EngineJob

LOGGER = logging.getLogger(__name__)
STOP_SECONDS = 10
MOST_NAMES = 5
"""Nodes of one op that a message names."""

Progress = Callable[[str, int, int], None]
"""Called with the builder's phase, the step that it is at, and how many steps it has."""


@dataclasses.dataclass(frozen=True)
class EngineFacts:
    """What a build took and gave.

    Attributes:
        builder_version: of the product that built it.
        parse_seconds, build_seconds: wall time; `cpu_seconds`: of all cores, from the start of the process.
        plan_bytes: size of the engine.
        peak_memory_bytes: most main memory that the building process held.
        device_memory_bytes: activations at the greatest profile, as the builder says; None where it does not.
        inspected: whether the layers are those of the engine; where nobody tells these, they are the network's.
        tensors: inputs and outputs as the network has them.
        engine_tensors: the same of the engine with its profiles, as `engine_log.tensors_of` reads them; empty where the
            builder does not tell.
    """

    builder_version: str
    parse_seconds: float
    build_seconds: float
    cpu_seconds: float
    plan_bytes: int
    peak_memory_bytes: int
    device_memory_bytes: int | None
    inspected: bool
    tensors: Mapping[str, Sequence[Mapping[str, Any]]]
    engine_tensors: Sequence[Mapping[str, Any]] = ()


def build_engine(job: EngineJob, flavour: Flavour, where: str, progress: Progress | None = None) -> EngineFacts:
    """Build what `job` says; `where` names the model in errors.

    Raises:
        InputError: the graph has ops that the product lacks (all are listed), or its parser refuses it.
        RaggedRTError: the builder failed, for example for want of memory.
        TargetError: the builder does not start.
    """
    with tempfile.TemporaryDirectory(prefix="raggedrt-engine-") as folder:
        job_file, log = pathlib.Path(folder) / "job.json", pathlib.Path(folder) / "log.txt"
        job_file.write_text(job.to_json(), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "raggedrt.plugins.tensorrt.worker", str(job_file)]
        environment = {**os.environ, **flavour.environment}
        with (
            log.open("w", encoding="utf-8") as errors,
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                text=True,
                env=environment,
                start_new_session=True,  # an interrupt reaches this process alone, which then stops the builder
            ) as process,
        ):
            try:
                last = _follow(process, progress)
                status = process.wait()
            except BaseException:
                _stop(process)
                raise
        shown = log.read_text(encoding="utf-8", errors="replace")
        if shown:
            LOGGER.debug("the builder said:\n%s", shown)
        if last.get("event") != "done":
            raise _failure(last, status, shown, flavour, where)
        facts = {field.name: last[field.name] for field in dataclasses.fields(EngineFacts) if field.name in last}
        return EngineFacts(plan_bytes=pathlib.Path(job.engine).stat().st_size, **facts)


def _follow(process: subprocess.Popen[str], progress: Progress | None) -> dict[str, Any]:
    """Hand on progress until the process closes its output; returns the last event that is none."""
    last: dict[str, Any] = {}
    for line in process.stdout or ():
        event = json.loads(line)
        if event["event"] != "phase":
            last = event
        elif progress is not None:
            progress(event["name"], event["step"], event["steps"])
    return last


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _failure(last: Mapping[str, Any], status: int, log: str, flavour: Flavour, where: str) -> RaggedRTError:
    said = "; ".join(dict.fromkeys(text.strip() for text in last.get("messages", ()) if text.strip()))
    kind = last.get("kind")
    if kind == "ops":
        return InputError(f"{where}: {flavour.product} lacks {_ops_text(last['ops'], flavour)}")
    if kind == "plugins":
        return TargetError(
            f"{where}: {flavour.product} does not take the plugins of {last['library']} ({said or 'it says no more'}); "
            "they have to be built with headers of its major version: raggedrt doctor --build-plugins"
        )
    if kind == "parser":
        return InputError(f"{where}: the parser of {flavour.product} refuses the graph: {said}")
    if kind == "memory" or -status == signal.SIGKILL:
        return RaggedRTError(
            f"{where}: the builder of {flavour.product} ran out of memory ({said or 'it was killed'}); nothing was "
            "written. Free memory, or build for fewer and smaller shapes (--max-shapes, --lengths, --batch-sizes)"
        )
    if kind == "files":
        return RaggedRTError(
            f"{where}: the engine cannot be written ({said}); nothing was kept. Free space in the folder of the output "
            f"and in {tempfile.gettempdir()}, or choose others (-o, TMPDIR)"
        )
    tail = " / ".join(log.strip().splitlines()[-3:])
    if kind == "builder" and "violate shape constraints" in said:
        return InputError(
            f"{where}: a profile has shapes that the graph does not admit ({said}); a sequence may be longer than the "
            "model has positions, which an ONNX file does not say: give --max-shapes or --lengths within them"
        )
    if kind == "builder":
        return RaggedRTError(f"{where}: the builder of {flavour.product} failed: {said}; nothing was written")
    if "ModuleNotFoundError" in tail or "ImportError" in tail:
        return TargetError(
            f"the builder of {flavour.product} does not start ({tail}); pip install 'raggedrt[{flavour.extra}]'"
        )
    ended = signal.Signals(-status).name if status < 0 else f"status {status}"
    return RaggedRTError(
        f"{where}: the building process of {flavour.product} ended with {ended} ({tail or 'it said nothing'}); nothing "
        "was written"
    )


def _ops_text(ops: Mapping[str, Sequence[str]], flavour: Flavour) -> str:
    parts = []
    for name, nodes in ops.items():
        shown = ", ".join(repr(node) for node in nodes[:MOST_NAMES])
        more = f" and {len(nodes) - MOST_NAMES} more" if len(nodes) > MOST_NAMES else ""
        reason = f": {flavour.lacks[name]}" if name in flavour.lacks else ""
        parts.append(f"the op {name} (nodes {shown}{more}){reason}")
    hint = (
        ". It has fusions for ONNX Runtime: convert the source with this target"
        if any(name.startswith("com.microsoft.") for name in ops)
        else ""
    )
    return "; ".join(parts) + hint
