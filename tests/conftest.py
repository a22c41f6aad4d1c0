"""Rules for every test: one marker saying what it needs, skips with a reason, no network, the same seeds each run."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import shutil
import socket
import subprocess
from collections import Counter
from functools import cache
from typing import Any

import pytest

from helpers.project import compiler
from raggedrt.errors import TargetError
from raggedrt.plugins.native.build import build_in_cache, find_ort_headers
from raggedrt.plugins.runtime.library import op_library_path
from raggedrt.plugins.tensorrt.flavour import FLAVOURS, installed_version

# Tests and the processes they start stay off the network; hub clients are told so before anything imports them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

NEEDS = ("none", "ort_cpu", "emulated", "cuda", "tensorrt")
OUTCOMES = ("passed", "failed", "error", "skipped")
NEEDS_KEY = pytest.StashKey[dict[str, str]]()


def _gpu_present() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0


@cache
def missing(need: str, product: str = "tensorrt-rtx") -> str | None:
    """Why tests of this need cannot run here, or None where they can; `product`: what `tensorrt` tests need."""
    if need == "ort_cpu" and importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed (pip install 'raggedrt[cpu]')"
    if need == "emulated" and compiler() is None:
        return "no C++ compiler was found (install g++)"
    if need == "cuda" and not _gpu_present():
        return "no CUDA GPU here (nvidia-smi lists none)"
    if need == "tensorrt" and installed_version(FLAVOURS[product]) is None:
        return f"{FLAVOURS[product].product} or Polygraphy is not installed (pip install 'raggedrt[{product}]')"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each test has exactly one need; those that cannot be met here become skips with a reason."""
    needs: dict[str, str] = {}
    wrong: list[str] = []
    for item in items:
        marks = [mark for need in NEEDS if (mark := item.get_closest_marker(need))]
        if len(marks) != 1:
            wrong.append(f"  {item.nodeid}: {', '.join(mark.name for mark in marks) or 'no marker'}")
            continue
        needs[item.nodeid] = marks[0].name
        if reason := missing(marks[0].name, *marks[0].args):
            item.add_marker(pytest.mark.skip(reason=reason))
    if wrong:
        raise pytest.UsageError(f"each test needs exactly one marker of {', '.join(NEEDS)}:\n" + "\n".join(wrong))
    config.stash[NEEDS_KEY] = needs


def _counts(terminal: Any, needs: dict[str, str]) -> Counter[tuple[str, str]]:
    """Number of tests per (need, outcome)."""
    return Counter(
        (needs[report.nodeid], outcome)
        for outcome in OUTCOMES
        for report in terminal.stats.get(outcome, [])
        if getattr(report, "nodeid", None) in needs
    )


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Print one line per tier, so that a tier that did not run is seen."""
    counts = _counts(terminalreporter, config.stash.get(NEEDS_KEY, {}))
    terminalreporter.section("tiers")
    for need in NEEDS:
        shown = ", ".join(f"{counts[need, outcome]} {outcome}" for outcome in OUTCOMES if counts[need, outcome])
        why = missing(need)
        terminalreporter.write_line(f"{need:9} {shown or 'no tests'}{f' ({why})' if why else ''}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A skipped emulated test is a failure where a compiler is present: that tier has no other excuse."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = _counts(terminal, session.config.stash.get(NEEDS_KEY, {}))["emulated", "skipped"] if terminal else 0
    if skipped and compiler() and exitstatus == pytest.ExitCode.OK:
        terminal.write_line(f"\n{skipped} emulated tests were skipped although there is a C++ compiler", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def op_library() -> pathlib.Path:
    """The op library of the present sources, built where it is missing; sources that do not compile are a failure."""
    try:
        return op_library_path()
    except TargetError:
        if compiler() is None or find_ort_headers() is None:
            pytest.skip("no op library, and no C++ compiler or ONNX Runtime headers to build it (raggedrt doctor)")
    return build_in_cache(obtain=False)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections that leave this machine."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and str(address[0]) not in ("127.0.0.1", "::1", "localhost"):
            raise ConnectionRefusedError(f"tests use no network; refused a connection to {address!r}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
