"""`bench`: baselines, ceiling and numerics in one run; lengths drawn or measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import raggedrt
from helpers.onnx_edits import perturb
from raggedrt.benchmarking import time_interleaved
from raggedrt.cli import main

pytestmark = pytest.mark.ort_cpu

QUICK = ["--batch-size", "4", "--batches", "2", "--rounds", "2", "--max-length", "32", "--threads", "1", "-q"]


def test_a_bundle_against_its_own_source(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "bench.json"
    assert main(["bench", str(tiny_bundle), *QUICK, "--report", str(report)]) == 0
    text, data = capsys.readouterr().out, json.loads(report.read_text())
    assert "ceiling" in text
    assert set(data["seconds"]) == {
        "plain ONNX",
        "ORT fusions",
        "raggedrt",
        "plain ONNX, no padding",
        "ORT fusions, no padding",
    }
    assert all(len(times) == 2 and min(times) > 0 for times in data["seconds"].values())
    assert data["valid_tokens"] < data["padded_tokens"]
    assert data["fill"] == data["valid_tokens"] / data["padded_tokens"]
    best = min(data["median"]["plain ONNX"], data["median"]["ORT fusions"])
    assert data["ratio"] == pytest.approx(best / data["median"]["raggedrt"])
    assert 0 < data["errors"]["outputs"][0]["max_abs"] < 1e-4


def test_lengths_measured_from_texts_and_sorted(tiny_bundle: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join("ab" * n for n in (1, 9, 2, 8, 3, 7, 4, 6)) + "\n")
    common = {"baseline": tiny_onnx, "lengths_from": texts, "batch_size": 4, "rounds": 1, "max_length": 32}
    arrival, by_length = (raggedrt.bench(tiny_bundle, order=order, **common) for order in ("arrival", "sorted"))
    assert arrival.facts["valid_tokens"] == by_length.facts["valid_tokens"] == 2 * 40 + 8 * 2
    assert by_length.facts["fill"] > arrival.facts["fill"]


def test_a_model_with_few_positions_needs_no_max_length(tiny_bundle: Path, tiny_onnx: Path) -> None:
    result = raggedrt.bench(tiny_bundle, baseline=tiny_onnx, lengths="U[1,1]", batch_size=1, batches=1, rounds=1)
    assert result.facts["valid_tokens"] == 80  # its positions


def test_ragged_bundles_are_timed_on_packed_tokens(ragged_bundle: Path, tiny_onnx: Path) -> None:
    result = raggedrt.bench(ragged_bundle, baseline=tiny_onnx, batch_size=4, batches=1, rounds=1, max_length=16)
    assert result.errors.passed


def test_a_bundle_with_imposed_sparsity_is_timed_and_its_distance_stated(tiny_onnx: Path, tmp_path: Path) -> None:
    raggedrt.convert(tiny_onnx, tmp_path / "out", sparsity="window(2)", accept_approximation=True)
    result = raggedrt.bench(tmp_path / "out", lengths="40", batch_size=2, batches=1, max_length=40, rounds=1)
    assert not result.errors.passed
    assert "an approximation (window(left=2, right=2) of=own)" in result.conclusion
    assert result.to_json()["imposed"] == ["window(left=2, right=2) of=own"]


def test_another_model_as_baseline_is_exit_4(tiny_bundle: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    other = perturb(tiny_onnx, tmp_path / "other.onnx")
    assert main(["bench", str(tiny_bundle), "--baseline", str(other), *QUICK]) == 4


def test_a_changed_or_missing_source_asks_for_a_baseline(
    tiny_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, bundle = tmp_path / "source", tmp_path / "bundle"
    shutil.copytree(tiny_source, source)
    raggedrt.convert(source, bundle)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    assert main(["bench", str(bundle), *QUICK]) == 2
    assert "--baseline" in capsys.readouterr().err
    shutil.rmtree(source)
    assert main(["bench", str(bundle), *QUICK]) == 2
    assert "--baseline" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--lengths", "Z[1]"],
        ["--lengths", "U[0.9,0.1]"],
        ["--order", "random"],
        ["--max-length", "81"],
        ["--rounds", "0"],
    ],
)
def test_wrong_options_are_exit_2(options: list[str], tiny_bundle: Path, tiny_onnx: Path) -> None:
    assert main(["bench", str(tiny_bundle), "--baseline", str(tiny_onnx), "-q", *options]) == 2


def test_rounds_are_interleaved_and_the_first_is_not_counted() -> None:
    calls: list[str] = []
    seconds = time_interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}
