"""The command lines beside an engine: complete, one per profile where that is needed; Polygraphy's really builds."""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import runpy
import shlex
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest

from raggedrt.engine_commands import Files, commands, script
from raggedrt.engine_samples import LOADER_NAME, sample_inputs, write_samples
from raggedrt.plugins.bundle.manifest import EngineRecord, PluginRecord
from raggedrt.plugins.contract.io_roles import Role, TensorRole
from raggedrt.plugins.tensorrt.profiles import SizeRange, Sizes, profile_of

INPUTS = (
    TensorRole("input_ids", Role.PER_TOKEN, "int64", ("tokens",)),
    TensorRole("cu_seqlens", Role.CU_SEQLENS, "int32", ("batch+1",)),
)


FILES = Files("model.onnx", "model.onnx")
WITH_PLUGINS = Files(
    "model.trt.onnx", "model.onnx", "lib/libraggedrt_trt.so", "lib/libraggedrt_trt_ort.so", "engine_inputs"
)


def _plugins(*, serialized: bool) -> PluginRecord:
    return PluginRecord(version="1", abi=1, creators=("RaggedAttention",), serialized=serialized)


def _record(target: str, **changes: Any) -> EngineRecord:
    small = SizeRange(Sizes(1, 1, 1), Sizes(4, 64, 32), Sizes(8, 256, 64))
    large = SizeRange(Sizes(1, 256, 1), Sizes(4, 512, 256), Sizes(8, 4096, 512))
    facts: dict[str, Any] = {
        "file": "engines/model.plan",
        "target": target,
        "builder": "TensorRT",
        "builder_version": "10.13.2.6",
        "compute_capabilities": (86, 120),
        "profiles": tuple(profile_of(INPUTS, sizes) for sizes in (small, large)),
        "graph_sha256": "0" * 64,
    }
    return EngineRecord(**{**facts, **changes})


@pytest.mark.none
def test_the_products_own_tool_gets_every_profile() -> None:
    lines = dict(commands(_record("tensorrt-rtx"), FILES))
    build = shlex.split(lines["build the engine with tensorrt_rtx, as ../rebuilt.plan"])
    assert build[:3] == ["tensorrt_rtx", "--onnx=model.onnx", "--saveEngine=../rebuilt.plan"]
    assert "--computeCapabilities=86,120" in build
    place = build.index("--profile=1")
    assert build[place + 1 : place + 4] == [
        "--minShapes=input_ids:256,cu_seqlens:2",
        "--optShapes=input_ids:512,cu_seqlens:5",
        "--maxShapes=input_ids:4096,cu_seqlens:9",
    ]
    assert build[-1] == "--skipInference"
    runs = lines["time it with tensorrt_rtx, at the best shapes of each profile"].splitlines()
    assert shlex.split(runs[1])[2:] == ["--useProfile=1", "--shapes=input_ids:512,cu_seqlens:5"]


@pytest.mark.none
def test_plugins_beside_the_engine_are_loaded_by_every_line() -> None:
    lines = dict(commands(_record("tensorrt", plugins=_plugins(serialized=False)), WITH_PLUGINS))
    build = shlex.split(lines["build the engine with trtexec, as ../rebuilt.plan"])
    assert build[1] == "--onnx=model.trt.onnx"
    assert {"--dynamicPlugins=lib/libraggedrt_trt.so", "--stronglyTyped", "--noTF32"} <= set(build)
    assert "setPluginsToSerialize" not in "".join(lines.values())
    runs = lines["time it with trtexec, at the best shapes of each profile"].splitlines()
    assert "--dynamicPlugins=lib/libraggedrt_trt.so" in shlex.split(runs[1])
    assert shlex.split(runs[1])[-1] == (
        "--loadInputs=input_ids:engine_inputs/1/input_ids.bin,cu_seqlens:engine_inputs/1/cu_seqlens.bin"
    )
    for line in (
        "build the engine with Polygraphy, as ../rebuilt.plan",
        "compare engine and ONNX Runtime on the sample inputs with Polygraphy",
    ):
        words = shlex.split(lines[line].splitlines()[0])
        assert words[:3] == ["python3", "-c", "import tensorrt; from polygraphy.tools import main; main()"]
        assert words[-2:] == ["--plugins", "lib/libraggedrt_trt_ort.so"]
    assert shlex.split(lines[line])[3:5] == ["run", "model.onnx"]
    assert "POLYGRAPHY_USE_TENSORRT_RTX" not in "".join(lines.values())


