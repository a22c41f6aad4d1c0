"""Files that are damaged or hostile: one paragraph, exit code 2, nothing written, whatever verb reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import raggedrt
from helpers.encoder_graphs import EncoderSpec, build_encoder
from raggedrt.cli import main

pytestmark = pytest.mark.ort_cpu
Change = Callable[[onnx.ModelProto, Path], None]
DATA = "weights.bin"


def graph() -> onnx.ModelProto:
    return ir.to_proto(build_encoder(EncoderSpec()))


def outside(model: onnx.ModelProto, folder: Path, **entries: str | None) -> None:
    """The largest weight lies in a file of its own, behind 64 other bytes."""
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    (folder / DATA).write_bytes(bytes(64) + tensor.raw_data)
    given = {"location": DATA, "offset": "64", "length": str(len(tensor.raw_data)), **entries}
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in given.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)


def external(**entries: str | None) -> Change:
    return lambda model, folder: outside(model, folder, **entries)


def linked(model: onnx.ModelProto, folder: Path) -> None:
    outside(model, folder, location="link.bin")
    (folder / "link.bin").symlink_to(DATA)


def a_folder(model: onnx.ModelProto, folder: Path) -> None:
    outside(model, folder, location="folder")
    (folder / "folder").mkdir()


def opsets(*pairs: tuple[str, int]) -> Change:
    def change(model: onnx.ModelProto, folder: Path) -> None:
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(*pair) for pair in pairs)

    return change


def ir_version(number: int | None) -> Change:
    def change(model: onnx.ModelProto, folder: Path) -> None:
        model.ClearField("ir_version")
        if number is not None:
            model.ir_version = number

    return change


def call(model: onnx.ModelProto, bodies: list[tuple[str, list[str]]]) -> None:
    """Functions by name, each a chain of calls, and a call of the last one in the middle of the graph."""
    imports = [helper.make_opsetid("local", 1), helper.make_opsetid("", 20)]
    for name, called in bodies:
        steps = ["x", *(f"step{number}" for number in range(len(called) - 1)), "y"]
        nodes = [
            helper.make_node(op, [before], [after], domain="" if op == "Identity" else "local")
            for op, before, after in zip(called, steps, steps[1:], strict=False)
        ]
        model.functions.append(helper.make_function("local", name, ["x"], ["y"], nodes, imports))
    model.opset_import.append(helper.make_opsetid("local", 1))
    node = model.graph.node[5]
    output, node.output[0] = node.output[0], "before_the_call"
    model.graph.node.insert(6, helper.make_node(bodies[-1][0], ["before_the_call"], [output], domain="local"))


def circle(model: onnx.ModelProto, folder: Path) -> None:
    call(model, [("f", ["g"]), ("g", ["f"])])


def doubling(model: onnx.ModelProto, folder: Path) -> None:
    call(model, [("f0", ["Identity"]), *((f"f{n}", [f"f{n - 1}"] * 2) for n in range(1, 40))])


def twice(what: str) -> Change:
    def change(model: onnx.ModelProto, folder: Path) -> None:
        values = getattr(model.graph, what)
        values.append(values[0])

    return change


def same_output(model: onnx.ModelProto, folder: Path) -> None:
    model.graph.node[4].output[0] = model.graph.node[3].output[0]


def cycle(model: onnx.ModelProto, folder: Path) -> None:
    model.graph.node[3].input[0] = model.graph.node[10].output[0]


def dims(*sizes: int) -> Change:
    def change(model: onnx.ModelProto, folder: Path) -> None:
        model.graph.initializer[0].dims[:] = sizes

    return change


CHANGES: list[tuple[str, Change, str]] = [
    ("negative offset", external(offset="-5"), "offset -5"),
    ("negative length", external(length="-5"), "no places in a file"),
    ("offset past the end", external(offset="1000000"), "cut off"),
    ("offset beyond 64 bits", external(offset=str(2**70)), "no places in a file"),
    ("offset and length wrap around", external(offset=str(2**64 - 64)), "no places in a file"),
    ("end beyond 64 bits", external(offset=str(2**63 - 1)), "cut off"),
    ("length of another tensor", external(length="8"), "takes 8192 bytes and has 8"),
    ("no length, too late", external(length=None, offset="100"), "cut off"),
    ("offset is no number", external(offset="abc"), "no integer offset"),
    ("absolute path", external(location="/etc/hostname"), "outside its folder"),
    ("path upwards", external(location=f"../ok/{DATA}"), "outside its folder"),
    ("no path", external(location=""), "outside its folder"),
    ("path too long", external(location="x" * 5000), "5000 characters"),
    ("NUL in the path", external(location="w\0.bin"), "not allowed"),
    ("missing file", external(location="nowhere.bin"), "missing"),
    ("link", linked, "is a link"),
    ("folder", a_folder, "not a regular file"),
    ("IR version 0", ir_version(0), "IR version 0"),
    ("IR version of the future", ir_version(99), "IR version 99"),
    ("no IR version", ir_version(None), "IR version 0"),
    ("opset 0", opsets(("", 0)), "version of 0"),
    ("opset of the future", opsets(("", 99)), "opset is 99"),
    ("no opset", opsets(), "no opset import"),
    ("two opsets", opsets(("", 20), ("", 18)), "two opsets"),
    ("functions in a circle", circle, "calls itself"),
    ("functions that double", doubling, "when inlined"),
    ("an input twice", twice("input"), "the input 'input_ids' stands there twice"),
    ("an output twice", twice("output"), "stands there twice"),
    ("an initializer twice", twice("initializer"), "stands there twice"),
    ("a value twice", same_output, "which the graph has already"),
    ("a cycle", cycle, "nothing before it computes"),
    ("a huge tensor", dims(2**40, 2**40), "which no tensor has"),
    ("a negative size", dims(-4), "which no tensor has"),
    ("a tensor cut off", dims(9, 9), "the file is damaged"),
]
BYTES: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("empty", lambda data: b"", "no graph or no opset import"),
    ("truncated", lambda data: data[: len(data) // 2], "cut off"),
    ("garbage", lambda data: np.random.default_rng(0).bytes(5000), "not an ONNX model"),
    ("text", lambda data: b"hello, world\n" * 50, "not an ONNX model"),
    ("archive", lambda data: b"PK\3\4" + bytes(100), "is an archive"),
    ("name that is no text", lambda data: data.replace(b"attention_mask", b"attention_mas\xff"), "not UTF-8"),
]


def refused(folder: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, one message, no traceback, and the folder is as before."""
    before = sorted(folder.rglob("*"))
    code = main(arguments)
    error = capsys.readouterr().err
    assert code == 2, error
    messages = [line for line in error.splitlines() if line.startswith("raggedrt: error: ")]
    assert len(messages) == 1, error
    assert "Traceback" not in error
    assert says in " ".join(error.split()), error
    assert sorted(folder.rglob("*")) == before


