"""Which product builds for a target, which GPUs it builds for, and what an engine needs of the machine."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.bundle.manifest import EngineRecord, ShapeProfile
from raggedrt.plugins.contract.io_roles import Role, TensorRole
from raggedrt.plugins.native.plugin_library import OLDEST_TENSORRT
from raggedrt.plugins.runtime.cuda_device import CudaDevice, CudaState
from raggedrt.plugins.tensorrt import engine_file, flavour
from raggedrt.plugins.tensorrt.engine_file import (
    EngineFile,
    read_engine_file,
    require_runnable,
    side_file,
    write_engine_file,
)
from raggedrt.plugins.tensorrt.flavour import FLAVOURS, find_flavour, parse_capabilities, require_builder

pytestmark = pytest.mark.none
RTX, TRT = FLAVOURS["tensorrt-rtx"], FLAVOURS["tensorrt"]


def _record(**changes: Any) -> EngineRecord:
    shapes = {"x": (1, 4)}
    facts: dict[str, Any] = {
        "file": "model.plan",
        "target": "tensorrt-rtx",
        "builder": RTX.product,
        "builder_version": "1.7.1.116",
        "compute_capabilities": (80, 89),
        "profiles": (ShapeProfile(minimum=shapes, optimum=shapes, maximum=shapes),),
        "graph_sha256": "0" * 64,
    }
    return EngineRecord(**{**facts, **changes})


def _engine(folder: pathlib.Path) -> pathlib.Path:
    engine = folder / "model.plan"
    engine.write_bytes(b"vtrt" + b"\0" * 60)
    role = TensorRole("x", Role.OTHER, "float32", (1, 4))
    write_engine_file(engine, EngineFile.of(_record(), [role], [role], engine))
    return engine


def test_compute_capabilities_are_read_in_either_form() -> None:
    assert parse_capabilities(RTX, "80,8.9, 120,89") == (80, 89, 120)


@pytest.mark.parametrize(("text", "message"), [("9.0", "for 75, 80"), ("sm89", "expected numbers"), ("", "numbers")])
def test_other_capabilities_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_capabilities(RTX, text)


def test_the_default_is_the_gpu_present_where_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for present, wanted in (((), (80, 86, 89, 120)), ((90,), (80, 86, 89, 120)), ((89, 90), (89,))):
        monkeypatch.setattr(flavour, "gpu_capabilities", lambda present=present: present)
        assert parse_capabilities(RTX, None) == wanted


def test_tensorrt_builds_for_the_gpu_present_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavour, "gpu_capabilities", lambda: (90, 80))
    assert parse_capabilities(TRT, None) == (90,)
    assert parse_capabilities(TRT, "9.0") == (90,)
    with pytest.raises(InputError, match=r"--compute-capability 80: TensorRT builds for the GPU present alone.* 90"):
        parse_capabilities(TRT, "80")
    monkeypatch.setattr(flavour, "gpu_capabilities", tuple)
    with pytest.raises(TargetError, match="no NVIDIA GPU; build there, or use --target tensorrt-rtx"):
        parse_capabilities(TRT, None)
    with pytest.raises(InputError, match="expected numbers"):
        parse_capabilities(TRT, "sm_90")


@pytest.mark.parametrize(
    ("version", "message"),
    [(None, r"pip install 'raggedrt\[tensorrt\]'"), ("8.6.1", r"TensorRT 8\.6\.1 is installed, and 10\.7 or later")],
)
def test_a_builder_that_does_not_serve_is_exit_5(
    version: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flavour, "installed_version", lambda _: version)
    with pytest.raises(TargetError, match=message):
        require_builder(TRT)


def test_the_oldest_version_is_that_of_the_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TRT.oldest == OLDEST_TENSORRT
    for version in ("10.7.0", "10.16.1.11", "11.4.0.106"):
        monkeypatch.setattr(flavour, "installed_version", lambda _, version=version: version)
        assert require_builder(TRT) == version


def test_a_target_without_engines_is_a_usage_error() -> None:
    with pytest.raises(InputError, match=r"ort-cpu.*no engines.*tensorrt-rtx"):
        find_flavour("ort-cpu")


def test_a_missing_builder_is_exit_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavour, "installed_version", lambda _: None)
    with pytest.raises(TargetError, match=r"pip install 'raggedrt\[tensorrt-rtx\]'"):
        require_builder(RTX)


@pytest.mark.parametrize(
    ("installed", "gpus", "message"),
    [
        (None, (89,), "pip install"),
        ("1.8.0.1", (89,), "was built with TensorRT for RTX 1.7.1.116, and 1.8.0.1 is installed"),
        ("1.7.1.116", (), "needs an NVIDIA GPU of compute capability 80, 89"),
        ("1.7.1.116", (120,), "built for compute capability 80, 89, and the GPU here has 120"),
    ],
)
def test_an_engine_that_cannot_run_here_says_why(
    installed: str | None, gpus: tuple[int, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_file, "installed_version", lambda _: installed)
    monkeypatch.setattr(engine_file, "gpu_capabilities", lambda: gpus)
    with pytest.raises(TargetError, match=message):
        require_runnable(_record(), "model.plan")


def test_an_engine_for_this_gpu_and_version_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_file, "installed_version", lambda _: "1.7.1.116")
    monkeypatch.setattr(engine_file, "gpu_capabilities", lambda: (90, 89))
    require_runnable(_record(), "model.plan")


def _trt_record(**changes: Any) -> EngineRecord:
    facts = {
        "target": "tensorrt",
        "builder": TRT.product,
        "builder_version": "10.13.2.6",
        "compute_capabilities": (90,),
    }
    return _record(**{**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "installed", "gpus"),
    [
        ({}, "10.13.2.6", (90,)),
        ({}, "10.13.2.6.post1", (90,)),
        ({"version_compatible": True}, "10.16.1.11", (90,)),
        ({"hardware_compatibility": "ampere+"}, "10.13.2.6", (120,)),
        ({"hardware_compatibility": "same-compute-capability"}, "10.13.2.6", (90,)),
    ],
)
def test_compatible_engines_run_in_other_places_too(
    changes: dict[str, Any], installed: str, gpus: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_file, "installed_version", lambda _: installed)
    monkeypatch.setattr(engine_file, "gpu_capabilities", lambda: gpus)
    require_runnable(_trt_record(**changes), "model.plan")


@pytest.mark.parametrize(
    ("changes", "installed", "gpus", "message"),
    [
        ({}, "10.16.1.11", (90,), r"built with TensorRT 10\.13\.2\.6, and 10\.16\.1\.11 is installed"),
        ({"version_compatible": True}, "10.9.0.34", (90,), "a later one of the same major version"),
        ({"version_compatible": True}, "11.4.0.106", (90,), "a later one of the same major version"),
        ({"hardware_compatibility": "ampere+"}, "10.13.2.6", (75,), "for compute capability 80 or later, .* has 75"),
        ({"hardware_compatibility": "same-compute-capability"}, "10.13.2.6", (89,), "for compute capability 90"),
    ],
)
def test_engines_of_another_version_or_gpu_are_refused(
    changes: dict[str, Any], installed: str, gpus: tuple[int, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_file, "installed_version", lambda _: installed)
    monkeypatch.setattr(engine_file, "gpu_capabilities", lambda: gpus)
    with pytest.raises(TargetError, match=message):
        require_runnable(_trt_record(**changes), "model.plan")


def test_what_stands_beside_an_engine_comes_back(tmp_path: pathlib.Path) -> None:
    found = read_engine_file(_engine(tmp_path))
    assert found.engine == _record()
    assert found.inputs[0].tensor_role == TensorRole("x", Role.OTHER, "float32", (1, 4))


def test_an_engine_that_was_changed_or_has_nothing_beside_it_is_refused(tmp_path: pathlib.Path) -> None:
    engine = _engine(tmp_path)
    engine.write_bytes(b"vtrt" + b"\1" * 60)
    with pytest.raises(InputError, match=r"is not the engine that model\.plan\.json describes"):
        read_engine_file(engine)
    engine.write_bytes(b"PK\3\4" + b"\0" * 60)
    with pytest.raises(InputError, match="no TensorRT engine"):
        read_engine_file(engine)
    engine.write_bytes(b"vtrt" + b"\0" * 60)
    side_file(engine).write_text('{"surprise": 1}')
    with pytest.raises(InputError, match="not what `raggedrt build` writes"):
        read_engine_file(engine)
    side_file(engine).unlink()
    with pytest.raises(InputError, match=r"model\.plan\.json is missing"):
        read_engine_file(engine)
    with pytest.raises(InputError, match="no such file"):
        read_engine_file(tmp_path / "other.plan")


def test_without_its_tool_the_driver_is_asked_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (CudaDevice(0, "GPU", 89, 1, 1, 1), CudaDevice(1, "GPU", 89, 1, 1, 1), CudaDevice(2, "GPU", 120, 1, 1, 1))
    monkeypatch.setattr(flavour.shutil, "which", lambda name: None)
    monkeypatch.setattr(flavour, "cuda_state", lambda: CudaState((13, 0), found, None))
    assert flavour.gpu_capabilities() == (89, 120)
