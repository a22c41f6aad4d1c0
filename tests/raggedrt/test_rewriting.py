"""`rewrite`: from file to file or in memory; invalid files are refused, inputs are never touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import raggedrt
from helpers.tolerances import Tolerance, assert_close
from raggedrt.cli import main

pytestmark = pytest.mark.ort_cpu

CLOSE = Tolerance(1e-5, 1e-4)
RELU = '<ir_version: 9, opset_import: ["" : 18]> m (float[N,4] x) => (float[N,4] y) { y = Relu (x) }'


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 0, 1, 0, 0]])
    return {
        "input_ids": rng.integers(3, 90, mask.shape),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, mask.shape),
    }


def hidden(model: str | Path | onnx.ModelProto, *, native: bool = False, folder: str | None = None) -> np.ndarray:
    session = raggedrt.ort_session(model, native=native, external_data_dir=folder)
    names = {value.name for value in session.get_inputs()}
    given = {name: array for name, array in feeds().items() if name in names}
    return np.where(given["attention_mask"][..., None] != 0, session.run(["last_hidden_state"], given)[0], 0)


def with_external_data(source: Path, target: Path, data: str = "weights.bin") -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    model = onnx.load(str(source))
    onnx.save(model, str(target), save_as_external_data=True, location=data, size_threshold=64)
    return target


def test_a_proto_is_rewritten_and_left_as_it_is(tiny_onnx: Path) -> None:
    original = onnx.load(str(tiny_onnx))
    before = original.SerializeToString()
    model, report = raggedrt.rewrite(original)
    assert original.SerializeToString() == before
    assert sum(node.op_type == "RaggedAttention" for node in model.graph.node) == 2
    assert [entry.op for entry in report.attention] == ["RaggedAttention"] * 2
    assert_close(hidden(model), hidden(tiny_onnx), CLOSE)


def test_a_file_is_rewritten_on_the_command_line(tiny_onnx: Path, tmp_path: Path) -> None:
    output, report = tmp_path / "deep" / "out.onnx", tmp_path / "report.json"
    assert main(["rewrite", str(tiny_onnx), "-o", str(output), "--report", str(report), "-q"]) == 0
    assert '"attention"' in report.read_text()
    assert [path.name for path in output.parent.iterdir()] == ["out.onnx"]
    assert_close(hidden(output), hidden(tiny_onnx), CLOSE)


def test_a_mask_of_another_name_is_named_on_the_command_line(tiny_onnx: Path, tmp_path: Path) -> None:
    renamed, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    proto = onnx.load(str(tiny_onnx))
    for node in proto.graph.node:
        node.input[:] = ["valid" if name == "attention_mask" else name for name in node.input]
    for value in proto.graph.input:
        value.name = "valid" if value.name == "attention_mask" else value.name
    onnx.save(proto, str(renamed))
    assert main(["rewrite", str(renamed), "-o", str(output), "--features", "pack", "-q"]) == 3
    assert main(["rewrite", str(renamed), "-o", str(output), "--mask-input", "nothing", "-q"]) == 2
    options = ["--features", "pack", "--mask-input", "valid", "-q"]
    assert main(["rewrite", str(renamed), "-o", str(output), *options]) == 0
    session = raggedrt.ort_session(output, native=False)
    given = {"valid" if name == "attention_mask" else name: array for name, array in feeds().items()}
    names = {value.name for value in session.get_inputs()}
    got = session.run(["last_hidden_state"], {name: given[name] for name in names})[0]
    assert_close(np.where(given["valid"][..., None] != 0, got, 0), hidden(tiny_onnx), CLOSE)


def test_external_data_stays_external(tiny_onnx: Path, tmp_path: Path) -> None:
    source = with_external_data(tiny_onnx, tmp_path / "in" / "model.onnx")
    model, report = raggedrt.rewrite(source)
    assert report.external_data_dir == str(source.parent)
    assert any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    assert_close(hidden(model, folder=report.external_data_dir), hidden(tiny_onnx), CLOSE)
    output = tmp_path / "out" / "model.onnx"
    raggedrt.rewriting.rewrite_file(source, output)
    shutil.rmtree(source.parent)
    assert {path.name for path in output.parent.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert_close(hidden(output), hidden(tiny_onnx), CLOSE)


def test_inputs_are_never_overwritten(tiny_onnx: Path, tmp_path: Path) -> None:
    source = with_external_data(tiny_onnx, tmp_path / "model.onnx", data="out.onnx.data")
    before = source.read_bytes(), (tmp_path / "out.onnx.data").read_bytes()
    assert main(["rewrite", str(source), "-o", str(source), "--force", "-q"]) == 2
    assert main(["rewrite", str(source), "-o", str(tmp_path / "out.onnx"), "--force", "-q"]) == 2
    assert (source.read_bytes(), (tmp_path / "out.onnx.data").read_bytes()) == before


def test_outputs_do_not_overwrite_each_other(tiny_onnx: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    assert main(["rewrite", str(tiny_onnx), "-o", output, "--report", output, "-q"]) == 2
    assert main(["convert", str(tiny_onnx), "-o", output, "--report", f"{output}/manifest.json", "-q"]) == 2
    assert not list(tmp_path.iterdir())


def test_an_existing_output_needs_force(tiny_onnx: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    output.write_text("mine")
    arguments = ["rewrite", str(tiny_onnx), "-o", str(output), "-q"]
    assert main(arguments) == 2
    assert output.read_text() == "mine"
    assert main([*arguments, "--force"]) == 0
    assert onnx.load(str(output)).graph.node


def test_a_feature_that_matches_nothing_is_exit_3_and_writes_nothing(tmp_path: Path) -> None:
    source = tmp_path / "relu.onnx"
    onnx.save(onnx.parser.parse_model(RELU), source)
    arguments = ["rewrite", str(source), "-o", str(tmp_path / "out.onnx"), "--features", "pack", "-q"]
    assert main(arguments) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["relu.onnx"]
    assert main([*arguments, "--allow-partial"]) == 0


def _truncated(path: Path, tiny: Path) -> None:
    path.write_bytes(tiny.read_bytes()[:-1000])


def _text(path: Path, tiny: Path) -> None:
    path.write_text("this is not a model")


def _empty(path: Path, tiny: Path) -> None:
    path.write_bytes(b"")


def _undefined_input(path: Path, tiny: Path) -> None:
    model = onnx.parser.parse_model(RELU)
    model.graph.node[0].input[0] = "nowhere"
    onnx.save(model, path)


def _unknown_op(path: Path, tiny: Path) -> None:
    model = onnx.parser.parse_model(RELU)
    model.graph.node[0].op_type = "Rectify"
    onnx.save(model, path)


def _missing_output(path: Path, tiny: Path) -> None:
    model = onnx.parser.parse_model(RELU)
    model.graph.output[0].name = "nobody"
    onnx.save(model, path)


def _missing_data(path: Path, tiny: Path) -> None:
    with_external_data(tiny, path)
    (path.parent / "weights.bin").unlink()


def _short_data(path: Path, tiny: Path) -> None:
    with_external_data(tiny, path)
    data = path.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:100])


def _data_outside(path: Path, tiny: Path) -> None:
    with_external_data(tiny, path)
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    onnx.save(model, path)


def _computed_twice(source: Path, tiny_onnx: Path) -> None:
    model = onnx.load(str(tiny_onnx))
    model.graph.node.append(model.graph.node[0])
    onnx.save(model, str(source))


def _too_new(path: Path, tiny: Path) -> None:
    model = onnx.parser.parse_model(RELU)
    model.opset_import[0].version = 99
    onnx.save(model, path)


@pytest.mark.parametrize(
    "spoil",
    [
        _truncated,
        _text,
        _empty,
        _undefined_input,
        _unknown_op,
        _missing_output,
        _missing_data,
        _short_data,
        _data_outside,
        _too_new,
        _computed_twice,
    ],
)
@pytest.mark.parametrize("verb", ["rewrite", "inspect", "convert"])
def test_an_invalid_model_is_exit_2_and_named(
    spoil: Callable[[Path, Path], None],
    verb: str,
    tiny_onnx: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / "in" / "model.onnx"
    source.parent.mkdir()
    spoil(source, tiny_onnx)
    output = [] if verb == "inspect" else ["-o", str(tmp_path / "out.onnx")]
    assert main([verb, str(source), *output, "-q"]) == 2
    error = capsys.readouterr().err
    assert "model.onnx" in error
    assert len(error.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_negative_size_is_one_that_is_not_known() -> None:
    """Some exporters write -1; folded as a number, this Reshape would ask for -6 elements."""
    text = """<ir_version: 9, opset_import: ["" : 18]>
    m (float[-1,3,2] x) => (float[N] y)
    <int64[1] axis = {0}>
    { shape = Shape (x)  size = ReduceProd <keepdims = 1> (shape, axis)  y = Reshape (x, size) }"""
    model = onnx.parser.parse_model(text)
    result, _ = raggedrt.rewrite(model, allow_partial=True)
    x = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    (y,) = raggedrt.ort_session(result).run(None, {"x": x})
    assert np.array_equal(y, x.reshape(-1))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("<opset_import: [\"\" : 18], domain: \"d\"> f (a) => (b) { b = MatMul (a) }", "not valid ONNX"),
        ("<opset_import: [\"\" : 18, \"d\" : 1], domain: \"d\"> f (a) => (b) { b = d.f (a) }", "calls itself"),
    ],
)  # fmt: skip
def test_functions_that_are_not_valid(function: str, words: str) -> None:
    text = (
        f'<ir_version: 9, opset_import: ["" : 18, "d" : 1]> m (float[N] x) => (float[N] y) {{ y = d.f (x) }} {function}'
    )
    with pytest.raises(raggedrt.InputError, match=words):
        raggedrt.rewrite(onnx.parser.parse_model(text))