def commands(path: Path) -> list[list[str]]:
    other = str(path.parent / "result")
    return [
        ["inspect", str(path)],
        ["rewrite", str(path), "-o", f"{other}.onnx", "--allow-partial"],
        ["convert", str(path), "-o", other, "--allow-partial"],
        ["compare", str(path), str(path)],
    ]


@pytest.mark.parametrize(("change", "says"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_malformed_models(tmp_path: Path, change: Change, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = graph()
    change(model, tmp_path)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    for arguments in commands(tmp_path / "m.onnx"):
        refused(tmp_path, arguments, says if arguments[0] in ("inspect", "rewrite") else "", capsys)


@pytest.mark.parametrize(("change", "says"), [row[1:] for row in BYTES], ids=[row[0] for row in BYTES])
def test_damaged_bytes(
    tmp_path: Path, change: Callable[[bytes], bytes], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").write_bytes(change(graph().SerializeToString()))
    for arguments in commands(tmp_path / "m.onnx"):
        refused(tmp_path, arguments, says if arguments[0] in ("inspect", "rewrite") else "", capsys)


def nested(depth: int) -> onnx.ModelProto:
    model = graph()
    inner = helper.make_node("Identity", ["attention_mask"], ["level0"])
    for level in range(depth):
        branches = {
            name: helper.make_graph([node], name, [], [helper.make_empty_tensor_value_info(node.output[0])])
            for name, node in (
                ("then_branch", inner),
                ("else_branch", helper.make_node("Identity", ["attention_mask"], [f"else{level}"])),
            )
        }
        inner = helper.make_node("If", ["condition"], [f"level{level + 1}"], **branches)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    model.graph.node.insert(0, inner)
    model.graph.output.append(helper.make_tensor_value_info(inner.output[0], TensorProto.INT64, ["batch", "sequence"]))
    return model


def test_deep_nesting_is_served_or_refused(tmp_path: Path) -> None:
    """Protobuf itself bounds how deep a file may be; what parses is rewritten."""
    model, report = raggedrt.rewrite(nested(25), allow_partial=True)
    assert any(entry.op for entry in report.attention)
    assert "level25" in [output.name for output in model.graph.output]


def test_weights_without_a_length_or_inside_a_folder_are_served(tmp_path: Path) -> None:
    def values(folder: Path, **entries: Any) -> Any:
        folder.mkdir()
        model = graph()
        outside(model, folder, **entries)
        (folder / "deep").mkdir()
        (folder / "deep" / "w.bin").write_bytes((folder / DATA).read_bytes())
        (folder / "m.onnx").write_bytes(model.SerializeToString())
        rewritten, report = raggedrt.rewrite(folder / "m.onnx")
        assert any(entry.op for entry in report.attention)
        return rewritten

    values(tmp_path / "a", length=None)
    values(tmp_path / "b", location="deep/w.bin")