@pytest.mark.none
def test_an_engine_that_brings_its_plugins_is_built_with_them_and_loaded_alone() -> None:
    record = _record(
        "tensorrt",
        plugins=_plugins(serialized=True),
        version_compatible=True,
        hardware_compatibility="ampere+",
        builder_version="11.4.0.106",
    )
    lines = dict(commands(record, WITH_PLUGINS))
    build = set(shlex.split(lines["build the engine with trtexec, as ../rebuilt.plan"]))
    assert {
        "--dynamicPlugins=lib/libraggedrt_trt.so",
        "--setPluginsToSerialize=lib/libraggedrt_trt.so",
        "--versionCompatible",
        "--hardwareCompatibilityLevel=ampere+",
    } <= build
    assert "--stronglyTyped" not in build  # TensorRT 11 knows nothing else
    run = shlex.split(lines["time it with trtexec, at the best shapes of each profile"].splitlines()[0])
    assert run[0] == "RAGGEDRT_KERNEL_PACKS=lib"
    assert run[3] == "--versionCompatible"
    (compare,) = [line for what, line in lines.items() if what.startswith("compare")]
    assert compare.startswith("RAGGEDRT_KERNEL_PACKS=lib polygraphy run")
    assert not any("Plugins" in word for word in run)
    assert not any(what.startswith("build the engine with Polygraphy, as ../rebuilt.plan") for what in lines)


@pytest.mark.none
def test_sample_inputs_are_what_packed_tokens_mean(tmp_path: pathlib.Path) -> None:
    record = _record("tensorrt")
    for profile in record.profiles:
        shapes = profile.optimum
        arrays = sample_inputs(shapes, INPUTS)
        lengths = np.diff(arrays["cu_seqlens"])
        assert arrays["cu_seqlens"][0] == 0
        assert lengths.sum() == shapes["input_ids"][0]
        assert lengths.max() - lengths.min() <= 1
        assert {name: array.shape for name, array in arrays.items()} == shapes
    write_samples(tmp_path / "in", record.profiles, INPUTS)
    (loaded,) = runpy.run_path(str(tmp_path / "in" / LOADER_NAME))["load_data"]()
    wanted = sample_inputs(record.profiles[0].optimum, INPUTS)
    assert loaded.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype


@pytest.mark.none
def test_the_text_says_what_each_line_does() -> None:
    text = script(_record("tensorrt-rtx"), FILES)
    assert text.count("\n# ") == 4
    assert "POLYGRAPHY_USE_TENSORRT_RTX=1 polygraphy convert model.onnx -o ../rebuilt.plan --strongly-typed" in text


@pytest.mark.none
@pytest.mark.skipif(importlib.util.find_spec("polygraphy") is None, reason="Polygraphy is not installed")
def test_polygraphy_knows_every_option_of_its_lines() -> None:
    from polygraphy.tools.registry import TOOL_REGISTRY

    for target in ("tensorrt-rtx", "tensorrt"):  # the first has options of its own, which the next test uses
        for line in "\n".join(dict(commands(_record(target), FILES)).values()).splitlines():
            words = shlex.split(line)
            if "polygraphy" not in words or "--compute-capabilities" in words:
                continue
            name, *options = words[words.index("polygraphy") + 1 :]
            parser = argparse.ArgumentParser()
            tool = next(tool for tool in TOOL_REGISTRY if tool.name == name)
            tool.setup_parser(parser.add_subparsers())
            _, unknown = parser.parse_known_args([name, *options])
            assert not unknown, line


@pytest.mark.tensorrt
def test_the_line_for_polygraphy_builds_an_engine(tmp_path: pathlib.Path) -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
g (int64[tokens] input_ids, int32[ends] cu_seqlens) => (float[tokens] y, float[ends] z) {
  y = Cast <to = 1> (input_ids)
  z = Cast <to = 1> (cu_seqlens)
}""")
    (tmp_path / "bundle").mkdir()
    onnx.save(model, tmp_path / "bundle" / "model.onnx")
    line = dict(commands(_record("tensorrt-rtx"), FILES))["build the engine with Polygraphy, as ../rebuilt.plan"]
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=tmp_path / "bundle",
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "rebuilt.plan").read_bytes()[:4] == b"vtrt"
