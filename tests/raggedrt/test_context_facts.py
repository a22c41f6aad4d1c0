"""`inspect` on a model that ONNX Runtime compiled."""

from __future__ import annotations

import json
import pathlib

import pytest

import raggedrt
from helpers.context_models import context_model, context_node
from helpers.provider_bundles import ENGINE, provider_bundle
from raggedrt.cli import main

pytestmark = pytest.mark.none


def test_inspect_tells_what_was_compiled(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "part.engine").write_bytes(bytes(2**20))
    node = context_node(
        embed_mode=0,
        ep_cache_context="part.engine",
        hardware_architecture="89",
        ep_sdk_version="10.9",
        onnx_model_filename="model.trt.onnx",
    )
    model = context_model(tmp_path / "model_ctx.onnx", [node])
    (facts,) = raggedrt.inspect(model)["ep_contexts"]
    assert facts == {
        "node": node.name,
        "provider": "TensorrtExecutionProvider",
        "partition": node.name,
        "sdk_version": "10.9",
        "hardware": "89",
        "original": "model.trt.onnx",
        "main": True,
        "embed_mode": 0,
        "file": "part.engine",
        "bytes": 2**20,
        "present": True,
        "problem": None,
    }
    assert main(["inspect", str(model), "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["ep_contexts"] == [facts]
    assert main(["inspect", str(model), "-q"]) == 0
    text = capsys.readouterr().out
    for words in ("TensorrtExecutionProvider 10.9", "compute capability 89", "engine in part.engine (1.0 MiB)"):
        assert words in text


def test_inspect_does_not_look_outside_the_folder(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    folder = tmp_path / "model"
    folder.mkdir()
    model = context_model(folder / "m.onnx", [context_node(embed_mode=0, ep_cache_context="../secret")])
    (facts,) = raggedrt.inspect(model)["ep_contexts"]
    assert (facts["present"], facts["bytes"]) == (False, None)
    assert "outside its folder" in facts["problem"]
    assert main(["inspect", str(model), "-q"]) == 0
    assert "outside its folder" in capsys.readouterr().out


def test_inspect_of_an_embedded_context(tmp_path: pathlib.Path) -> None:
    node = context_node(source="NvTensorRTRTXExecutionProvider", ep_cache_context=b"12345")
    (facts,) = raggedrt.inspect(context_model(tmp_path / "m.onnx", [node]))["ep_contexts"]
    assert (facts["provider"], facts["embed_mode"], facts["bytes"]) == ("NvTensorRTRTXExecutionProvider", 1, 5)


def test_inspect_of_a_bundle_says_whether_what_was_compiled_runs_here(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    bundle = provider_bundle(tmp_path / "toy", engine=ENGINE)
    (facts,) = raggedrt.inspect(bundle.path)["ep_contexts"]
    assert (facts["sdk_version"], facts["hardware"], facts["file"]) == ("10.9.0", "89", ENGINE)
    assert facts["runs_here"] == (facts["why_not"] is None)
    assert main(["inspect", str(bundle.path), "-q"]) == 0
    text = capsys.readouterr().out
    assert "plugin form: model.trt.onnx, for batches within this profile" in text
    assert "compiled by TensorrtExecutionProvider 10.9.0" in text
    if not facts["runs_here"]:
        assert "does not run here: " in text
