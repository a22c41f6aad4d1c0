"""`ship`: what arrives is whole and runs, in Python and in C++ without it."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import numpy as np
import onnxruntime
import pytest

import raggedrt
from helpers.plugin_folders import plugins_in
from helpers.project import ROOT, compiler
from helpers.provider_bundles import CONTEXT, ENGINE, provider_bundle
from helpers.text_proto import parse_text_proto
from helpers.tolerances import Tolerance, assert_close
from raggedrt.cli import main
from raggedrt.errors import InputError
from raggedrt.plugins.native.build import find_ort_headers
from raggedrt.plugins.native.cache import LIBRARY_NAME
from raggedrt.plugins.native.plugin_library import PLUGIN_LIBRARY_NAME
from raggedrt.plugins.native.plugin_registrar import REGISTRAR_NAME
from raggedrt.plugins.tensorrt import libraries
from raggedrt.plugins.tensorrt.libraries import PLUGINS_VARIABLE

pytestmark = pytest.mark.ort_cpu
EXAMPLE = ROOT / "scripts" / "examples" / "run_bundle.cc"
ROWS = [[5, 6, 7, 8, 9], [11], [3, 2, 4]]


@pytest.fixture(scope="module")
def shipped(
    ragged_bundle: pathlib.Path, op_library: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    output = tmp_path_factory.mktemp("ship") / "shipped"
    assert main(["ship", str(ragged_bundle), "-o", str(output), "-q"]) == 0
    return output


def test_a_folder_is_a_bundle_with_its_library(
    shipped: pathlib.Path, ragged_bundle: pathlib.Path, op_library: pathlib.Path
) -> None:
    bundle = raggedrt.Session(shipped, trust_bundle=True).bundle
    assert [path.name for path in bundle.libraries] == [LIBRARY_NAME]
    assert (shipped / "lib" / LIBRARY_NAME).read_bytes() == op_library.read_bytes()
    before = raggedrt.Session(ragged_bundle).bundle.manifest
    assert bundle.manifest.model_copy(update={"files": before.files}) == before
    assert set(bundle.manifest.files) - set(before.files) == {f"lib/{LIBRARY_NAME}"}


def test_a_tar_file_is_the_same_every_time(
    ragged_bundle: pathlib.Path, shipped: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    archives = [tmp_path / folder / "minilm.tar.gz" for folder in ("a", "b")]
    for archive in archives:
        raggedrt.ship(ragged_bundle, archive, format="tar")
    assert archives[0].read_bytes() == archives[1].read_bytes()
    shutil.unpack_archive(archives[0], tmp_path)  # tarfile's filters are newer than the oldest Python that serves
    names = {path.relative_to(shipped) for path in shipped.rglob("*")}
    assert {path.relative_to(tmp_path / "minilm") for path in (tmp_path / "minilm").rglob("*")} == names
    assert raggedrt.Session(tmp_path / "minilm", trust_bundle=True).native


def test_a_model_repository_has_all_that_the_server_needs(
    ragged_bundle: pathlib.Path, op_library: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files behind the paths of config.pbtxt run the way the server runs them: requests strung together."""
    repository = tmp_path / "models"
    arguments = ["ship", str(ragged_bundle), "-o", str(repository), "--format", "triton", "--name", "encoder"]
    assert main([*arguments, "--max-batch-size", "16"]) == 0
    assert "one sequence of shape [1, n]" in capsys.readouterr().out
    model = repository / "encoder"
    assert [path.name for path in repository.iterdir()] == ["encoder"]
    config = parse_text_proto((model / "config.pbtxt").read_text())
    assert config["max_batch_size"] == [16]
    (library,) = config["model_operations"][0]["op_library_filename"]
    assert pathlib.Path(library).is_file()
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(library)
    path = model / "1" / config["default_model_filename"][0]
    session = onnxruntime.InferenceSession(str(path), options)
    tokens = np.concatenate(ROWS)
    made = {
        "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO": np.cumsum([0, *map(len, ROWS)]).astype(np.int32),
        "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE": np.full(max(map(len, ROWS)), np.nan, np.float32),  # uninitialised
    }
    feeds = {field["target_name"][0]: made[field["kind"][0]] for field in config["batch_input"]}
    feeds |= {f["name"][0]: tokens if f["name"] == ["input_ids"] else np.zeros_like(tokens) for f in config["input"]}
    outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    want = raggedrt.Session(ragged_bundle).run({"input_ids": [np.array(row) for row in ROWS]})
    scattered = {field["target_name"][0] for field in config["batch_output"]}
    assert scattered == {"last_hidden_state"}
    assert_close(outputs["last_hidden_state"], np.concatenate(want["last_hidden_state"]), Tolerance(1e-5, 1e-4))
    assert_close(outputs["pooler_output"], want["pooler_output"], Tolerance(1e-5, 1e-4))


