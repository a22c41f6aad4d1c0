"""The attention benchmark counts work and compares outputs before it reports a speed."""

from __future__ import annotations

import pathlib
import runpy
from typing import Any

import pytest

from helpers.project import ROOT

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort_cpu


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "bench_attention.py"), run_name="bench_attention")


@pytest.fixture
def library(op_library: pathlib.Path) -> pathlib.Path:
    return op_library


def test_operations_are_those_of_the_kept_pairs(bench: dict[str, Any]) -> None:
    case = bench["Case"]
    assert case("full", (3, 5), heads=2, head_size=8).flops == 4 * (9 + 25) * 2 * 8
    assert case("causal", (3,), heads=1, head_size=8, causal=True).flops == 4 * 6 * 8


def test_lengths_are_the_same_each_time_and_reach_the_longest(bench: dict[str, Any]) -> None:
    lengths = bench["uniform_lengths"](32, 512)
    assert lengths == bench["uniform_lengths"](32, 512)
    assert len(lengths) == 32
    assert lengths[-1] == max(lengths) == 512
    assert min(lengths) >= 1


@pytest.mark.parametrize("causal", [False, True])
def test_a_measurement_is_of_equal_outputs(bench: dict[str, Any], library: pathlib.Path, causal: bool) -> None:
    case = bench["Case"]("small", (5, 9) if not causal else (9, 9), heads=2, head_size=8, causal=causal)
    row = bench["measure"](case, 1, 0.0, library)
    assert row["max_abs_error"] < 1e-5
    assert row["ours_ms"]["p10"] <= row["ours_ms"]["median"] <= row["ours_ms"]["p90"]
    assert row["ratio"] == pytest.approx(row["ort_ms"]["median"] / row["ours_ms"]["median"], rel=0.05)
    assert bench["markdown_row"](row).count("|") == bench["COLUMNS"].count("|")


def test_wrong_outputs_stop_the_benchmark(bench: dict[str, Any], library: pathlib.Path) -> None:
    case = bench["Case"]("small", (9, 9), heads=2, head_size=8, causal=True)
    original = bench["measure"].__globals__["padded_session"]
    plain = bench["Case"]("small", (9, 9), heads=2, head_size=8)
    bench["measure"].__globals__["padded_session"] = lambda _case, threads: original(plain, threads)
    try:
        with pytest.raises(SystemExit, match="outputs differ"):
            bench["measure"](case, 1, 0.0, library)
    finally:
        bench["measure"].__globals__["padded_session"] = original
