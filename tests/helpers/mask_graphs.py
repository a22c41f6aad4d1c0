"""Small graphs that compute attention masks, spelled as exporters spell them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
from onnx_ir.tape import Tape

from raggedrt.graph_passes.masks import GraphInputs

LOWEST = float(np.finfo(np.float32).min)
INPUTS = GraphInputs("attention_mask", ("input_ids",))


class Ops(Tape):
    """A tape on which `ops.And(a, b, axis=1)` adds a node of that op type."""

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)
        return lambda *inputs, **attributes: self.op(op_type, inputs, attributes)


class MaskGraph:
    """A graph with inputs input_ids and attention_mask [batch, seq] to which mask ops are added.

    Attributes:
        op: adds a node per call, as in `op.And(a, b)`.
        attention_mask: the padding mask input.
        input_ids: the token ids.
    """

    def __init__(
        self, batch: int | str = "batch", sequence: int | str = "seq", mask_type: ir.DataType = ir.DataType.INT64
    ) -> None:
        self.op = Ops()
        shape = ir.Shape([batch, sequence])
        self.attention_mask = ir.Value(name="attention_mask", shape=shape, type=ir.TensorType(mask_type))
        self.input_ids = ir.Value(name="input_ids", shape=shape, type=ir.TensorType(ir.DataType.INT64))
        self.extra_inputs: list[ir.Value] = []
        self._initializers: list[ir.Value] = []

    def constant(self, array: object, dtype: type = np.int64) -> ir.Value:
        """An initializer."""
        name = f"constant_{len(self._initializers)}"
        tensor = ir.Tensor(np.asarray(array, dtype=dtype), name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._initializers.append(value)
        return value

    def add_input(self, name: str, dims: list[int | str], dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
        """Another graph input."""
        value = ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(dtype))
        self.extra_inputs.append(value)
        return value

    def size(self, axis: int) -> ir.Value:
        """The size of an axis of input_ids, int64 []."""
        return self.op.Squeeze(self.op.Shape(self.input_ids, start=axis, end=axis + 1))

    def slots(self, axis: int, rank: int = 4) -> ir.Value:
        """Slot numbers 0 … S-1 along one axis of `rank`, all others of size 1."""
        numbers = self.op.Range(self.constant(0), self.size(1), self.constant(1))
        return self.op.Unsqueeze(numbers, self.constant([a for a in range(rank) if a != axis]))

    @property
    def query(self) -> ir.Value:
        """Query slots [1, 1, S, 1]."""
        return self.slots(2)

    @property
    def key(self) -> ir.Value:
        """Key slots [1, 1, 1, S]."""
        return self.slots(3)

    def causal(self) -> ir.Value:
        """key <= query, bool [1, 1, S, S]."""
        return self.op.LessOrEqual(self.key, self.query)

    def window(self, size: int) -> ir.Value:
        """query - key < size, bool [1, 1, S, S]."""
        return self.op.Greater(self.key, self.op.Sub(self.query, self.constant(size)))

    def padding(self) -> ir.Value:
        """The padding mask of the keys as masking_utils gathers it, bool [B, 1, 1, S]."""
        op = self.op
        valid = op.Cast(self.attention_mask, to=ir.DataType.BOOL)
        rows = op.Unsqueeze(op.Range(self.constant(0), self.size(0), self.constant(1)), self.constant([1, 2, 3]))
        shape = op.Shape(op.Max(rows, self.key))
        pairs = [op.Unsqueeze(op.Expand(index, shape), self.constant([-1])) for index in (rows, self.key)]
        return op.GatherND(valid, op.Concat(*pairs, axis=-1))

    def query_padding(self) -> ir.Value:
        """The padding mask of the queries, bool [B, 1, S, 1]."""
        valid = self.op.Cast(self.attention_mask, to=ir.DataType.BOOL)
        return self.op.Unsqueeze(valid, self.constant([1, 3]))

    def additive(self, keep: ir.Value, lowest: float = LOWEST) -> ir.Value:
        """0 where visible, the lowest number elsewhere."""
        return self.op.Where(keep, self.constant(0.0, np.float32), self.constant(lowest, np.float32))

    def finish(self, mask: ir.Value, opset: int = 20) -> ir.Value:
        """Close the graph with `mask` as its output, infer shapes, and give the mask's value back."""
        mask.name = "mask"
        inputs = [self.input_ids, self.attention_mask, *self.extra_inputs]
        graph = ir.Graph(
            inputs, [mask], nodes=self.op.nodes, initializers=self._initializers, opset_imports={"": opset}
        )
        model = ir.Model(graph, ir_version=10)
        inferred = onnx_ir.passes.common.ShapeInferencePass()(model).model
        return inferred.graph.outputs[0]


def mask_of(build: Callable[[MaskGraph], ir.Value], **graph: int | str | ir.DataType) -> ir.Value:
    """The mask value that `build` makes in a fresh graph."""
    made = MaskGraph(**graph)  # type: ignore[arg-type]
    return made.finish(build(made))
