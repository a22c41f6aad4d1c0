"""`--target tensorrt` as far as a machine without TensorRT goes: what is refused and why, and what is shipped."""

from __future__ import annotations

import pathlib
import tarfile

import numpy as np
import pytest

import raggedrt
from helpers.engine_bundles import PLAN, VERSION, engine_bundle, plugin_record
from helpers.plugin_folders import plugins_in
from helpers.provider_bundles import toy_profile
from helpers.text_proto import parse_text_proto
from raggedrt.cli import main
from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.bundle.reader import open_bundle
from raggedrt.plugins.contract.abi import ABI_VERSION
from raggedrt.plugins.kernel_packs import lookup
from raggedrt.plugins.kernel_packs.pack_file import pack_name
from raggedrt.plugins.native.plugin_library import PLUGIN_LIBRARY_NAME
from raggedrt.plugins.native.plugin_registrar import REGISTRAR_NAME
from raggedrt.plugins.tensorrt import engine_file, flavour, libraries
from raggedrt.plugins.tensorrt.libraries import PLUGINS_VARIABLE
from raggedrt.plugins.tensorrt.profiles import Sizes

pytestmark = pytest.mark.ort_cpu
ROWS = [np.array([5, 6, 7]), np.array([11])]
SHAPES = ["--min-shapes", "input_ids:1x1", "--max-shapes", "input_ids:4x16"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> pytest.MonkeyPatch:
    """A machine that claims TensorRT and a GPU of compute capability 9.0, and has neither plugins nor packs."""
    for module in (flavour, engine_file):
        monkeypatch.setattr(module, "installed_version", lambda _: VERSION)
        monkeypatch.setattr(module, "gpu_capabilities", lambda: (90,))
    monkeypatch.setenv(PLUGINS_VARIABLE, str(tmp_path / "plugins"))
    monkeypatch.setattr(libraries, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(lookup, "pack_cache", lambda: tmp_path / "cache")
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path / "nothing"))
    return monkeypatch


