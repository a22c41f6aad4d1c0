"""`--target ort-cuda` without a GPU: it converts and verifies on the CPU; what needs the device is exit 5."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import raggedrt
from raggedrt.cli import main
from raggedrt.errors import TargetError

pytestmark = pytest.mark.ort_cpu

IDS = [np.array([5, 6, 7]), np.array([9]), np.array([4, 8])]


@pytest.fixture(autouse=True)
def _no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGGEDRT_CUDA_DRIVER", "/nowhere/libcuda.so.1")


@pytest.fixture(scope="module")
def half_bundle(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("cuda") / "half"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAGGEDRT_CUDA_DRIVER", "/nowhere/libcuda.so.1")
        arguments = ["convert", str(tiny_source), "-o", str(output), "--target", "ort-cuda", "--dtype", "fp16", "-q"]
        assert main(arguments) == 0
    return output


def test_it_is_verified_on_the_cpu_and_says_so(half_bundle: Path) -> None:
    manifest = json.loads((half_bundle / "manifest.json").read_text())
    assert manifest["target"] == "ort-cuda"
    assert manifest["verification"]["verified_on"] == "cpu"
    report = json.loads((half_bundle / "report.json").read_text())
    assert [site["op"] for site in report["attention"]] == ["RaggedAttention", "RaggedAttention"]


def test_weights_are_half_and_norms_keep_their_sums_in_float32(half_bundle: Path) -> None:
    graph = onnx.load(str(half_bundle / "model.onnx"), load_external_data=False).graph
    floats = {t.data_type for t in graph.initializer if t.data_type in (1, 10, 11, 16)}
    assert floats == {onnx.TensorProto.FLOAT16}
    for node in graph.node:
        if node.op_type == "LayerNormalization":
            assert all(a.i == 1 for a in node.attribute if a.name == "stash_type")


@pytest.mark.parametrize("io", ["padded", "ragged"])
def test_bf16_is_packed_and_verified_in_float32(io: str, tiny_source: Path, tmp_path: Path) -> None:
    bundle = raggedrt.convert(tiny_source, tmp_path / "out", target="ort-cuda", dtype="bf16", io=io)
    assert bundle.manifest.dtype == "bf16"
    assert {record.dtype for record in bundle.manifest.outputs} == {"bfloat16"}
    assert all(error.max_abs < 1e-4 for error in bundle.manifest.verification.outputs.values())
    assert "RaggedAttention" in bundle.manifest.op_features


def test_the_warning_says_what_is_left_to_do(
    tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(tiny_onnx), "-o", str(tmp_path / "out"), "--target", "ort-cuda"]) == 0
    error = capsys.readouterr().err
    assert "verified on the CPU only" in error
    assert "raggedrt compare SOURCE BUNDLE" in error


def test_what_needs_the_device_is_exit_5(
    half_bundle: Path, tiny_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "in.npz", input_ids=np.array([[5, 6, 7]]))
    for arguments in (
        ["run", str(half_bundle), "--inputs", str(tmp_path / "in.npz"), "-o", str(tmp_path / "out.npz")],
        ["bench", str(half_bundle)],
        ["compare", str(tiny_source), str(half_bundle)],
    ):
        assert main(arguments) == 5, arguments
        error = capsys.readouterr().err
        assert "no CUDA device" in error
        assert "--target ort-cpu" in error
    assert not (tmp_path / "out.npz").exists()
    with pytest.raises(TargetError, match="no CUDA device"):
        raggedrt.Session(half_bundle)


def test_the_same_graph_runs_on_the_cpu_where_that_is_asked_for(half_bundle: Path) -> None:
    session = raggedrt.Session(half_bundle, providers=["CPUExecutionProvider"])
    together = session.run({"input_ids": IDS})["last_hidden_state"]
    for ids, rows in zip(IDS, together, strict=True):
        alone = session.run({"input_ids": [ids]})["last_hidden_state"][0]
        np.testing.assert_allclose(rows.astype(np.float32), alone.astype(np.float32), atol=1e-2)


def test_an_fp16_bundle_compares_with_its_source(tiny_source: Path, tmp_path: Path) -> None:
    raggedrt.convert(tiny_source, tmp_path / "half", dtype="fp16")
    assert raggedrt.compare(tiny_source, tmp_path / "half").passed
