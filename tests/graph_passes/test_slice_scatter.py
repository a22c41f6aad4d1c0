from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

from helpers.attended import Attended
from raggedrt.graph_passes.clean import clean
from raggedrt.graph_passes.slice_scatter import join_written_slices

pytestmark = pytest.mark.ort_cpu
ROWS, WIDTH = 5, 12


class Written(nn.Module):
    """A tensor like x [batch, rows, WIDTH] that is written slice by slice."""

    def __init__(self, write: Callable[[torch.Tensor, torch.Tensor], None], *, blank: bool) -> None:
        super().__init__()
        self.write = write
        self.blank = blank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        target = torch.zeros_like(x) if self.blank else x * 2
        self.write(target, torch.sin(x))
        return target + 1


def halves(target: torch.Tensor, x: torch.Tensor) -> None:
    target[..., :8] = x[..., 4:]
    target[..., 8:] = x[..., :4]


def middle(target: torch.Tensor, x: torch.Tensor) -> None:
    target[:, :, 3:7] = x[:, :, :4]


def overlapping(target: torch.Tensor, x: torch.Tensor) -> None:
    target[..., 2:9] = x[..., :7]
    target[..., 5:] = x[..., 5:]
    target[..., 4:6] = x[..., 10:]


def from_the_end(target: torch.Tensor, x: torch.Tensor) -> None:
    target[..., -3:] = x[..., :3]


def rows_after_the_first(target: torch.Tensor, x: torch.Tensor) -> None:
    target[:, 1:] = x[:, :-1]


def first_row(target: torch.Tensor, x: torch.Tensor) -> None:
    target[:, :1] = x[:, -1:]


def _rewritten(proto: onnx.ModelProto) -> tuple[int, ir.Model]:
    model = ir.from_proto(proto)
    clean(model)
    return join_written_slices(model.graph), model


def _run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("blank", [True, False])
@pytest.mark.parametrize(
    ("write", "count"),
    [(halves, 2), (middle, 1), (overlapping, 3), (from_the_end, 1), (rows_after_the_first, 1), (first_row, 1)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_joined_slices_are_what_was_written(
    write: Callable[[torch.Tensor, torch.Tensor], None], count: int, *, blank: bool
) -> None:
    dims = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("rows")}}
    example = (torch.randn(2, ROWS, WIDTH),)
    program = torch.onnx.export(
        Written(write, blank=blank).eval(), example, dynamo=True, opset_version=20, dynamic_shapes=dims, verbose=False
    )
    assert program is not None
    proto = program.model_proto
    assert "ScatterND" in {node.op_type for node in proto.graph.node}
    joined, model = _rewritten(proto)
    assert joined == count
    assert "ScatterND" not in {node.op_type for node in model.graph}
    rng = np.random.default_rng(0)
    for rows in (2, ROWS, 9):
        x = rng.standard_normal((3, rows, WIDTH)).astype(np.float32)
        np.testing.assert_array_equal(_run(ir.to_proto(model), x), _run(proto, x))


@pytest.mark.parametrize("places", [[3, 2], [1, 3], [0, 0], [-1, 0]])
def test_other_indices_are_left_alone(places: list[int]) -> None:
    make, float_type = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    indices = onnx.numpy_helper.from_array(np.array(places, np.int64)[:, None], "places")
    updates = onnx.numpy_helper.from_array(np.ones((2, 3), np.float32), "ones")
    node = onnx.helper.make_node("ScatterND", ["x", "places", "ones"], ["y"])
    graph = onnx.helper.make_graph(
        [node], "g", [make("x", float_type, [4, 3])], [make("y", float_type, [4, 3])], [indices, updates]
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    joined, model = _rewritten(proto)
    assert joined == 0
    assert [node.op_type for node in model.graph] == ["ScatterND"]


def test_a_slice_of_a_row_of_indices_takes_all_of_them() -> None:
    """`[1, n]` cut along its first axis, then turned into a column."""
    g = Attended()
    op = g.op
    length = op.Gather(op.Shape(g.x), g.ints(1))
    row = op.Unsqueeze(op.Range(g.ints(0), length, g.ints(1)), g.ints([0]))
    places = op.Reshape(op.Slice(row, g.ints([0]), g.ints([1]), g.ints([0]), g.ints([1])), g.ints([-1, 1]))
    target, update = (op.Transpose(value, perm=[1, 0, 2]) for value in (g.x, op.Neg(g.x)))
    proto = ir.to_proto(g.model({"result": op.op("ScatterND", [target, places, update])}))
    assert _rewritten(proto)[0] == 0