def test_without_the_builder_nothing_is_begun(
    tiny_onnx: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flavour, "installed_version", lambda _: None)
    for verb, name in (("convert", "out"), ("build", "out.plan")):
        assert main([verb, str(tiny_onnx), "-o", str(tmp_path / name), "--target", "tensorrt"]) == 5
        assert "pip install 'raggedrt[tensorrt]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_a_gpu_nothing_is_begun(
    tiny_onnx: pathlib.Path, tmp_path: pathlib.Path, machine: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.setattr(flavour, "gpu_capabilities", tuple)
    assert main(["convert", str(tiny_onnx), "-o", str(tmp_path / "out"), "--target", "tensorrt"]) == 5
    assert "builds engines on the GPU that they are for" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("tensorrt", ["--plugins", "inside"], "choose one of beside, serialized"),
        ("tensorrt", ["--plugins", "serialized"], "add --version-compatible"),
        ("tensorrt", ["--hardware-compatibility", "hopper"], "choose one of none, ampere+"),
        ("tensorrt", ["--compute-capability", "80"], "for the GPU present alone, which has 90"),
        ("tensorrt-rtx", ["--version-compatible"], "engines of target tensorrt-rtx leave no such choice"),
        ("ort-cpu", ["--plugins", "beside"], "target ort-cpu has none; the targets that take it are tensorrt\n"),
        ("ort-trt", ["--version-compatible"], "engines of tensorrt leave a choice"),
    ],
)
def test_options_that_do_not_fit_are_exit_2(
    target: str,
    options: list[str],
    message: str,
    machine: pytest.MonkeyPatch,
    tiny_onnx: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["convert", str(tiny_onnx), "-o", str(tmp_path / "out"), "--target", target, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_plugins_end_a_conversion_before_the_build(
    tiny_onnx: pathlib.Path, tmp_path: pathlib.Path, machine: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(tiny_onnx), "-o", str(tmp_path / "out"), "--target", "tensorrt", *SHAPES, "-q"]
    assert main(arguments) == 5
    assert "no TensorRT plugins for TensorRT 10 were found" in capsys.readouterr().err
    folder = plugins_in(tmp_path / "plugins", creators={"RaggedAttention": 2**32 - 1})
    assert main(arguments) == 5
    assert "there is no kernel pack for compute capability 9.0" in capsys.readouterr().err
    (folder / pack_name(90)).touch()
    assert main(arguments) == 5
    assert "AttentionPlan" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["plugins"]


def test_the_builders_process_is_reached_and_its_failure_leaves_nothing(
    tiny_onnx: pathlib.Path, tmp_path: pathlib.Path, machine: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything before it was done: passes, verification, plugin form, profiles, checks of plugins and packs."""
    creators = dict.fromkeys(("RaggedAttention", "AttentionPlan", "PackTokens"), 2**32 - 1)
    folder = plugins_in(tmp_path / "plugins", creators=creators)
    (folder / pack_name(90)).touch()
    (tmp_path / "hidden" / "tensorrt").mkdir(parents=True)
    (tmp_path / "hidden" / "tensorrt" / "__init__.py").write_text("raise ImportError('no TensorRT in this test')\n")
    machine.setenv("PYTHONPATH", str(tmp_path / "hidden"))
    for verb, name in (("convert", "out"), ("build", "out.plan")):
        arguments = [verb, str(tiny_onnx), "-o", str(tmp_path / name), "--target", "tensorrt", *SHAPES, "-q"]
        assert main(arguments) == 5
        assert "no TensorRT in this test" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hidden", "plugins"]


@pytest.mark.parametrize(
    ("installed", "gpus", "changes", "message"),
    [
        (None, (90,), {}, r"pip install 'raggedrt\[tensorrt\]'"),
        ("10.16.1.11", (90,), {}, r"was built with TensorRT 10\.13\.2\.6, and 10\.16\.1\.11 is installed"),
        (VERSION, (), {}, "needs an NVIDIA GPU of compute capability 90"),
        (VERSION, (89,), {}, "built for compute capability 90, and the GPU here has 89"),
        (VERSION, (90,), {}, "--trust-bundle"),
    ],
)
def test_a_session_says_why_it_does_not_run_an_engine(
    installed: str | None,
    gpus: tuple[int, ...],
    changes: dict[str, object],
    message: str,
    machine: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
) -> None:
    bundle = engine_bundle(tmp_path / "bundle", **changes)
    machine.setattr(engine_file, "installed_version", lambda _: installed)
    machine.setattr(engine_file, "gpu_capabilities", lambda: gpus)
    with pytest.raises(TargetError, match=message):
        raggedrt.Session(bundle)
    native = raggedrt.Session(bundle, providers=["CPUExecutionProvider"])
    assert [len(rows) for rows in native.run({"input_ids": ROWS})["hidden"]] == [3, 1]


def test_run_and_bench_without_the_device_are_exit_5(
    tmp_path: pathlib.Path, machine: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = engine_bundle(tmp_path / "bundle")
    machine.setattr(engine_file, "gpu_capabilities", tuple)
    np.savez(tmp_path / "in.npz", input_ids=np.array([[5, 6]]), attention_mask=np.ones((1, 2), np.int64))
    arguments = ["run", str(bundle.path), "--inputs", str(tmp_path / "in.npz"), "-o", str(tmp_path / "out.npz")]
    assert main(arguments) == 5
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()
    assert main(["bench", str(bundle.path)]) in (2, 5)
    assert main(["inspect", str(bundle.path)]) == 0
    told = capsys.readouterr().out
    assert "does not run here" in told
    assert f"plugins to be loaded before it: RaggedAttention (version 0.1.0, ABI {ABI_VERSION})" in told


def test_a_shipped_engine_brings_its_plugins(
    machine: pytest.MonkeyPatch, op_library: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = engine_bundle(tmp_path / "bundle")
    with pytest.raises(TargetError, match="no TensorRT plugins"):
        raggedrt.ship(bundle.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    folder = plugins_in(tmp_path / "plugins")
    shipment = raggedrt.ship(bundle.path, tmp_path / "out")
    assert {PLUGIN_LIBRARY_NAME, REGISTRAR_NAME} <= set(shipment.libraries)
    assert any("no kernel packs were found, so no call of the engine succeeds" in note for note in shipment.notes)
    opened = open_bundle(tmp_path / "out", verify=True)
    assert (opened.path / "lib" / PLUGIN_LIBRARY_NAME).read_bytes() == (folder / PLUGIN_LIBRARY_NAME).read_bytes()
    assert opened.manifest.plugin_model == "model.trt.onnx"
    text = (opened.path / "engine_commands.txt").read_text()
    assert "trtexec --onnx=model.trt.onnx --saveEngine=" in text
    assert f"--dynamicPlugins=lib/{PLUGIN_LIBRARY_NAME}" in text
    assert "--loadInputs=input_ids:engine_inputs/0/input_ids.bin" in text
    raggedrt.ship(tmp_path / "out", tmp_path / "again")
    raggedrt.ship(tmp_path / "out", tmp_path / "again.tar", format="tar")
    with tarfile.open(tmp_path / "again.tar") as archive:
        names = archive.getnames()
    assert {f"again/{PLAN}", f"again/lib/{PLUGIN_LIBRARY_NAME}", "again/model.trt.onnx"} <= set(names)


def test_triton_is_told_where_the_plugins_are(
    machine: pytest.MonkeyPatch, op_library: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    plugins_in(tmp_path / "plugins")
    bundle = engine_bundle(tmp_path / "bundle")
    shipment = raggedrt.ship(bundle.path, tmp_path / "models", format="triton", server_path="/models")
    option = f"--backend-config=tensorrt,plugins=/models/bundle/lib/{REGISTRAR_NAME}"
    assert f"start the server with {option}" in shipment.notes
    text = (shipment.path / "config.pbtxt").read_text()
    assert text.startswith(f"# Start the server with {option}\n")
    config = parse_text_proto(text)
    assert config["backend"] == ["tensorrt"]
    assert config["default_model_filename"] == ["model.plan"]
    assert config["max_batch_size"] == [4]
    assert "model_operations" not in config
    assert (shipment.path / "1" / "model.plan").read_bytes()[:4] == b"ptrt"
    assert (shipment.path / "lib" / PLUGIN_LIBRARY_NAME).is_file()


def test_triton_needs_no_library_for_an_engine_that_has_it_inside(
    machine: pytest.MonkeyPatch, op_library: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    plugins_in(tmp_path / "plugins")
    record = plugin_record(serialized=True)
    bundle = engine_bundle(tmp_path / "bundle", plugins=record, version_compatible=True)
    shipment = raggedrt.ship(bundle.path, tmp_path / "models", format="triton")
    packs, version = [note for note in shipment.notes if note.startswith("start the server")]
    assert version.endswith("--backend-config=tensorrt,version-compatible=true")
    assert packs == f"start the server with RAGGEDRT_KERNEL_PACKS={shipment.path}/lib in its environment"


def test_triton_takes_the_longest_sequence_for_a_limit_on_their_number(
    machine: pytest.MonkeyPatch, op_library: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Its TensorRT backend refuses a configuration with more requests than any input's first axis has places."""
    plugins_in(tmp_path / "plugins")
    profile = toy_profile("ragged", maximum=Sizes(16, 128, 8))
    bundle = engine_bundle(tmp_path / "bundle", profiles=(profile,))
    model = raggedrt.ship(bundle.path, tmp_path / "a", format="triton").path
    config = parse_text_proto((model / "config.pbtxt").read_text())
    assert config["max_batch_size"] == [8]
    with pytest.raises(InputError, match=r"longest sequence .* that is 8"):
        raggedrt.ship(bundle.path, tmp_path / "b", format="triton", max_batch_size=9)
    assert not (tmp_path / "b").exists()
