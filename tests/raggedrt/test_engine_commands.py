"""The command lines beside an engine: complete, one per profile where that is needed; Polygraphy's really builds."""

from __future__ import annotations

import os
import pathlib
import shlex
import subprocess
import sys

import onnx
import pytest

from raggedrt.engine_commands import commands, script
from raggedrt.plugins.bundle.manifest import EngineRecord
from raggedrt.plugins.contract.io_roles import Role, TensorRole
from raggedrt.plugins.tensorrt.profiles import SizeRange, Sizes, profile_of

INPUTS = (
    TensorRole("input_ids", Role.PER_TOKEN, "int64", ("tokens",)),
    TensorRole("cu_seqlens", Role.CU_SEQLENS, "int32", ("batch+1",)),
)


def _record(target: str) -> EngineRecord:
    small = SizeRange(Sizes(1, 1, 1), Sizes(4, 64, 32), Sizes(8, 256, 64))
    large = SizeRange(Sizes(1, 256, 1), Sizes(4, 512, 256), Sizes(8, 4096, 512))
    return EngineRecord(
        file="engines/model.plan",
        target=target,
        builder="TensorRT",
        builder_version="1",
        compute_capabilities=(86, 120),
        profiles=tuple(profile_of(INPUTS, sizes) for sizes in (small, large)),
        graph_sha256="0" * 64,
    )


@pytest.mark.none
def test_the_products_own_tool_gets_every_profile() -> None:
    lines = dict(commands(_record("tensorrt-rtx"), "model.onnx"))
    build = shlex.split(lines["build the engine with tensorrt_rtx"])
    assert build[:3] == ["tensorrt_rtx", "--onnx=model.onnx", "--saveEngine=engines/model.plan"]
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
def test_classic_tensorrt_loads_its_plugins() -> None:
    lines = dict(commands(_record("tensorrt"), "model.onnx", plugins=["lib/libraggedrt_trt.so"]))
    build = shlex.split(lines["build the engine with trtexec"])
    assert {"--staticPlugins=lib/libraggedrt_trt.so", "--stronglyTyped"} <= set(build)
    assert shlex.split(lines["build the engine with Polygraphy"])[-2:] == ["--plugins", "lib/libraggedrt_trt.so"]
    assert "POLYGRAPHY_USE_TENSORRT_RTX" not in "".join(lines.values())


@pytest.mark.none
def test_the_text_says_what_each_line_does() -> None:
    text = script(_record("tensorrt-rtx"), "model.onnx")
    assert text.count("\n# ") == 4
    assert "POLYGRAPHY_USE_TENSORRT_RTX=1 polygraphy convert model.onnx -o engines/model.plan --strongly-typed" in text


@pytest.mark.tensorrt
def test_the_line_for_polygraphy_builds_an_engine(tmp_path: pathlib.Path) -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
g (int64[tokens] input_ids, int32[ends] cu_seqlens) => (float[tokens] y, float[ends] z) {
  y = Cast <to = 1> (input_ids)
  z = Cast <to = 1> (cu_seqlens)
}""")
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "engines").mkdir()
    line = dict(commands(_record("tensorrt-rtx"), "model.onnx"))["build the engine with Polygraphy"]
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "engines" / "model.plan").read_bytes()[:4] == b"vtrt"
