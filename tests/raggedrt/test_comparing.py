"""`compare`: two models of any kind, every kind of padding, a wrong answer fails."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import raggedrt
from helpers.onnx_edits import perturb
from raggedrt.cli import main

pytestmark = pytest.mark.ort_cpu


def test_a_bundle_equals_its_source(tiny_source: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert main(["compare", str(tiny_source), str(tiny_bundle), "--report", str(report), "-q"]) == 0
    errors = json.loads(report.read_text())["errors"]
    cases = {error["case"] for error in errors}
    assert {"right padding", "left padding", "holes", "full", "one token", "empty row"} <= cases
    assert {error["output"] for error in errors} == {"last_hidden_state", "pooler_output"}
    assert 0 < max(error["max_abs"] for error in errors) < 1e-4


def test_padded_and_ragged_bundles_agree_where_padding_is_on_the_right(tiny_bundle: Path, ragged_bundle: Path) -> None:
    result = raggedrt.compare(tiny_bundle, ragged_bundle)
    assert result.passed
    assert "left padding" not in {error.case for error in result.errors}


def test_a_report_overwrites_no_model(tiny_onnx: Path, tiny_bundle: Path) -> None:
    manifest = tiny_bundle / "manifest.json"
    before = tiny_onnx.read_bytes(), manifest.read_bytes()
    assert main(["compare", str(tiny_onnx), str(tiny_onnx), "--report", str(tiny_onnx), "-q"]) == 2
    assert main(["compare", str(tiny_bundle), str(tiny_onnx), "--report", str(manifest), "-q"]) == 2
    assert main(["bench", str(tiny_bundle), "--baseline", str(tiny_onnx), "--report", str(manifest), "-q"]) == 2
    assert (tiny_onnx.read_bytes(), manifest.read_bytes()) == before


def test_other_weights_are_exit_4(tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = perturb(tiny_onnx, tmp_path / "other.onnx")
    assert main(["compare", str(tiny_onnx), str(other)]) == 4
    captured = capsys.readouterr()
    assert "NO" in captured.out
    assert "padded slots are ignored" in captured.out
    assert "last_hidden_state" in captured.err
    assert main(["compare", str(tiny_onnx), str(other), "--atol", "100", "-q"]) == 0


def test_models_with_other_outputs_are_exit_4(tiny_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(str(tiny_onnx))
    del model.graph.output[1:]
    onnx.save(model, tmp_path / "fewer.onnx")
    assert main(["compare", str(tiny_onnx), str(tmp_path / "fewer.onnx"), "-q"]) == 4


@pytest.mark.parametrize("pair", [("no-such.onnx", "no-such.onnx"), ("/no/such", "/no/such")])
def test_missing_models_are_exit_2(pair: tuple[str, str]) -> None:
    assert main(["compare", *pair, "-q"]) == 2
