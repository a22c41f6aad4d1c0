"""Shapes outside every profile are refused before a call; engines that appear afterwards are told."""

from __future__ import annotations

import logging
import pathlib

import numpy as np
import pytest

import raggedrt
from helpers.provider_bundles import provider_bundle, toy_profile
from raggedrt.errors import InputError
from raggedrt.plugins.native import cache
from raggedrt.plugins.runtime.calls import Caller, Place
from raggedrt.plugins.runtime.engine_cache import EngineCache, engine_cache
from raggedrt.plugins.runtime.profile_guard import ProfileGuard
from raggedrt.plugins.tensorrt.profiles import Sizes, envelope

pytestmark = pytest.mark.none


def arrays(batch: int, tokens: int) -> dict[str, np.ndarray]:
    return {name: np.zeros((batch, tokens), np.int64) for name in ("input_ids", "token_type_ids", "attention_mask")}


class Session:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def run(self, *given: object) -> list[int]:
        self.calls.append(given)
        return [7]


def test_what_no_profile_admits_does_not_reach_the_session() -> None:
    session = Session()
    call = Caller(session, ["y"], Place(), beyond_numpy=False, guard=ProfileGuard([toy_profile("padded")], "bundle x"))
    assert call(arrays(4, 8)) == {"y": 7}
    with pytest.raises(
        InputError, match=r"bundle x was not built for .*input_ids 5x8.*profile 0: input_ids 1x1 to 4x8"
    ):
        call(arrays(5, 8))
    assert len(session.calls) == 1


def test_a_provider_is_told_the_profile() -> None:
    pytest.importorskip("onnxruntime")
    session = Session()
    wide = toy_profile("padded", maximum=Sizes(16, 256, 16))
    guard = ProfileGuard([toy_profile("padded"), wide], "bundle x", entry="nv_profile_index")
    assert guard.admit(arrays(4, 8)) == {"nv_profile_index": "0"}
    assert guard.admit(arrays(5, 8)) == {"nv_profile_index": "1"}
    Caller(session, ["y"], Place(), beyond_numpy=False, guard=guard)(arrays(5, 8))
    assert session.calls[0][2].get_run_config_entry("nv_profile_index") == "1"


def test_one_profile_around_several() -> None:
    small = toy_profile("ragged")
    large = toy_profile("ragged", minimum=Sizes(2, 32, 4), optimum=Sizes(3, 48, 8), maximum=Sizes(4, 64, 16))
    whole = envelope([small, large])
    assert whole.minimum == small.minimum
    assert whole.maximum["input_ids"] == (64,)
    assert whole.maximum["max_seqlen"] == (16,)
    assert whole.optimum == large.optimum
    assert envelope([small]) is small


def test_engines_that_appear_are_told_once(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "first.engine").write_bytes(b"x")
    kept = EngineCache(tmp_path)
    with caplog.at_level(logging.WARNING, "raggedrt"):
        kept.announce("bundle x")
        kept.opened("bundle x")
        kept.look("bundle x")
        (tmp_path / "timing.cache").write_bytes(b"x")
        kept.look("bundle x")
        assert not caplog.records
        (tmp_path / "second.engine").write_bytes(b"x")
        kept.look("bundle x")
        kept.look("bundle x")
    (record,) = caplog.records
    assert "did not serve, so ONNX Runtime built one again" in record.getMessage()
    assert str(tmp_path) in record.getMessage()


def test_the_first_engine_is_announced_and_no_surprise(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = EngineCache(tmp_path)
    with caplog.at_level(logging.WARNING, "raggedrt"):
        kept.announce("bundle x")
        (tmp_path / "first.engine").write_bytes(b"x")
        kept.opened("bundle x")
        kept.look("bundle x")
    (record,) = caplog.records
    assert "may take minutes" in record.getMessage()


def test_engines_are_kept_by_what_decides_them(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = provider_bundle(tmp_path / "bundle")
    same = {engine_cache(bundle, "model.trt.onnx", {"tensorrt": "10.9.0"}).folder for _ in range(2)}
    assert len(same) == 1
    assert next(iter(same)).is_relative_to(cache.cache_folder())
    other = engine_cache(bundle, "model.trt.onnx", {"tensorrt": "10.16.1"}).folder
    assert other not in same
    assert other.is_dir()
    assert not other.is_relative_to(bundle.path)


@pytest.mark.parametrize("io", ["padded", "ragged"])
def test_a_batch_without_tokens_is_learnt_from_within_the_profile(io: str, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("onnxruntime")
    profile = toy_profile(io, minimum=Sizes(2, 6, 3), optimum=Sizes(2, 8, 4))
    session = raggedrt.Session(
        provider_bundle(tmp_path / "toy", io, profiles=(profile,)), providers=["CPUExecutionProvider"], native=False
    )
    guard = ProfileGuard([profile], "bundle x")
    session._call = Caller(session.ort, ["hidden", "pooled"], Place(), beyond_numpy=False, guard=guard)
    outputs = session.run({"input_ids": [np.zeros(0, np.int64)] * 3})
    assert [row.shape for row in outputs["hidden"]] == [(0, 8)] * 3
    assert outputs["pooled"].shape == (3, 8)
    assert not outputs["pooled"].any()
