"""`--target ort-trt`: a native model, its plugin form and a profile, converted with or without the GPU that runs it."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import onnxruntime
import pytest

import raggedrt
from raggedrt.cli import main
from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.bundle.model_facts import model_facts
from raggedrt.plugins.bundle.reader import Bundle, open_bundle
from raggedrt.plugins.contract.op_definition import ORT_PLUGIN_DOMAIN
from raggedrt.plugins.runtime.cuda_device import cuda_state
from raggedrt.plugins.runtime.tensorrt_provider import PROVIDER, lacking
from raggedrt.plugins.tensorrt.libraries import provider_major

pytestmark = pytest.mark.ort_cpu
IDS = np.array([[5, 6, 7, 8], [9, 3, 0, 0], [2, 0, 0, 0]])
MASK = (IDS > 0).astype(np.int64)


def can_run() -> bool:
    return not lacking(major=provider_major(), state=cuda_state())


@pytest.fixture(scope="module", params=["padded", "ragged"])
def bundle(request: pytest.FixtureRequest, tiny_onnx: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    output = tmp_path_factory.mktemp("trt") / request.param
    arguments = ["convert", str(tiny_onnx), "-o", str(output), "--target", "ort-trt", "--io", request.param, "-q"]
    shapes = ["--min-shapes", "input_ids:1x1", "--opt-shapes", "input_ids:4x16", "--max-shapes", "input_ids:8x64"]
    assert main([*arguments, *shapes]) == 0
    return open_bundle(output)


def test_the_bundle_has_both_forms_and_one_profile(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.target, manifest.plugin_model, manifest.ep_context) == ("ort-trt", "model.trt.onnx", None)
    (profile,) = manifest.profiles
    names = {record.name for record in manifest.inputs}
    assert names == profile.minimum.keys() == profile.maximum.keys()
    assert profile.maximum["input_ids"] == ((8, 64) if manifest.io == "padded" else (512,))
    form = onnx.load(str(bundle.path / "model.trt.onnx"), load_external_data=False)
    ours = [node for node in form.graph.node if node.domain == ORT_PLUGIN_DOMAIN]
    assert sum(node.op_type == "RaggedAttention" for node in ours) == 2
    assert not [node for node in form.graph.node if node.domain == "raggedrt"]
    assert not [function for function in form.functions if function.domain == "raggedrt"]
    assert {entry.domain for entry in form.opset_import} >= {"", ORT_PLUGIN_DOMAIN}
    assert not [node for node in form.graph.node if node.domain == "com.microsoft"]
    assert model_facts(form).external_files == bundle.facts.external_files


def test_with_packed_tokens_no_size_depends_on_data(bundle: Bundle) -> None:
    form = onnx.load(str(bundle.path / "model.trt.onnx"), load_external_data=False)
    kinds = {node.op_type for node in form.graph.node}
    assert "NonZero" not in kinds
    assert ("PackingPlan" in kinds) == (bundle.manifest.io == "padded")


def test_the_native_model_was_verified_and_runs_on_the_cpu(bundle: Bundle) -> None:
    assert bundle.manifest.verification is not None
    assert bundle.manifest.verification.verified_on == "cpu"
    session = raggedrt.Session(bundle, providers=["CPUExecutionProvider"])
    together = session.run({"input_ids": IDS, "attention_mask": MASK})["last_hidden_state"]
    for row, count in enumerate(MASK.sum(axis=1)):
        alone = session.run({"input_ids": [IDS[row, :count]]})["last_hidden_state"][0]
        np.testing.assert_allclose(together[row, :count], alone, atol=1e-5)


@pytest.mark.skipif(can_run(), reason="this machine can run it")
def test_run_without_the_provider_or_a_gpu_is_exit_5(
    bundle: Bundle, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "in.npz", input_ids=IDS, attention_mask=MASK)
    arguments = ["run", str(bundle.path), "--inputs", str(tmp_path / "in.npz"), "-o", str(tmp_path / "out.npz")]
    assert main([*arguments, "-q"]) == 5
    assert "cannot run here" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_lengths_make_one_profile(tiny_onnx: pathlib.Path, tmp_path: pathlib.Path) -> None:
    options = {"target": "ort-trt", "io": "ragged", "lengths": "uniform(4,40)", "batch_sizes": "1,4"}
    found = raggedrt.convert(tiny_onnx, tmp_path / "out", **options)
    (profile,) = found.manifest.profiles
    assert profile.minimum["input_ids"] == (4,)
    assert profile.maximum["input_ids"] == (160,)
    assert profile.maximum["cu_seqlens"] == (5,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_capability": "89"}, "--compute-capability: ONNX Runtime builds the engine"),
        ({"timing_cache": "t.bin"}, "--timing-cache: ONNX Runtime builds the engine"),
        ({"min_shapes": "input_ids:1x1", "max_shapes": "nothing:2x2"}, "names 'nothing', which is no input"),
    ],
)
def test_what_does_not_fit_is_refused(
    tiny_onnx: pathlib.Path, tmp_path: pathlib.Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        raggedrt.convert(tiny_onnx, tmp_path / "out", target="ort-trt", **options)
    assert not (tmp_path / "out").exists()


def test_compiling_is_for_this_target(tiny_onnx: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="--ep-context: is for --target ort-trt"):
        raggedrt.convert(tiny_onnx, tmp_path / "out", ep_context=True)


@pytest.mark.skipif(can_run(), reason="this machine can compile it")
def test_compiling_without_the_provider_is_an_error(tiny_onnx: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(TargetError, match=r"--ep-context .*cannot run here"):
        raggedrt.convert(tiny_onnx, tmp_path / "out", target="ort-trt", ep_context=True)
    assert not (tmp_path / "out").exists()


def test_doctor_tells_what_is_lacking(capsys: pytest.CaptureFixture[str]) -> None:
    row = next(row for row in raggedrt.doctor().targets if row[0] == "ort-trt")
    assert row[1] == "yes"
    if PROVIDER not in onnxruntime.get_available_providers():
        assert "pip install 'raggedrt[ort-trt]'" in row[2]


def test_build_compiles_a_bundle_where_the_gpu_is(
    bundle: Bundle, tiny_onnx: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = ["-o", str(output), "--target", "ort-trt", "-q"]
    assert main(["build", str(tiny_onnx), *arguments]) == 2
    assert "expected a bundle" in capsys.readouterr().err
    assert main(["build", str(bundle.path), *arguments, "--lengths", "uniform(1,4)"]) == 2
    assert "has its profile" in capsys.readouterr().err
    if not can_run():
        assert main(["build", str(bundle.path), *arguments]) == 5
        assert "cannot run here" in capsys.readouterr().err
        assert not output.exists()
