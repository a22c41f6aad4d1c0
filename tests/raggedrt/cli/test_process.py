"""What only a process of its own shows: start-up time, loaded modules, signals, a closed pipe, a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.none

HEAVY = ("torch", "transformers", "onnxruntime", "onnx", "onnxscript", "numpy")


def python(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_import_is_light_and_quick() -> None:
    code = (
        "import time; start = time.perf_counter(); import raggedrt; took = time.perf_counter() - start; import sys; "
        f"print(took, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    runs = [python(code).stdout.split(" ", 1) for _ in range(3)]
    assert min(float(took) for took, _ in runs) < 0.5
    assert all(loaded.strip() == "[]" for _, loaded in runs)


def test_every_public_name_resolves() -> None:
    done = python("import raggedrt\nfor name in raggedrt.__all__: assert getattr(raggedrt, name) is not None, name")
    assert done.returncode == 0, done.stderr


def test_export_stays_callable_whatever_was_imported_before() -> None:
    done = python("import raggedrt.export.torch_to_onnx, raggedrt; raggedrt.export('/no/such', '/tmp/x.onnx')")
    assert "InputError" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_removes_temporary_files(number: signal.Signals, code: int, tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib; import raggedrt.cli, raggedrt.listing, raggedrt.outputs\n"
        "def slow():\n"
        f"    with raggedrt.outputs.staged(pathlib.Path({str(tmp_path / 'out.onnx')!r})) as path:\n"
        "        path.write_bytes(b'x'); print('ready', flush=True); time.sleep(60)\n"
        "raggedrt.listing.REGISTRIES['slow'] = slow\n"
        "sys.exit(raggedrt.cli.main(['list', 'slow']))"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    assert list(tmp_path.iterdir())
    os.kill(child.pid, number)
    _, error = child.communicate(timeout=20)
    assert child.returncode == code
    assert not list(tmp_path.iterdir())
    assert "Traceback" not in error


def test_a_closed_pipe_is_no_noise() -> None:
    command = f"{sys.executable} -m raggedrt list ops | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_help_is_quick() -> None:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "raggedrt", "convert", "--help"], capture_output=True, check=False)
    assert done.returncode == 0
    assert time.perf_counter() - started < 3
