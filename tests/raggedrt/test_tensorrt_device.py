"""Engines of TensorRT 10 and 11 with our plugins, on the machine's GPU, against their native graph on the CPU.

Needs TensorRT with its headers (TENSORRT_ROOT) or plugins that were built, NVRTC or kernel packs, and a GPU.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import raggedrt
from raggedrt.errors import InputError, RaggedRTError, TargetError
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.kernel_packs.lookup import build_pack, find_pack
from raggedrt.plugins.tensorrt.engine_plugins import plugins_for
from raggedrt.plugins.tensorrt.flavour import FLAVOURS, gpu_capabilities, require_builder

pytestmark = pytest.mark.tensorrt("tensorrt")
TRT = FLAVOURS["tensorrt"]
MINILM = {
    "vocab_size": 1000,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
"""As sentence-transformers/all-MiniLM-L6-v2, with fewer words."""
KINDS = [("ragged", "fp32"), ("ragged", "fp16"), ("padded", "fp16")]
TOLERANCES = {"fp32": 2e-3, "fp16": 3e-2}
"""Greatest difference of outputs of order 1."""
BATCHES = ((1,), (5, 1, 7), (256, 3, 33, 1), (64,) * 8, (1,) * 8, (129, 64, 65, 63, 2), (256,) * 8)
DEMAND = {"lengths": "uniform(1,256)", "batch_sizes": "1,8", "buckets": 3}


@pytest.fixture(scope="module")
def capability() -> int:
    """The GPU's, with plugins and kernels for it."""
    present = gpu_capabilities()
    if not present:
        pytest.skip("TensorRT builds engines on the GPU that they are for, and there is none")
    try:
        plugins_for(require_builder(TRT), build=True)
    except TargetError as error:
        pytest.skip(str(error))
    try:
        find_pack(present[0])
    except (TargetError, InputError):
        try:
            build_pack(present[0])
        except RaggedRTError as error:
            pytest.skip(str(error))
    return present[0]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    from raggedrt.models.factories import random_model

    folder = tmp_path_factory.mktemp("source") / "minilm"
    model: Any = random_model("bert", MINILM)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def bundle(
    request: pytest.FixtureRequest,
    capability: int,
    source: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    io, dtype = request.param
    output = tmp_path_factory.mktemp("engine") / f"{io}-{dtype}"
    return raggedrt.convert(source, output, target="tensorrt", io=io, dtype=dtype, **DEMAND)


@pytest.fixture(scope="module")
def session(bundle: Bundle) -> raggedrt.Session:
    return raggedrt.Session(bundle, trust_bundle=True)


def _rows(lengths: tuple[int, ...], seed: int = 0) -> list[Any]:
    rng = np.random.default_rng([seed, *lengths])
    return [rng.integers(5, MINILM["vocab_size"], length) for length in lengths]


def _assert_same(got: dict[str, Any], want: dict[str, Any], dtype: str) -> None:
    assert got.keys() == want.keys()
    for name, rights in want.items():
        for row, right in zip(got[name], rights, strict=True):
            one, two = np.asarray(row, np.float32), np.asarray(right, np.float32)
            np.testing.assert_allclose(one, two, 0, TOLERANCES[dtype], err_msg=name)


@pytest.mark.parametrize("lengths", BATCHES, ids=str)
def test_values_are_those_of_the_graph_on_the_cpu(
    lengths: tuple[int, ...], bundle: Bundle, session: raggedrt.Session
) -> None:
    feeds = {"input_ids": _rows(lengths)}
    right = raggedrt.Session(bundle, providers=["CPUExecutionProvider"]).run(feeds)
    for _ in range(2):  # a second call finds the buffers of the first
        _assert_same(session.run(feeds), right, bundle.manifest.dtype)


def test_left_padding_holes_and_an_empty_row(bundle: Bundle, session: raggedrt.Session) -> None:
    if bundle.manifest.io != "padded":
        pytest.skip("packed tokens know right padding only")
    ids = np.random.default_rng(3).integers(5, 100, (4, 12))
    mask = np.ones((4, 12), np.int64)
    mask[0, :5] = 0
    mask[1, 3:6] = 0
    mask[2] = 0
    feeds = {"input_ids": ids, "attention_mask": mask}
    right = raggedrt.Session(bundle, providers=["CPUExecutionProvider"]).run(feeds)
    _assert_same(session.run(feeds), right, bundle.manifest.dtype)


def test_attention_runs_as_plugins(bundle: Bundle) -> None:
    (engine,) = bundle.manifest.engines
    assert engine.plugins is not None
    assert {"RaggedAttention", "AttentionPlan"} <= set(engine.plugins.creators)
    assert engine.layers is not None
    layers = json.loads((bundle.path / engine.layers).read_text())["Layers"]
    plugins = [layer for layer in layers if "plugin" in str(layer.get("LayerType", "")).lower()]
    assert len(plugins) >= MINILM["num_hidden_layers"]


def test_a_batch_outside_every_profile_is_refused_with_the_profiles(session: raggedrt.Session) -> None:
    with pytest.raises(InputError, match="profile"):
        session.run({"input_ids": _rows((4,) * 9)})


def test_the_engine_agrees_with_its_source(bundle: Bundle, source: pathlib.Path) -> None:
    arguments = ["compare", str(source), str(bundle.path), "--trust-bundle", "-q"]
    if bundle.manifest.dtype == "fp16":
        arguments += ["--atol", "0.03", "--rtol", "0.03"]
    assert _raggedrt(*arguments) == 0


def test_plugins_inside_the_engine_run_in_a_process_without_ours(
    capability: int, source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    options = {"plugins": "serialized", "version_compatible": True}
    bundle = raggedrt.convert(source, tmp_path / "bundle", target="tensorrt", dtype="fp16", **DEMAND, **options)
    assert bundle.manifest.engines[0].plugins is not None
    assert bundle.manifest.engines[0].plugins.serialized
    ids, mask = np.full((2, 7), 9), np.ones((2, 7), np.int64)
    mask[1, 4:] = 0
    np.savez(tmp_path / "in.npz", input_ids=ids, attention_mask=mask)
    arguments = ["run", str(bundle.path), "--inputs", str(tmp_path / "in.npz"), "-o", str(tmp_path / "out.npz")]
    assert _raggedrt(*arguments, "--trust-bundle") == 0
    right = raggedrt.Session(bundle, providers=["CPUExecutionProvider"]).run({"input_ids": ids, "attention_mask": mask})
    with np.load(tmp_path / "out.npz") as found:
        _assert_same(dict(found), right, "fp16")


def test_a_shipped_bundle_runs_with_its_own_plugins(bundle: Bundle, tmp_path: pathlib.Path) -> None:
    raggedrt.ship(bundle.path, tmp_path / "shipped")
    np.savez(tmp_path / "in.npz", input_ids=np.full((1, 5), 9), attention_mask=np.ones((1, 5), np.int64))
    arguments = ["run", str(tmp_path / "shipped"), "--inputs", str(tmp_path / "in.npz"), "--trust-bundle"]
    assert _raggedrt(*arguments, "-o", str(tmp_path / "out.npz")) == 0
    hidden = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "empty"), "TENSORRT_ROOT": str(tmp_path / "empty")}
    assert _raggedrt(*arguments, "-o", str(tmp_path / "other.npz"), environment=hidden) == 0


def _raggedrt(*arguments: str, environment: dict[str, str] | None = None) -> int:
    """A process of its own: TensorRT knows a plugin once per process."""
    command = [sys.executable, "-m", "raggedrt", *arguments]
    return subprocess.run(command, env=environment, check=False, timeout=1200).returncode
