"""What the building process asks of TensorRT, through TensorRT's own Python bindings and Polygraphy.

Behind the bindings are libraries that write the calls down and build nothing: names, types and order of calls are
checked, results are not. Needs `tensorrt-cu13-bindings` and TensorRT's headers of the same version.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import onnx_ir as ir
import pytest

from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_runs import rewritten
from helpers.project import ROOT
from helpers.tensorrt_bindings import flag, recording_libraries, unusable
from raggedrt.errors import TargetError
from raggedrt.plugins.kernel_packs.pack_file import pack_name
from raggedrt.plugins.native.plugin_library import build_plugin_library
from raggedrt.plugins.native.plugin_registrar import build_registrar
from raggedrt.plugins.tensorrt.job import EngineJob
from raggedrt.plugins.tensorrt.plugin_model import PLUGIN_MODEL_NAME, write_plugin_model

pytestmark = pytest.mark.tensorrt
BOUNDS = {"cu_seqlens": ((2,), (3,), (5,)), "max_seqlen": ((1,), (4,), (8,))}
ALIAS = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"


@pytest.fixture(scope="module")
def libraries() -> pathlib.Path:
    if reason := unusable():
        pytest.skip(reason)
    return recording_libraries()


@pytest.fixture(scope="module")
def plugins() -> pathlib.Path:
    try:
        return build_plugin_library()
    except TargetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("graph")
    pair = rewritten(build_encoder(EncoderSpec()), target="tensorrt", io="ragged")
    ir.save(pair.model, folder / "model.onnx")
    write_plugin_model(folder / "model.onnx", folder / PLUGIN_MODEL_NAME)
    return folder / PLUGIN_MODEL_NAME


LOADING = """
import pathlib, sys
import tensorrt as trt
from helpers.engine_bundles import engine_record
from raggedrt.errors import TargetError
from raggedrt.plugins.tensorrt.engine_plugins import load_engine_plugins
first, second = map(pathlib.Path, sys.argv[1:])
record = engine_record(builder_version=trt.__version__)
for _ in range(2):
    load_engine_plugins(record, [first], 90, "x.plan")
print(trt.get_plugin_registry().get_creator("RaggedAttention", "1", "raggedrt") is not None)
try:
    load_engine_plugins(record, [second], 90, "y.plan")
except TargetError as error:
    print(error)
"""


def environment_of(libraries: pathlib.Path, folder: pathlib.Path, **more: str) -> dict[str, str]:
    """TensorRT's bindings under its name, over these libraries."""
    (folder / "alias" / "tensorrt").mkdir(parents=True, exist_ok=True)
    (folder / "alias" / "tensorrt" / "__init__.py").write_text(ALIAS)
    bindings = [path for path in sys.path if (pathlib.Path(path) / "tensorrt_bindings").is_dir()]
    paths = [str(folder / "alias"), *bindings, str(ROOT / "tests")]
    known = {"PYTHONPATH": ":".join(paths), "LD_LIBRARY_PATH": str(libraries), "POLYGRAPHY_USE_TENSORRT_RTX": "0"}
    return {**os.environ, **known, **more}


def run(
    libraries: pathlib.Path, folder: pathlib.Path, graph: pathlib.Path, **changes: Any
) -> tuple[dict[str, Any], list[str]]:
    """The last event of the building process, and what TensorRT was asked."""
    names = [value.name for value in ir.load(graph).graph.inputs]
    bounds = {name: BOUNDS.get(str(name), ((1,), (8,), (32,))) for name in names}
    facts = {
        "target": "tensorrt",
        "onnx": str(graph),
        "engine": str(folder / "model.plan"),
        "layers": str(folder / "layers.json"),
        "profiles": (bounds,),
        "capabilities": (90,),
        "timing_cache": None,
        "lacks": (),
    }
    (folder / "job.json").write_text(EngineJob(**{**facts, **changes}).to_json())
    inputs, record = " ".join(f"{name}:1" for name in names), str(folder / "calls.txt")
    environment = environment_of(libraries, folder, RAGGEDRT_INPUTS=inputs, RAGGEDRT_RECORD=record)
    command = [sys.executable, "-m", "raggedrt.plugins.tensorrt.worker", str(folder / "job.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), (folder / "calls.txt").read_text().splitlines()


def test_plugins_are_known_before_the_graph_is_parsed_and_flags_are_set(
    libraries: pathlib.Path, plugins: pathlib.Path, graph: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    event, calls = run(libraries, tmp_path, graph, plugins=str(plugins))
    assert event["kind"] == "builder", event  # nothing is built here
    assert f"createNetworkV2 {1 << flag('STRONGLY_TYPED')}" in calls
    assert f"parseFromFile {graph}" in calls
    assert "initLibNvInferPlugins" in calls
    assert f"clearFlag {flag('TF32')}" in calls
    assert not [call for call in calls if call.startswith(("setFlag", "setPluginsToSerialize"))]
    assert "Builder.getPluginRegistry" not in calls  # that of the process serves inspection too
    assert "setHardwareCompatibilityLevel 0" in calls
    assert "VBuilderConfig.setProgressMonitor" in calls
    assert "VBuilderConfig.setProfilingVerbosity" in calls
    shapes = [call for call in calls if call.startswith("setDimensions cu_seqlens")]
    assert shapes == [f"setDimensions cu_seqlens {place} {size}" for place, size in ((0, 2), (1, 3), (2, 5))]
    assert calls[-1].startswith("VBuilder.buildSerializedNetwork")


def test_plugins_go_into_a_version_compatible_engine(
    libraries: pathlib.Path, plugins: pathlib.Path, graph: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    changes = {"serialize_plugins": True, "version_compatible": True, "hardware_compatibility": "ampere+"}
    event, calls = run(libraries, tmp_path, graph, plugins=str(plugins), **changes)
    assert event["kind"] == "builder", event
    assert f"setPluginsToSerialize {plugins}" in calls
    assert "setHardwareCompatibilityLevel 1" in calls
    assert [call for call in calls if call.startswith("setFlag")] == [f"setFlag {flag('VERSION_COMPATIBLE')}"]
    assert "Builder.getPluginRegistry" in calls


def test_ops_without_a_creator_are_listed_before_the_graph_is_parsed(
    libraries: pathlib.Path, graph: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    event, calls = run(libraries, tmp_path, graph)
    assert event["kind"] == "ops"
    assert {"raggedrt.RaggedAttention", "raggedrt.AttentionPlan"} <= event["ops"].keys()
    assert not [call for call in calls if call.startswith("parseFromFile")]


def test_a_library_that_tensorrt_does_not_take_is_told(
    libraries: pathlib.Path, graph: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "none.so").write_bytes(b"")
    event, _ = run(libraries, tmp_path, graph, plugins=str(tmp_path / "none.so"))
    assert event["kind"] == "plugins"
    assert event["library"] == str(tmp_path / "none.so")


def test_a_process_loads_the_plugins_of_its_engines_once(
    libraries: pathlib.Path, plugins: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    registrar = build_registrar()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / pack_name(90)).touch()
        for library in (plugins, registrar):
            shutil.copy(library, tmp_path / name)
    command = [sys.executable, "-c", LOADING, str(tmp_path / "first"), str(tmp_path / "second")]
    environment = environment_of(libraries, tmp_path)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    found, *refused = done.stdout.splitlines()
    assert found == "True", done.stderr
    assert "TensorRT knows a plugin once per process" in refused[0]
