"""`--prefill`: an ONNX file with a cache becomes what runs in calls that start without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import raggedrt
from helpers.cached_graphs import HEAD_SIZE, HEADS, WIDTH, Cached
from helpers.tolerances import Tolerance, assert_close
from raggedrt.cli import main
from raggedrt.prefill import leave_out_caches

pytestmark = pytest.mark.ort_cpu
CLOSE = Tolerance(1e-5, 1e-4)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    graph = Cached()
    path = tmp_path / "with_past.onnx"
    onnx.save(ir.to_proto(graph.model(graph.layer())), path)
    return path


@pytest.mark.parametrize("io", ["padded", "ragged"])
def test_convert_verifies_against_the_original_on_empty_caches(source: Path, tmp_path: Path, io: str) -> None:
    assert main(["convert", str(source), "-o", str(tmp_path / "out"), "--prefill", "--io", io, "-q"]) == 0
    session = raggedrt.Session(tmp_path / "out", native=False)
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(n, WIDTH)).astype(np.float32) for n in (5, 1, 3)]
    outputs = session.run({"inputs_embeds": rows})
    plain = raggedrt.ort_session(source, native=False)
    empty = np.zeros((1, HEADS, 0, HEAD_SIZE), np.float32)
    for row, hidden in zip(rows, outputs["hidden"], strict=True):
        feed = {"inputs_embeds": row[None], "attention_mask": np.ones((1, len(row)), np.int64)}
        want = plain.run(["hidden"], feed | {"past.key": empty, "past.value": empty})[0]
        assert_close(hidden, want[0], CLOSE)


def test_rewrite_writes_a_graph_without_caches(source: Path, tmp_path: Path) -> None:
    assert main(["rewrite", str(source), "-o", str(tmp_path / "out.onnx"), "--prefill", "-q"]) == 0
    graph = onnx.load(tmp_path / "out.onnx").graph
    assert [value.name for value in graph.input] == ["inputs_embeds", "attention_mask"]
    assert [value.name for value in graph.output] == ["hidden", "present.key", "present.value"]


def test_without_prefill_the_cache_is_named(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewrite", str(source), "-o", str(tmp_path / "out.onnx"), "--features", "pack"]) == 3
    message = capsys.readouterr().err
    assert "past.key" in message
    assert "--prefill" in message


def test_prefill_of_a_pytorch_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factory = "raggedrt.models.factories:tiny_llama"
    assert main(["convert", factory, "-o", str(tmp_path / "out"), "--prefill"]) == 2
    assert "--prefill is for ONNX files" in capsys.readouterr().err


def test_a_head_size_that_the_cache_does_not_state_is_that_of_the_attention() -> None:
    graph = Cached(size="kv_cache_dim")
    model = graph.model(graph.layer())
    caches = leave_out_caches(model)
    assert [cache.dims for cache in caches] == [(None, HEADS, 0, HEAD_SIZE)] * 2
    assert caches[0].array(3).shape == (3, HEADS, 0, HEAD_SIZE)
    assert [value.name for value in model.graph.inputs] == ["inputs_embeds", "attention_mask"]
