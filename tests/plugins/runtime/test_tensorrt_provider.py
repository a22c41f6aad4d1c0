"""Bundles of target ort-trt: what a session checks before ONNX Runtime is asked, and what it says where that fails."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import onnxruntime
import pytest

from helpers.provider_bundles import CONTEXT, ENGINE, provider_bundle
from helpers.toy_bundles import reference
from raggedrt import Session
from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.bundle.manifest import ContextRecord
from raggedrt.plugins.bundle.model_facts import ModelFacts
from raggedrt.plugins.bundle.reader import open_bundle
from raggedrt.plugins.runtime.cuda_device import CudaState, cuda_state
from raggedrt.plugins.runtime.model_input import ModelInput
from raggedrt.plugins.runtime.served import configured, served
from raggedrt.plugins.runtime.tensorrt_provider import (
    PROVIDER,
    RECORD_KEY,
    check_options,
    explained,
    lacking,
    require_assignment,
    require_context,
    wants_tensorrt,
)

pytestmark = pytest.mark.ort_cpu
HAS_PROVIDER = PROVIDER in onnxruntime.get_available_providers()
IDS = np.array([[3, 4, 5], [6, 7, 1]])
MASK = np.array([[1, 1, 1], [1, 1, 0]])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return provider_bundle(tmp_path_factory.mktemp("trt") / "bundle").path


@pytest.mark.skipif(HAS_PROVIDER and cuda_state().problem is None, reason="this machine can run it")
def test_a_session_names_everything_that_is_missing(bundle: pathlib.Path) -> None:
    with pytest.raises(TargetError) as caught:
        Session(bundle)
    text = str(caught.value)
    assert caught.value.exit_code == 5
    if not HAS_PROVIDER:
        assert "pip install 'raggedrt[ort-trt]'" in text
    if problem := cuda_state().problem:
        assert problem in text
    assert "providers=['CPUExecutionProvider']" in text


def test_on_the_cpu_the_native_model_runs(bundle: pathlib.Path) -> None:
    outputs = Session(bundle, providers=["CPUExecutionProvider"]).run({"input_ids": IDS, "attention_mask": MASK})
    for row, count in enumerate((3, 2)):
        hidden, pooled = reference(IDS[row, :count], np.zeros(count, int), np.arange(count))
        np.testing.assert_allclose(outputs["hidden"][row, :count], hidden, atol=1e-5)
        np.testing.assert_allclose(outputs["pooled"][row], pooled, atol=1e-5)


def test_the_plugin_form_is_for_the_provider_in_front(bundle: pathlib.Path) -> None:
    opened = open_bundle(bundle)
    assert wants_tensorrt(opened, [PROVIDER, "CPUExecutionProvider"])
    assert not wants_tensorrt(opened, ["CUDAExecutionProvider", PROVIDER])
    chosen = served(opened, ["CPUExecutionProvider"], None, native=False, trusted=False)
    assert chosen.model.source == str(bundle / "model.onnx")
    assert chosen.guard is None


def test_what_is_lacking_without_driver_and_provider() -> None:
    nothing = CudaState(None, (), "the NVIDIA driver is not installed")
    missing = lacking(major=None, state=nothing)
    assert len(missing) == 2
    assert PROVIDER in missing[0]
    assert missing[1] == nothing.problem


def test_profiles_are_not_the_callers() -> None:
    check_options({"trt_fp16_enable": "1", "device_id": 0}, "the bundle")
    with pytest.raises(InputError, match=r"trt_profile_max_shapes .* is the bundle's"):
        check_options({"trt_profile_max_shapes": "input_ids:9x9"}, "the bundle")


def test_providers_and_options_come_in_two_ways() -> None:
    pair: list[Any] = [(PROVIDER, {"device_id": 1}), "CPUExecutionProvider"]
    assert configured(pair, None) == [(PROVIDER, {"device_id": "1"}), ("CPUExecutionProvider", {})]
    assert configured([PROVIDER], [{"trt_fp16_enable": True}]) == [(PROVIDER, {"trt_fp16_enable": "True"})]
    with pytest.raises(InputError, match="2 mappings, and there are 1 providers"):
        configured([PROVIDER], [{}, {}])


@pytest.mark.parametrize(
    ("version", "capability", "message"),
    [
        ("10.16.1", 89, r"compiled with TensorRT 10\.9\.0, and 10\.16\.1 is loaded here"),
        ("10.9.0", 120, r"compiled for compute capability 89, and the GPU here has 120"),
    ],
)
def test_what_was_compiled_for_another_machine_is_refused(version: str, capability: int, message: str) -> None:
    record = ContextRecord(
        file=CONTEXT,
        provider=PROVIDER,
        runtime_version="1.31.1",
        sdk_version="10.9.0",
        compute_capability=89,
        graph_sha256="0" * 64,
    )
    require_context(record, "the bundle", version="10.9.0", capability=89)
    with pytest.raises(TargetError, match=message):
        require_context(record, "the bundle", version=version, capability=capability)


def test_a_bundle_with_what_was_compiled_opens(tmp_path: pathlib.Path) -> None:
    found = provider_bundle(tmp_path / "bundle", engine=ENGINE)
    assert found.manifest.ep_context is not None
    assert found.manifest.ep_context.file == CONTEXT
    assert f"engines/{ENGINE}" in found.manifest.files


@pytest.mark.parametrize("place", ["../model.onnx.data", "/etc/passwd", "nowhere.engine"])
def test_what_was_compiled_lies_in_its_folder(tmp_path: pathlib.Path, place: str) -> None:
    with pytest.raises(InputError, match=r"outside its folder|is missing"):
        provider_bundle(tmp_path / "bundle", engine=place)


def test_a_compiled_model_has_compiled_parts(tmp_path: pathlib.Path) -> None:
    record = ContextRecord(
        file="model.trt.onnx",
        provider=PROVIDER,
        runtime_version="1.31.1",
        sdk_version="10.9.0",
        compute_capability=89,
        graph_sha256="0" * 64,
    )
    with pytest.raises(InputError, match="nothing that was compiled"):
        provider_bundle(tmp_path / "bundle", ep_context=record)
    with pytest.raises(InputError, match="does not list 'engines/nowhere"):
        provider_bundle(tmp_path / "other", ep_context=record.model_copy(update={"file": "engines/nowhere.onnx"}))


def test_an_engine_that_the_manifest_does_not_list_is_refused(tmp_path: pathlib.Path) -> None:
    found = provider_bundle(tmp_path / "bundle", engine=ENGINE)
    (found.path / "engines" / "other.engine").write_bytes(b"ftrt")
    with pytest.raises(InputError, match="is not listed in the bundle's manifest"):
        open_bundle(found.path)


def test_where_nothing_in_plugin_form_runs_elsewhere_there_is_no_complaint(bundle: pathlib.Path) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(RECORD_KEY, "1")
    session = Session(bundle, providers=["CPUExecutionProvider"], session_options=options, native=False)
    require_assignment(session.ort, "the bundle")
    parts = session.ort.get_provider_graph_assignment_info()
    assert {part.ep_name for part in parts} == {"CPUExecutionProvider"}


def test_the_plugin_form_without_registered_plugins_is_explained(bundle: pathlib.Path) -> None:
    """What ONNX Runtime itself says of a model whose plugins it does not know."""
    opened = open_bundle(bundle)
    chosen = dataclasses.replace(
        served(opened, ["CPUExecutionProvider"], None, native=False, trusted=False),
        model=ModelInput(str(bundle / "model.trt.onnx"), None, ModelFacts((), (), {}), "model.trt.onnx"),
        explained=lambda error: explained(error, "bundle x"),
    )
    with pytest.raises(
        TargetError, match=r"bundle x: ONNX Runtime does not know the plugins .*trt\.plugins:PackingPlan"
    ):
        chosen.open(None, None, warn_bodies=False)


def test_other_errors_stay_what_they_are() -> None:
    error = InputError("something else")
    assert explained(error, "bundle x") is error
    assert "did not take a node" in str(explained(InputError("Could not find an implementation for X(1)"), "bundle x"))
