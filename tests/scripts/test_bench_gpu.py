"""The GPU benchmarks' parts that need no GPU: workloads, counts, verdicts, records; and what they say without one."""

from __future__ import annotations

import json
import os
import pathlib
import runpy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from helpers.project import ROOT

pytestmark = pytest.mark.none


def _script(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name=name)


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return _script("gpu_timing", monkeypatch)


@pytest.fixture
def attention(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return _script("bench_gpu_attention", monkeypatch)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return _script("bench_gpu_model", monkeypatch)


def test_lengths_are_those_asked_for_and_the_same_each_time(timing: dict[str, Any]) -> None:
    lengths = timing["uniform_lengths"](1000, 0.2, 512)
    assert lengths == timing["uniform_lengths"](1000, 0.2, 512)
    assert min(lengths) >= 0.2 * 512 - 1
    assert max(lengths) == lengths[-1] == 512
    assert abs(np.mean(lengths) - 0.6 * 512) < 15
    assert min(timing["uniform_lengths"](50, 0.0, 2)) >= 1


def test_operations_and_bytes_are_counted_by_hand(timing: dict[str, Any], attention: dict[str, Any]) -> None:
    # Two products of S x S x H multiplications and additions per head.
    assert timing["attention_flops"](10 * 10, 12, 64) == 12 * 2 * (2 * 10 * 10 * 64)
    assert attention["Ragged"]("x", (3, 5), 2, 8).flops == 2 * 4 * 8 * (9 + 25)
    # 5 tokens of 6 bytes in 8 slots: read and written once, an int32 index each, three slots zeroed.
    assert timing["copied_bytes"](5, 8, 6) == {"pack": 2 * 30 + 20, "unpack": 2 * 30 + 20 + 18}


def test_cases_are_what_was_promised(attention: dict[str, Any]) -> None:
    assert [max(case.lengths) for case in attention["ragged_cases"](quick=False)] == [512, 1024]
    assert all(len(case.lengths) == 32 for case in attention["ragged_cases"](quick=False))
    for case in attention["long_cases"](quick=False):
        assert sum(case.lengths) == 16384
        assert len(set(case.lengths)) == 1


def test_a_row_counts_the_plans_share_and_refuses_wrong_results(attention: dict[str, Any]) -> None:
    times = {"plan": [12.0], "ours": [100.0], "other": [202.0]}
    row = attention["row_of"]({"case": "x"}, times, {"other": 1e-3}, flops=101_000_000)
    assert row["other / ours"] == 2.0
    assert row["TFLOP/s"] == 1.0
    with pytest.raises(SystemExit, match="outputs differ"):
        attention["row_of"]({}, times, {"other": 0.5}, 1)
    with pytest.raises(SystemExit, match="outputs differ"):
        attention["row_of"]({}, times, {"other": float("nan")}, 1)


def test_verdicts(attention: dict[str, Any], model: dict[str, Any]) -> None:
    sections = {
        "ragged": [{"varlen (FlashAttention-2) / ours": 1.3}, {"varlen (FlashAttention-2) / ours": 1.1}],
        "sparse": [
            {"FlexAttention (64) / ours": 2.0, "FlexAttention (128) / ours": 4.0},
            {"FlexAttention (128) / ours": 0.5},
        ],
        "work list": [{"plan": {"median": 8.0}}],
    }
    judged = {line["goal"]: line for line in attention["judge"](sections)}
    assert judged["ragged, least against varlen (FlashAttention-2)"][""] == "MISSED"
    assert judged["ragged, least against padded cuDNN SDPA"][""] == "not measured"
    assert judged["sparse, geometric mean against FlexAttention"]["measured"] == 1.0
    assert judged["sparse, least against FlexAttention"]["measured"] == 0.5
    assert judged["microseconds allowed over those of the work list"][""] == "met"
    times = {name: {"median": value} for name, value in (("ORT padded", 40.0), ("ORT padded, fused", 30.0))}
    first, second = model["judge"]({**times, "ours, padded I/O": {"median": 15.0}})
    assert (first["measured"], first[""]) == (2.0, "met")
    assert second[""] == "not measured"


def test_batches_of_the_model_are_the_same_tokens_padded_and_packed(model: dict[str, Any]) -> None:
    feeds, valid = model["feeds_of"](5, 40)
    packed = model["packed_feeds"](feeds, valid)
    assert packed["cu_seqlens"][-1] == valid.sum() == feeds["attention_mask"].sum() == len(packed["input_ids"])
    for row, (start, end) in enumerate(zip(packed["cu_seqlens"], packed["cu_seqlens"][1:], strict=False)):
        np.testing.assert_array_equal(packed["input_ids"][start:end], feeds["input_ids"][row, valid[row]])
    assert not feeds["input_ids"][~valid].any()


def test_a_record_is_json_and_a_page_that_names_what_was_missing(
    timing: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    times = timing["summary"]([1.0, 2.0, 3.0])
    assert times == {"p10": 1.2, "median": 2.0, "p90": 2.8}
    record = {
        "facts": {"gpu": "Paper GPU", "commit": "abc"},
        "sections": {"ragged": [{"case": "a", "ours": times}, {"case": "b", "other": 0.12345}], "empty": []},
        "goals": [timing["goal"]("fast", 2.0, 1.5)],
        "missing": {"cuDNN SDPA": "no such library"},
    }
    timing["write_record"](tmp_path / "deep" / "gpu", "Title", record)
    assert json.loads((tmp_path / "deep" / "gpu.json").read_text()) == record
    text = (tmp_path / "deep" / "gpu.md").read_text()
    assert "gpu Paper GPU · commit abc" in text
    assert "| a | 2 (1.2-2.8) |  |" in text
    assert "| b |  | 0.123 |" in text
    assert "- cuDNN SDPA: no such library" in text
    assert "| fast | 1.5 | 2 | met |" in text


def test_facts_say_where_it_was_made(timing: dict[str, Any]) -> None:
    facts = timing["gpu_facts"]()
    assert {"date", "gpu", "driver", "torch", "onnxruntime-gpu", "commit", "CPU"} <= set(facts)
    assert timing["geometric_mean"]([2.0, 8.0]) == pytest.approx(4.0)


@pytest.mark.parametrize("name", ["bench_gpu_attention", "bench_gpu_model", "bench_gpu_tensorrt"])
def test_without_a_gpu_a_benchmark_says_so_with_exit_5(name: str) -> None:
    environment = {**os.environ, "RAGGEDRT_CUDA_DRIVER": "/nowhere/libcuda.so.1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / f"{name}.py")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert "nothing to measure on: the NVIDIA driver is not installed" in done.stdout


def test_the_check_says_what_it_needs(tmp_path: pathlib.Path) -> None:
    script = str(ROOT / "scripts" / "gpu_check.sh")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
        return subprocess.run([script, *arguments], capture_output=True, text=True, env=environment, check=False)

    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nexit 9\n")
    smi.chmod(0o755)
    assert run().returncode == 5
    assert "no CUDA device" in run().stderr
    assert (run("poetry").returncode, run("--wheels").returncode) == (2, 2)
