"""`doctor`: facts first, then what each target needs."""

from __future__ import annotations

import json
import pathlib
import platform

import pytest

import raggedrt
from raggedrt.cli import main
from raggedrt.plugins.kernel_packs import lookup
from raggedrt.plugins.tensorrt import flavour, libraries
from raggedrt.plugins.tensorrt.libraries import PLUGINS_VARIABLE
from raggedrt.targets import TARGETS

pytestmark = pytest.mark.none


def test_facts_and_one_row_per_target() -> None:
    found = raggedrt.doctor()
    facts = dict(found.facts)
    assert platform.python_version() in facts["Python"]
    assert {"CPU", "SIMD", "GPU driver", "op library", "C++ compiler", "ONNX Runtime headers"} <= set(facts)
    assert [row[0] for row in found.targets] == [target.name for target in TARGETS]
    assert all((ready == "yes") or missing for _, ready, missing in found.targets)


def test_the_cuda_row_says_what_running_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGGEDRT_CUDA_DRIVER", "/nowhere/libcuda.so.1")
    found = raggedrt.doctor()
    assert dict(found.facts)["CUDA devices"] == "none"
    assert "driver is not installed" in dict(found.facts)["CUDA driver"]
    row = next(row for row in found.targets if row[0] == "ort-cuda")
    assert row[1] == "no" or "does not run: the NVIDIA driver is not installed" in row[2]


def test_the_tensorrt_row_says_all_that_building_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, str(tmp_path))
    monkeypatch.setattr(libraries, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(lookup, "pack_cache", lambda: tmp_path)
    monkeypatch.setattr(flavour, "gpu_capabilities", tuple)
    monkeypatch.setattr(flavour, "installed_version", lambda _: "10.13.2.6")

    def row() -> tuple[str, str, str]:
        return next(row for row in raggedrt.doctor().targets if row[0] == "tensorrt")

    assert row()[1] == "no"
    assert "no TensorRT plugins for TensorRT 10 were found" in row()[2]
    assert "this machine has no NVIDIA GPU" in row()[2]
    monkeypatch.setattr(flavour, "gpu_capabilities", lambda: (90,))
    assert "there is no kernel pack for compute capability 9.0" in row()[2]
    monkeypatch.setattr(flavour, "installed_version", lambda _: "8.6.1")
    assert "TensorRT 8.6.1 is installed, and 10.7 or later is needed" in row()[2]


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["facts"]["RaggedRT"] == raggedrt.__version__


def test_a_library_that_cannot_be_built_is_exit_5(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}/cache")  # a library that is current is not built again
    monkeypatch.setenv("ORT_INCLUDE_DIR", str(tmp_path))
    assert main(["doctor", "--build-ops"]) == 5
    assert "ORT_INCLUDE_DIR" in capsys.readouterr().err
