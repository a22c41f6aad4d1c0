"""`convert`: a whole verified bundle, or nothing and the documented exit code."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import raggedrt
from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.tolerances import Tolerance, assert_close
from raggedrt.cli import main
from raggedrt.export.input_specs import MASK_NAMES
from raggedrt.graph_passes import graph_inputs

pytestmark = pytest.mark.ort_cpu


def test_the_bundle_is_whole_and_says_how_it_was_verified(tiny_bundle: Path) -> None:
    names = {path.name for path in tiny_bundle.iterdir()}
    assert names == {"model.onnx", "model.onnx.data", "manifest.json", "report.json", "tokenizer"}
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    report = json.loads((tiny_bundle / "report.json").read_text())
    assert set(manifest["verification"]["outputs"]) == {"last_hidden_state", "pooler_output"}
    assert {"left padding", "right padding", "holes", "full", "one token", "empty row"} <= set(
        manifest["verification"]["cases"]
    )
    assert manifest["verification"]["verified_on"] == "cpu"
    assert all(error["max_abs"] < 1e-4 for error in manifest["verification"]["outputs"].values())
    assert {"passes", "attention", "verification", "nodes_before", "nodes_after"} <= set(report)
    assert [site["op"] for site in report["attention"]] == ["RaggedAttention", "RaggedAttention"]
    assert manifest["position_limit"] == 80
    assert manifest["op_features"]["RaggedAttention"] > 0


def test_the_graph_is_packed_once(tiny_bundle: Path) -> None:
    graph = onnx.load(str(tiny_bundle / "model.onnx"), load_external_data=False).graph
    counts = {
        op: sum(node.op_type == op for node in graph.node) for op in ("PackingPlan", "RaggedAttention", "Softmax")
    }
    assert counts == {"PackingPlan": 1, "RaggedAttention": 2, "Softmax": 0}


def test_a_program_of_its_own_can_convert_a_module(tmp_path: Path) -> None:
    from raggedrt.models.factories import tiny_bert

    bundle = raggedrt.convert(tiny_bert(), tmp_path / "out")
    outputs = raggedrt.Session(bundle.path).run({"input_ids": [np.array([5, 6, 7])]})
    assert outputs["last_hidden_state"][0].shape == (3, 32)


@pytest.mark.parametrize("io", ["padded", "ragged"])
@pytest.mark.parametrize("name", MASK_NAMES)
def test_an_onnx_file_may_name_its_mask_otherwise(name: str, io: str, tmp_path: Path) -> None:
    ir.save(build_encoder(EncoderSpec(names=("input_ids", name))), tmp_path / "model.onnx")
    bundle = raggedrt.convert(tmp_path / "model.onnx", tmp_path / "out", io=io)
    ids = np.arange(1, 9).reshape(2, 4)
    feeds = {"input_ids": ids, name: np.array([[1, 1, 1, 1], [1, 1, 0, 0]])}
    padded = raggedrt.Session(bundle).run(feeds)
    lists = raggedrt.Session(bundle).run({"input_ids": [ids[0], ids[1, :2]]})
    assert bundle.manifest.mask_input == name
    for key, values in lists.items():
        assert_close(np.concatenate(values), padded[key][feeds[name] > 0], Tolerance(1e-5, 1e-4))


def test_verification_and_passes_know_the_same_mask_names() -> None:
    assert graph_inputs.MASK_NAMES == MASK_NAMES


def _inverted(path: Path) -> Path:
    """An encoder whose mask hides the tokens where it is 1, as PyTorch's key_padding_mask does."""
    model = build_encoder(EncoderSpec(positions="none"))
    mask = model.graph.inputs[1]
    uses = list(mask.uses())
    one = ir.Value(name="one", const_value=ir.tensor(np.array(1, np.int64)))
    model.graph.register_initializer(one)
    node = ir.node("Sub", inputs=[one, mask], name="invert")
    node.outputs[0].name = "inverted"
    model.graph.insert_before(model.graph[0], node)
    for use in uses:
        use.node.replace_input_with(use.idx, node.outputs[0])
    ir.save(model, path)
    return path


def test_an_inverted_mask_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(_inverted(tmp_path / "in.onnx")), "-o", str(tmp_path / "out"), "-q"]) == 2
    assert "hides the tokens where it is non-zero" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


