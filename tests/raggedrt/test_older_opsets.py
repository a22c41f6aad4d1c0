"""Graphs older than opset 17 are raised to it."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper

import raggedrt
from helpers.attended import Attended, embeddings
from helpers.encoder_runs import FP32, MASK, plain_session, run
from helpers.tolerances import assert_close
from raggedrt.errors import InputError

pytestmark = pytest.mark.ort_cpu


def graph(opset: int) -> onnx.ModelProto:
    attended = Attended(opset)
    model = attended.model({"result": attended.op.Relu(attended.y)})
    model.ir_version = 8
    return ir.to_proto(model)


@pytest.mark.parametrize("opset", [13, 14, 16])
def test_older_graphs_are_packed(opset: int) -> None:
    original = graph(opset)
    model, report = raggedrt.rewrite(original, features=("pack",))
    assert [entry.op for entry in report.attention] == ["RaggedAttention"]
    assert original.opset_import[0].version == opset
    feed = embeddings()
    want = run(plain_session(original), feed)["result"]
    got = run(raggedrt.ort_session(model, native=False), feed)["result"]
    assert_close(got[MASK != 0], want[MASK != 0], FP32, "result")


def test_convert_compares_with_the_original(tmp_path: Path) -> None:
    onnx.save(graph(14), tmp_path / "m.onnx")
    bundle = raggedrt.convert(tmp_path / "m.onnx", tmp_path / "bundle")
    assert raggedrt.compare(tmp_path / "m.onnx", bundle.path).passed
    assert isinstance(raggedrt.ort_session(bundle.path / "model.onnx"), onnxruntime.InferenceSession)


def test_what_cannot_be_raised_is_refused(tmp_path: Path) -> None:
    model = graph(14)
    weight = helper.make_tensor("w", onnx.TensorProto.FLOAT, [400], [1.0] * 400)
    model.graph.initializer.append(weight)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    with pytest.raises(InputError, match="opset 14 and weights in another file; opset 17 or later"):
        raggedrt.rewrite(tmp_path / "m.onnx")
    model = graph(14)
    imports = [helper.make_opsetid("", 14)]
    node = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(helper.make_function("local", "f", ["x"], ["y"], [node], imports))
    with pytest.raises(InputError, match="functions of its own"):
        raggedrt.rewrite(model)