def test_a_repository_keeps_its_other_models(
    ragged_bundle: pathlib.Path, op_library: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models" / "foreign").mkdir(parents=True)
    arguments = ["ship", str(ragged_bundle), "-o", str(tmp_path / "models"), "--format", "triton", "-q", "--name"]
    assert main([*arguments, "mine", "--server-path", "/srv/models"]) == 0
    assert "/srv/models/mine/lib/" in (tmp_path / "models" / "mine" / "config.pbtxt").read_text()
    assert main([*arguments, "mine"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*arguments, "mine", "--force"]) == 0
    assert main([*arguments, "foreign", "--force"]) == 2
    assert "was not written by `raggedrt ship`" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["foreign", "mine"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "zip"], "choose one of dir, tar, triton"),
        (["--name", "x"], "for --format triton"),
        (["--format", "tar"], "expected a name that ends in .tar or .tar.gz"),
        (["--format", "triton", "--name", "../x"], "expected letters"),
        (["--format", "triton", "--max-batch-size", "0"], "at least 1"),
    ],
)
def test_wrong_options_leave_nothing(
    options: list[str],
    message: str,
    ragged_bundle: pathlib.Path,
    op_library: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["ship", str(ragged_bundle), "-o", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["dir", "tar", "triton"])
def test_nothing_is_shipped_into_the_bundle_itself(
    kind: str, ragged_bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """It would be a bundle with files that nobody listed, which no verb opens."""
    copy = tmp_path / "copy"
    shutil.copytree(ragged_bundle, copy)
    with pytest.raises(InputError, match="lies inside of the bundle"):
        raggedrt.ship(copy, copy / "out.tar", format=kind)
    assert not (copy / "out.tar").exists()


def test_a_bundle_that_was_changed_is_not_shipped(ragged_bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ragged_bundle, copy)
    (copy / "report.json").write_text("{}")
    with pytest.raises(InputError, match=r"report\.json"):
        raggedrt.ship(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The C++ example, linked with the ONNX Runtime of the Python package."""
    headers, found = find_ort_headers(), compiler()
    if headers is None or found is None:
        pytest.skip("no C++ compiler, or no ONNX Runtime headers (raggedrt doctor)")
    folder = tmp_path_factory.mktemp("example")
    (runtime,) = (pathlib.Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    shutil.copy(runtime, folder / "libonnxruntime.so.1")
    include = next(pathlib.Path(headers).rglob("onnxruntime_cxx_api.h")).parent
    command = [found, "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-isystem{include}", str(EXAMPLE)]
    command += [str(folder / "libonnxruntime.so.1"), f"-Wl,-rpath,{folder}", "-o", str(folder / "run_bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [str(folder / "run_bundle")]


def _run(program: list[str], bundle: pathlib.Path, rows: list[list[int]]) -> subprocess.CompletedProcess[str]:
    lines = "".join(" ".join(map(str, row)) + "\n" for row in rows)
    return subprocess.run(
        [*program, str(bundle)], input=lines, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_cpp_program_registers_the_library_that_is_shipped() -> None:
    assert f'"/lib/{LIBRARY_NAME}"' in EXAMPLE.read_text(encoding="utf-8")  # it goes on without one


def test_a_cpp_program_runs_the_bundle(
    program: list[str], shipped: pathlib.Path, ragged_bundle: pathlib.Path, padded_values: dict[str, np.ndarray]
) -> None:
    for bundle in (shipped, ragged_bundle):  # with the op library, and on function bodies
        done = _run(program, bundle, ROWS)
        assert done.returncode == 0, done.stderr
        shown = dict(line.split(" [", 1) for line in done.stdout.splitlines())
        for name, want in padded_values.items():
            shape, values = shown[name].split("]:")
            assert [int(size) for size in shape.split()] == list(want.shape)
            assert_close(np.array(values.split(), np.float32), want.ravel()[:4], Tolerance(2e-5, 1e-4))


@pytest.fixture(scope="module")
def padded_values(ragged_bundle: pathlib.Path) -> dict[str, np.ndarray]:
    outputs = raggedrt.Session(ragged_bundle).run({"input_ids": [np.array(row) for row in ROWS]})
    return {
        "last_hidden_state": np.concatenate(outputs["last_hidden_state"]),
        "pooler_output": outputs["pooler_output"],
    }


def test_a_cpp_program_tells_what_is_wrong(
    program: list[str], shipped: pathlib.Path, tiny_bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for bundle, rows, message in (
        (tmp_path, ROWS, "model.onnx"),
        (tiny_bundle, ROWS, "--io ragged"),
        (shipped, [], "no token ids"),
    ):
        done = _run(program, bundle, rows)
        assert (done.returncode, message in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("io", ["padded", "ragged"])
def test_a_bundle_for_the_tensorrt_provider_brings_the_plugins(
    io: str, op_library: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, str(plugins_in(tmp_path / "plugins")))
    bundle = provider_bundle(tmp_path / "toy", io)
    folder = raggedrt.ship(bundle.path, tmp_path / "folder")
    assert set(folder.libraries) >= {LIBRARY_NAME, PLUGIN_LIBRARY_NAME, REGISTRAR_NAME}
    session = raggedrt.Session(folder.path, providers=["CPUExecutionProvider"], trust_bundle=True)
    assert session.native
    lines = (folder.path / "tensorrt_provider.txt").read_text().splitlines()
    options = dict(line.split("=", 1) for line in lines)
    assert options.pop("model") == "model.trt.onnx"
    assert options.pop("trt_extra_plugin_lib_paths") == f"lib/{REGISTRAR_NAME}"
    assert options.keys() == {f"trt_profile_{bound}_shapes" for bound in ("min", "opt", "max")}
    shipped = raggedrt.ship(bundle.path, tmp_path / "models", format="triton", server_path="/srv/models")
    model = shipped.path
    assert (model / "1" / "model.trt.onnx").read_bytes() == (bundle.path / "model.trt.onnx").read_bytes()
    assert (model / "1" / "model.onnx.data").is_file()
    assert (model / "lib" / REGISTRAR_NAME).is_file()
    config = parse_text_proto((model / "config.pbtxt").read_text())
    assert config["max_batch_size"] == [4]
    assert "model_operations" not in config
    (accelerator,) = config["optimization"][0]["execution_accelerators"][0]["gpu_execution_accelerator"]
    options = {entry["key"][0]: entry["value"][0] for entry in accelerator["parameters"]}
    assert options["trt_extra_plugin_lib_paths"] == f"/srv/models/toy/lib/{REGISTRAR_NAME}"
    assert options["trt_profile_max_shapes"].startswith("input_ids:4x8" if io == "padded" else "input_ids:32")
    assert any("takes minutes" in note for note in shipped.notes)
    assert any("no kernel packs were found, so no call of the engine succeeds" in note for note in shipped.notes)
    assert any("tensorrt_provider.txt" in note for note in folder.notes)
    assert not any("tensorrt_provider.txt" in note for note in shipped.notes)  # there is none in a repository


def test_what_was_compiled_is_named_for_other_programs(
    op_library: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, str(plugins_in(tmp_path / "plugins")))
    folder = raggedrt.ship(provider_bundle(tmp_path / "toy", engine=ENGINE).path, tmp_path / "folder").path
    assert (folder / "tensorrt_provider.txt").read_text().splitlines() == [
        f"model={CONTEXT}",
        f"trt_extra_plugin_lib_paths=lib/{REGISTRAR_NAME}",
    ]
    assert (folder / CONTEXT).is_file()


def test_a_cpp_program_without_the_provider_says_so(
    program: list[str], op_library: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, str(plugins_in(tmp_path / "plugins")))
    folder = raggedrt.ship(provider_bundle(tmp_path / "toy", "ragged").path, tmp_path / "folder").path
    done = subprocess.run(
        [*program, str(folder), "--tensorrt"], input="5 6\n", capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "TensorRT execution provider" in done.stderr
    assert _run(program, folder, [[5, 6]]).returncode == 0


def test_without_plugins_the_native_model_is_served(
    op_library: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "cache_folder", lambda: tmp_path / "cache")
    shipped = raggedrt.ship(provider_bundle(tmp_path / "toy").path, tmp_path / "models", format="triton")
    config = parse_text_proto((shipped.path / "config.pbtxt").read_text())
    assert config["default_model_filename"] == ["model.onnx"]
    assert "optimization" not in config
    assert any("no TensorRT plugins were found" in note for note in shipped.notes)
