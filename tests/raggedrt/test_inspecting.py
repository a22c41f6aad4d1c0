"""`inspect`: what is in a file or a bundle, in words and as JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

import raggedrt
from raggedrt.cli import main

pytestmark = pytest.mark.ort_cpu


def test_a_plain_model_shows_sites_and_the_region(tiny_onnx: Path) -> None:
    facts = raggedrt.inspect(tiny_onnx)
    assert len(facts["report"]["attention"]) == 2
    assert "input_ids" in facts["region"]["inputs"]
    assert facts["ops"] == {}
    assert facts["opset"] == 20
    json.dumps(facts)


def test_a_bundle_shows_its_manifest_and_live_ops(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = raggedrt.inspect(tiny_bundle)
    assert facts["bundle"]["target"] == "ort-cpu"
    assert facts["ops"]["RaggedAttention"] == 2
    assert main(["inspect", str(tiny_bundle)]) == 0
    text = capsys.readouterr().out
    assert all(
        word in text for word in ("RaggedAttention", "last_hidden_state", "verified on cpu", "key is not padding")
    )


def test_json_is_json(tiny_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_onnx), "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(tiny_onnx)


def test_ops_that_another_tool_inlined_are_a_warning(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    path = tmp_path / "bundle" / "model.onnx"
    model = onnx.load(str(path), load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "RaggedAttention")
    node.domain, node.op_type = "other", "Inlined"
    onnx.save(model, path)
    (warning,) = raggedrt.inspect(path)["warnings"]
    assert "promises 2 RaggedAttention" in warning
    assert "has 1" in warning


def test_what_cannot_be_packed_has_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '<ir_version: 9, opset_import: ["" : 18]> m (float[N,4] x) => (float[N,4] y) { y = Relu (x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "relu.onnx")
    assert main(["inspect", str(tmp_path / "relu.onnx")]) == 0
    assert "no attention" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nothing.onnx", "."])
def test_what_is_no_model_is_exit_2(name: str, tmp_path: Path) -> None:
    assert main(["inspect", str(tmp_path / name)]) == 2
