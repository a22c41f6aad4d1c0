"""A streamed file is what protobuf itself would read and write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from raggedrt.onnx_stream import STREAMED_BYTES, write_single_file

pytestmark = pytest.mark.none


def test_a_streamed_file_holds_the_same_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "small": rng.standard_normal(3).astype(np.float32),
        "large": rng.standard_normal((70, 300)).astype(np.float32),
        "scalar": np.array(2.0, np.float32),
        "half": rng.standard_normal(STREAMED_BYTES).astype(np.float16),
        "flags": rng.random(2 * STREAMED_BYTES) < 0.5,
        "numbers": rng.integers(-9, 9, STREAMED_BYTES),
    }
    nodes = [onnx.helper.make_node("Identity", [name], [f"{name}_out"]) for name in arrays]
    outputs = [onnx.ValueInfoProto(name=f"{name}_out") for name in arrays]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph(nodes, "g", [], outputs, tensors)
    model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]))
    before = ir.to_proto(model)
    write_single_file(model, tmp_path / "m.onnx")
    assert ir.to_proto(model) == before
    read = onnx.load(str(tmp_path / "m.onnx"))
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in read.graph.initializer}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    for proto in (read, before):  # the tensors themselves say what value_info says of them
        kept = [info for info in proto.graph.value_info if info.name not in arrays]
        del proto.graph.initializer[:], proto.graph.value_info[:]
        proto.graph.value_info.extend(kept)
    assert read == before
