from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from helpers.tolerances import Tolerance, assert_close
from raggedrt.graph_passes.rotary import spell_out_rotary

pytestmark = pytest.mark.ort_cpu
BATCH, LENGTH, HEADS, HEAD_SIZE, POSITIONS = 2, 5, 3, 8, 11


def _model(rank: int, tables: list[int | str], with_positions: bool, attributes: dict[str, int]) -> onnx.ModelProto:
    shape = ["batch", HEADS, "sequence", HEAD_SIZE] if rank == 4 else ["batch", "sequence", HEADS * HEAD_SIZE]
    inputs = [
        onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape),
        *(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, tables) for name in ("cos", "sin")),
    ]
    if with_positions:
        inputs.append(onnx.helper.make_tensor_value_info("positions", onnx.TensorProto.INT64, ["batch", "sequence"]))
    node = onnx.helper.make_node("RotaryEmbedding", [value.name for value in inputs], ["y"], **attributes)
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)
    graph = onnx.helper.make_graph([node], "rotary", inputs, [output])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rotated", [0, 4])
@pytest.mark.parametrize("with_positions", [False, True])
def test_the_spelling_equals_the_op(rank: int, interleaved: int, rotated: int, with_positions: bool) -> None:
    rng = np.random.default_rng(rank + 10 * interleaved + 100 * rotated)
    half = (rotated or HEAD_SIZE) // 2
    tables: list[int | str] = [POSITIONS, half] if with_positions else ["batch", "sequence", half]
    attributes = {"interleaved": interleaved, "rotary_embedding_dim": rotated, "num_heads": HEADS}
    proto = _model(rank, tables, with_positions, attributes)
    shape = (BATCH, HEADS, LENGTH, HEAD_SIZE) if rank == 4 else (BATCH, LENGTH, HEADS * HEAD_SIZE)
    angle = rng.standard_normal((POSITIONS, half) if with_positions else (BATCH, LENGTH, half))
    feeds = {"x": rng.standard_normal(shape), "cos": np.cos(angle), "sin": np.sin(angle)}
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    if with_positions:
        feeds["positions"] = rng.integers(0, POSITIONS, (BATCH, LENGTH))
    model = ir.from_proto(proto)
    assert spell_out_rotary(model.graph) == 1
    assert "RotaryEmbedding" not in [node.op_type for node in model.graph]
    got, want = (_run(proto_, feeds) for proto_ in (ir.to_proto(model), proto))
    assert_close(got, want, Tolerance(rtol=1e-5, atol=1e-6))


def test_tables_of_batch_one_serve_a_larger_batch() -> None:
    """A known exporter defect, which the op itself refuses."""
    rng = np.random.default_rng(0)
    proto = _model(4, [1, "sequence", HEAD_SIZE // 2], False, {"num_heads": HEADS})
    angle = rng.standard_normal((1, LENGTH, HEAD_SIZE // 2)).astype(np.float32)
    x = rng.standard_normal((BATCH, HEADS, LENGTH, HEAD_SIZE)).astype(np.float32)
    model = ir.from_proto(proto)
    spell_out_rotary(model.graph)
    got = _run(ir.to_proto(model), {"x": x, "cos": np.cos(angle), "sin": np.sin(angle)})
    for row in range(BATCH):
        alone = _run(proto, {"x": x[row : row + 1], "cos": np.cos(angle), "sin": np.sin(angle)})
        assert_close(got[row : row + 1], alone, Tolerance(rtol=1e-5, atol=1e-6))


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rotated", [0, 16])
@pytest.mark.parametrize("offset", [False, True], ids=["positions", "offset"])
def test_the_contrib_op_is_spelled_out(rank: int, interleaved: int, rotated: int, offset: bool) -> None:
    rng = np.random.default_rng(0)
    size = 32  # ONNX Runtime rotates parts of heads in multiples of 16
    shape = (BATCH, HEADS, LENGTH, size) if rank == 4 else (BATCH, LENGTH, HEADS * size)
    angle = rng.standard_normal((POSITIONS, (rotated or size) // 2)).astype(np.float32)
    positions = np.array([3]) if offset else rng.integers(0, POSITIONS, (BATCH, LENGTH))
    feeds = {"x": rng.standard_normal(shape).astype(np.float32), "positions": positions}
    feeds |= {"cos": np.cos(angle), "sin": np.sin(angle)}
    dims = ["batch", HEADS, "sequence", size] if rank == 4 else ["batch", "sequence", HEADS * size]
    tensors = {"x": dims, "positions": [1] if offset else ["batch", "sequence"]}
    tensors |= {name: [POSITIONS, angle.shape[1]] for name in ("cos", "sin")}
    types = {"positions": onnx.TensorProto.INT64}
    inputs = [
        onnx.helper.make_tensor_value_info(name, types.get(name, onnx.TensorProto.FLOAT), own)
        for name, own in tensors.items()
    ]
    attributes = {"interleaved": interleaved, "rotary_embedding_dim": rotated}
    if rotated:
        attributes["num_heads"] = HEADS
    node = onnx.helper.make_node("RotaryEmbedding", list(tensors), ["y"], domain="com.microsoft", **attributes)
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, dims)
    graph = onnx.helper.make_graph([node], "rotary", inputs, [output])
    imports = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.microsoft", 1)]
    proto = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    model = ir.from_proto(proto)
    assert spell_out_rotary(model.graph) == 1
    got, want = (_run(one, feeds) for one in (ir.to_proto(model), proto))
    assert_close(got, want, Tolerance(rtol=1e-5, atol=1e-6))


def test_an_unknown_head_size_is_left_alone() -> None:
    proto = _model(4, ["batch", "sequence", "half"], False, {"num_heads": HEADS})
    proto.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "size"
    model = ir.from_proto(proto)
    assert spell_out_rotary(model.graph) == 0
    assert [node.op_type for node in model.graph] == ["RotaryEmbedding"]


def _run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]
