"""Write small graphs by hand: ops as methods, seeded weights, typed constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common

from helpers.mask_graphs import Ops


class GraphWriter:
    """Inputs, nodes and initializers of a graph under construction; `op.Add(a, b)` adds a node.

    Attributes:
        op: standard ops by name.
        opset: of the default domain.
        dtype: of weights and numbers.
    """

    def __init__(self, opset: int = 20, dtype: ir.DataType = ir.DataType.FLOAT, seed: int = 0) -> None:
        self.op = Ops()
        self.opset = opset
        self.dtype = dtype
        self.inputs: list[ir.Value] = []
        self.constants: list[ir.Value] = []
        self._random = np.random.default_rng(seed)

    @property
    def numpy_type(self) -> np.dtype[np.generic]:
        """The numpy type of weights."""
        return self.dtype.numpy()

    def input(self, name: str, dims: Sequence[int | str | None], dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
        """A graph input."""
        value = ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(dtype))
        self.inputs.append(value)
        return value

    def constant(self, array: npt.ArrayLike, dtype: npt.DTypeLike) -> ir.Value:
        """An initializer."""
        name = f"constant_{len(self.constants)}"
        tensor = ir.Tensor(np.array(array, dtype=dtype), name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.constants.append(value)
        return value

    def ints(self, array: npt.ArrayLike) -> ir.Value:
        """An int64 initializer."""
        return self.constant(array, np.int64)

    def number(self, value: float) -> ir.Value:
        """A scalar of the weights' type."""
        return self.constant(value, self.numpy_type)

    def weight(self, *shape: int, scale: float = 1.0, offset: float = 0.0) -> ir.Value:
        """Normally distributed numbers."""
        return self.constant(self._random.normal(offset, scale, shape), self.numpy_type)

    def contrib(
        self, op_type: str, inputs: Sequence[ir.Value | None], outputs: int = 1, **attributes: object
    ) -> list[ir.Value]:
        """An op of com.microsoft."""
        return list(
            self.op.op_multi_out(op_type, inputs, attributes, num_outputs=outputs, domain="com.microsoft")  # type: ignore[arg-type]
        )

    def reduce(self, op_type: str, x: ir.Value, axes: Sequence[int], *, keepdims: bool) -> ir.Value:
        """A reduction; its axes are an attribute before opset 18 (ReduceSum: before 13)."""
        if self.opset >= 18 or op_type == "ReduceSum":
            return self.op.op(op_type, [x, self.ints(axes)], {"keepdims": int(keepdims)})
        return self.op.op(op_type, [x], {"axes": list(axes), "keepdims": int(keepdims)})

    def model(self, outputs: Mapping[str, ir.Value]) -> ir.Model:
        """Close the graph; outputs get their names, types and shapes by inference."""
        for name, value in outputs.items():
            value.name = name
        imports = {"": self.opset, "com.microsoft": 1}
        graph = ir.Graph(
            self.inputs,
            list(outputs.values()),
            nodes=self.op.nodes,
            initializers=self.constants,
            opset_imports=imports,
            name="graph",
        )
        model = ir.Model(graph, ir_version=10)
        onnx_ir.passes.common.ShapeInferencePass()(model)
        onnx_ir.passes.common.NameFixPass()(model)
        return model
