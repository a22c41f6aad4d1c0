"""Building engines: what comes out, what is refused before the build, and what is left after a failure: nothing."""

from __future__ import annotations

import json
import pathlib
import stat

import onnx
import pytest

from raggedrt.errors import InputError, RaggedRTError, TargetError
from raggedrt.plugins.tensorrt import engine as engine_module
from raggedrt.plugins.tensorrt.engine import build_engine
from raggedrt.plugins.tensorrt.flavour import FLAVOURS
from raggedrt.plugins.tensorrt.job import EngineJob

pytestmark = pytest.mark.tensorrt
RTX = FLAVOURS["tensorrt-rtx"]
PLAIN = "float[T,4] x) => (float[T,2] y) <float[4,2] w = {1,0,0,1,1,0,0,1}> { p = MatMul (x, w) y = Relu (p) }"


def graph(folder: pathlib.Path, text: str = PLAIN, imports: str = "") -> pathlib.Path:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20{imports}]> g ({text}')
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def job(folder: pathlib.Path, onnx_file: pathlib.Path, **changes: object) -> EngineJob:
    facts = {
        "target": "tensorrt-rtx",
        "onnx": str(onnx_file),
        "engine": str(folder / "model.plan"),
        "layers": str(folder / "layers.json"),
        "profiles": ({"x": ((1, 4), (8, 4), (64, 4))}, {"x": ((64, 4), (100, 4), (4096, 4))}),
        "capabilities": (86, 89),
        "timing_cache": None,
        "lacks": tuple(RTX.lacks),
    }
    return EngineJob(**{**facts, **changes})  # type: ignore[arg-type]


def test_a_job_survives_its_trip() -> None:
    sent = job(pathlib.Path("/a"), pathlib.Path("/b"), timing_cache="c")
    assert EngineJob.from_json(sent.to_json()) == sent


def test_an_engine_with_what_it_took(tmp_path: pathlib.Path) -> None:
    phases: list[tuple[str, int, int]] = []
    facts = build_engine(job(tmp_path, graph(tmp_path)), RTX, "toy", lambda *phase: phases.append(phase))
    plan = (tmp_path / "model.plan").read_bytes()
    assert plan[:4] == b"vtrt"
    assert facts.plan_bytes == len(plan)
    assert facts.builder_version.startswith("1.")
    assert facts.peak_memory_bytes > 10**7
    assert facts.build_seconds > 0
    assert facts.cpu_seconds > 0
    assert [tensor["Name"] for tensor in facts.tensors["inputs"]] == ["x"]
    assert facts.tensors["outputs"][0]["Dimensions"] == [-1, 2]
    layers = json.loads((tmp_path / "layers.json").read_text())["Layers"]
    assert facts.inspected  # TensorRT for RTX tells it without a GPU too
    assert {"gemm", "runtime_fusion"} & {layer["LayerType"] for layer in layers}
    given, made = facts.engine_tensors
    assert given["Profiles"] == [[[1, 4], [8, 4], [64, 4]], [[64, 4], [100, 4], [4096, 4]]]
    assert made["IOMode"] == "Output"
    assert phases
    assert all(name and done >= 0 for name, done, _ in phases)


def test_a_timing_cache_is_written_and_read_again(tmp_path: pathlib.Path) -> None:
    cache = tmp_path / "timing.cache"
    for _ in range(2):
        build_engine(job(tmp_path, graph(tmp_path), timing_cache=str(cache)), RTX, "toy")
        assert cache.stat().st_size > 0


def test_every_op_that_is_lacked_is_listed_before_the_build(tmp_path: pathlib.Path) -> None:
    text = """float[T,4] x) => (float[N] y) {
      [find] indices = NonZero (x)
      [unique] values = Unique (x)
      [ours] y = com.microsoft.BiasGelu (values, values)
    }"""
    with pytest.raises(InputError) as refused:
        build_engine(job(tmp_path, graph(tmp_path, text, ', "com.microsoft" : 1')), RTX, "in.onnx")
    message = str(refused.value)
    assert "the op NonZero (nodes 'find'): the number of its results is known on the device only" in message
    assert "the op Unique (nodes 'unique')" in message
    assert "the op com.microsoft.BiasGelu (nodes 'ours')" in message
    assert "convert the source with this target" in message
    assert not (tmp_path / "model.plan").exists()


def test_what_the_parser_refuses_is_told_with_its_node(tmp_path: pathlib.Path) -> None:
    text = "float[T,4] x) => (float[T,4] y) { [broken] y = Softmax <axis = 7> (x) }"
    with pytest.raises(InputError, match=r"the parser of TensorRT for RTX refuses the graph: .*Softmax"):
        build_engine(job(tmp_path, graph(tmp_path, text)), RTX, "in.onnx")


def test_an_engine_that_cannot_be_written_is_told(tmp_path: pathlib.Path) -> None:
    there = graph(tmp_path)
    with pytest.raises(RaggedRTError, match=r"cannot be written \(Is a directory\)"):
        build_engine(job(tmp_path, there, engine=str(tmp_path)), RTX, "in.onnx")


def test_a_profile_that_the_builder_refuses_is_told(tmp_path: pathlib.Path) -> None:
    profiles = ({"x": ((1, 4), (8, 5), (64, 4))},)
    with pytest.raises(RaggedRTError, match="builder of TensorRT for RTX failed"):
        build_engine(job(tmp_path, graph(tmp_path), profiles=profiles), RTX, "in.onnx")
    assert not (tmp_path / "model.plan").exists()


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("kill -KILL $$", RaggedRTError, r"ran out of memory \(it was killed\).*--max-shapes"),
        ("kill -ABRT $$", RaggedRTError, "ended with SIGABRT"),
        ("echo terrible >&2; exit 7", RaggedRTError, r"ended with status 7 \(terrible\)"),
        ("echo 'ModuleNotFoundError: no polygraphy' >&2; exit 1", TargetError, "does not start"),
        (
            """echo '{"event":"failed","kind":"files","messages":["No space left on device"]}'; exit 3""",
            RaggedRTError,
            r"cannot be written \(No space left on device\).*TMPDIR",
        ),
        ("""echo '{"event":"failed","kind":"memory","messages":[]}'; exit 3""", RaggedRTError, "ran out of memory"),
    ],
)
def test_a_process_that_dies_does_no_harm(
    script: str, error: type[Exception], message: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder's process is replaced by one that fails in a certain way."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(engine_module.sys, "executable", str(program))
    with pytest.raises(error, match=message):
        build_engine(job(tmp_path, graph(tmp_path)), RTX, "in.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "python"]