def test_an_existing_output_is_refused_before_any_work(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (tiny_bundle / "manifest.json").read_bytes()
    assert main(["convert", "/no/such/model", "-o", str(tiny_bundle)]) == 2
    assert "--force" in capsys.readouterr().err
    assert (tiny_bundle / "manifest.json").read_bytes() == before


def test_force_replaces_a_bundle_and_nothing_else(tiny_bundle: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    bundle, other = tmp_path / "bundle", tmp_path / "other"
    shutil.copytree(tiny_bundle, bundle)
    other.mkdir()
    (other / "precious.txt").write_text("mine")
    assert main(["convert", str(tiny_onnx), "-o", str(bundle), "--force", "-q"]) == 0
    assert main(["convert", str(tiny_onnx), "-o", str(other), "--force", "-q"]) == 2
    assert (other / "precious.txt").read_text() == "mine"


def test_numerics_outside_the_tolerance_are_exit_4_and_leave_nothing(tiny_onnx: Path, tmp_path: Path) -> None:
    assert main(["convert", str(tiny_onnx), "-o", str(tmp_path / "out"), "--atol", "0", "--rtol", "0", "-q"]) == 4
    assert not list(tmp_path.iterdir())


def test_a_required_feature_that_matches_nothing_is_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> m (float[N,4] x) => (float[N,4] y) { y = Relu (x) }'
    )
    source = tmp_path / "relu.onnx"
    onnx.save(plain, source)
    arguments = ["convert", str(source), "-o", str(tmp_path / "out"), "--features", "pack", "-q"]
    assert main(arguments) == 3
    assert "attention" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--allow-partial"]) == 0
    assert (tmp_path / "out" / "manifest.json").exists()


def _copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def _truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _empty(folder: Path) -> None:
    for file in list(folder.iterdir()):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [(_truncate, "truncated"), (_pickle, "--allow-pickle"), (_no_config, "config.json"), (_empty, "empty")],
)
def test_a_spoilt_model_directory_is_exit_2(
    spoil: object, expected: str, tiny_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _copy(tiny_source, tmp_path / "source")
    spoil(source)  # type: ignore[operator]
    assert main(["convert", str(source), "-o", str(tmp_path / "out"), "-q"]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert str(source) in error
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


@pytest.mark.parametrize("source", ["/no/such/model", "org/name-that-is-nowhere", "no_such_module:factory", "x.onnx"])
def test_a_source_that_is_not_there_is_exit_2(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", source, "-o", str(tmp_path / "out"), "-q"]) == 2
    assert source.partition(":")[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_hub_id_that_cannot_be_reached_names_the_download_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "org/name", "-o", str(tmp_path / "out"), "-q"]) == 2
    assert "hf download org/name" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--opset", "7"], ["--dtype", "fp8"], ["--task", "poetry"], ["--atol", "-1"]])
def test_unknown_values_are_exit_2(option: list[str], tiny_source: Path, tmp_path: Path) -> None:
    assert main(["convert", str(tiny_source), "-o", str(tmp_path / "out"), "-q", *option]) == 2
    assert not list(tmp_path.iterdir())


def test_bf16_on_the_cpu_is_exit_5(tiny_source: Path, tmp_path: Path) -> None:
    assert main(["convert", str(tiny_source), "-o", str(tmp_path / "out"), "--dtype", "bf16", "-q"]) == 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_conversion_leaves_nothing(
    number: signal.Signals, code: int, tiny_source: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "raggedrt", "convert", str(tiny_source), "-o", str(tmp_path / "out")]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    child.send_signal(number)
    _, error = child.communicate(timeout=60)
    assert child.returncode == code, error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_exit_1_and_leaves_nothing(tiny_onnx: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "raggedrt", "convert", str(tiny_onnx), "-o", str(tmp_path / "out"), "-q"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_half_precision_is_verified_at_its_own_tolerance(tiny_source: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    half, again = tmp_path / "half", tmp_path / "again"
    assert main(["convert", str(tiny_source), "-o", str(half), "--dtype", "fp16", "-q"]) == 0
    manifest = json.loads((half / "manifest.json").read_text())
    assert manifest["dtype"] == "fp16"
    assert manifest["verification"]["atol"] == 2e-2
    assert {record["dtype"] for record in manifest["outputs"]} == {"float16"}
    assert main(["convert", str(tiny_onnx), "-o", str(again), "--dtype", "fp16", "-q"]) == 2
    assert not again.exists()
