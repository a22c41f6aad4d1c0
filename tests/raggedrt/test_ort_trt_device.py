"""`--target ort-trt` where ONNX Runtime's TensorRT provider runs: values, engines that are kept, compiled models.

Needs onnxruntime-gpu, TensorRT 10, the plugins (doctor --build-plugins), a kernel pack and a GPU.
"""

from __future__ import annotations

import logging
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

import raggedrt
from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.bundle.ep_context import ep_contexts
from raggedrt.plugins.bundle.model_facts import load_proto
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.runtime.cuda_device import cuda_state
from raggedrt.plugins.runtime.tensorrt_provider import PROVIDER, lacking
from raggedrt.plugins.tensorrt.libraries import find_plugins, load_tensorrt, provider_major

pytestmark = pytest.mark.tensorrt
SHAPES = {"min_shapes": "input_ids:1x1", "opt_shapes": "input_ids:4x16", "max_shapes": "input_ids:8x64"}
LENGTHS = ((1,), (5, 1, 7), (64, 3, 33, 1), (8,) * 8)
TOLERANCES = {"fp32": 2e-3, "fp16": 2e-2}


@pytest.fixture(scope="module", autouse=True)
def _machine() -> None:
    major = provider_major()
    if missing := lacking(major=major, state=cuda_state()):
        pytest.skip("; ".join(missing))
    assert major is not None
    try:
        find_plugins(major)
    except TargetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=[("padded", "fp32"), ("ragged", "fp32"), ("ragged", "fp16")], ids="-".join)
def bundle(
    request: pytest.FixtureRequest, tiny_source: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    io, dtype = request.param
    output = tmp_path_factory.mktemp("trt") / f"{io}-{dtype}"
    return raggedrt.convert(tiny_source, output, target="ort-trt", io=io, dtype=dtype, **SHAPES)


@pytest.fixture(scope="module")
def session(bundle: Bundle) -> raggedrt.Session:
    return raggedrt.Session(bundle)


def rows(lengths: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(sum(lengths))
    return [rng.integers(5, 100, count) for count in lengths]


def compare(one: dict[str, Any], two: dict[str, Any], tolerance: float) -> None:
    for name, want in two.items():
        pairs = zip(one[name], want, strict=True) if isinstance(want, list) else [(one[name], want)]
        for got, right in pairs:
            np.testing.assert_allclose(np.float32(got), np.float32(right), atol=tolerance, err_msg=name)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_values_are_those_of_the_cpu(session: raggedrt.Session, bundle: Bundle, lengths: tuple[int, ...]) -> None:
    feeds = {"input_ids": rows(lengths)}
    right = raggedrt.Session(bundle, providers=["CPUExecutionProvider"]).run(feeds)
    compare(session.run(feeds), right, TOLERANCES[bundle.manifest.dtype])


def test_left_padding_and_holes_give_the_same_values(session: raggedrt.Session, bundle: Bundle) -> None:
    if bundle.manifest.io != "padded":
        pytest.skip("packed tokens know right padding only")
    ids = np.random.default_rng(3).integers(5, 100, (3, 12))
    mask = np.ones((3, 12), np.int64)
    mask[0, :5] = mask[1, 3:6] = mask[2, 1:] = 0
    feeds = {"input_ids": ids, "attention_mask": mask}
    right = raggedrt.Session(bundle, providers=["CPUExecutionProvider"]).run(feeds)
    compare(session.run(feeds), right, TOLERANCES[bundle.manifest.dtype])


def test_shapes_outside_the_profile_are_refused_before_the_call(session: raggedrt.Session) -> None:
    with pytest.raises(InputError, match="profile 0: "):
        session.run({"input_ids": rows((2,) * 9)})
    session.run({"input_ids": rows((2,) * 8)})


def test_tensorrt_computes_every_plugin(session: raggedrt.Session) -> None:
    parts = session.ort.get_provider_graph_assignment_info()
    ours = [part.ep_name for part in parts for node in part.get_nodes() if node.domain == "trt.plugins"]
    assert ours
    assert set(ours) == {PROVIDER}


def test_the_engine_is_kept(bundle: Bundle, session: raggedrt.Session, caplog: pytest.LogCaptureFixture) -> None:
    session.run({"input_ids": rows((3, 4))})
    with caplog.at_level(logging.WARNING, "raggedrt"):
        raggedrt.Session(bundle).run({"input_ids": rows((3, 4))})
    assert not [record for record in caplog.records if "engine" in record.getMessage()]


def test_a_compiled_model_gives_the_same_values(tiny_source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    found = raggedrt.convert(tiny_source, tmp_path / "out", target="ort-trt", ep_context=True, **SHAPES)
    record = found.manifest.ep_context
    assert record is not None
    assert record.sdk_version == load_tensorrt(provider_major() or 0)
    assert ep_contexts(load_proto(found.path / record.file))
    (facts,) = raggedrt.inspect(found.path / record.file)["ep_contexts"]
    assert facts["present"]
    feeds = {"input_ids": rows((5, 1, 7))}
    moved = pathlib.Path(shutil.move(found.path, tmp_path / "elsewhere"))
    compiled = raggedrt.Session(moved, trust_bundle=True)
    compare(compiled.run(feeds), raggedrt.Session(moved, providers=["CPUExecutionProvider"]).run(feeds), 2e-3)
