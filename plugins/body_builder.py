"""Writes the nodes of an ONNX function body for one default-domain opset.

What differs between opsets 17 and 26 is decided here, so that a body reads like the computation it describes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from raggedrt.errors import RaggedRTError
from raggedrt.plugins.contract.op_definition import DOMAIN, OpDefinition, TensorSpec

MIN_OPSET, MAX_OPSET = 17, 26
_REDUCE_AXES_INPUT = {"ReduceSum": 13, "ReduceMax": 18}
"""First opset in which the axes of a reduction are an input."""


@dataclasses.dataclass(frozen=True)
class NodeForm:
    """What the body of a node may depend on; nodes of equal form share one body.

    `dtype` is the element type of the tensors of type `T`. `cross` tells that query and key lengths are different
    tensors. `engine`: the body becomes part of an engine, see `product_type`; `exact` of it: nevertheless float32 is
    multiplied; `widths` are the last axes of inputs as far as they are static.
    """

    op: OpDefinition
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, int | float | tuple[int, ...]], ...]
    dtype: ir.DataType | None
    cross: bool = False
    engine: bool = False
    exact: bool = False
    widths: tuple[tuple[str, int], ...] = ()

    def attribute(self, name: str) -> int | float | tuple[int, ...]:
        """The attribute's value, its default where the node does not carry it."""
        value = dict(self.attributes).get(name, self.op.attribute(name).default)
        if value is None:
            raise RaggedRTError(f"A {self.op.name} node lacks the attribute {name!r}; make nodes with make_node.")
        return value

    def integer(self, name: str) -> int:
        """An integer attribute."""
        value = self.attribute(name)
        if not isinstance(value, int):
            raise RaggedRTError(f"A {self.op.name} node has {name}={value!r}, expected an integer.")
        return value

    def number(self, name: str) -> float:
        """A float attribute."""
        value = self.attribute(name)
        if isinstance(value, tuple):
            raise RaggedRTError(f"A {self.op.name} node has {name}={value!r}, expected a number.")
        return float(value)

    def integers(self, name: str) -> tuple[int, ...]:
        """A list attribute."""
        value = self.attribute(name)
        if not isinstance(value, tuple):
            raise RaggedRTError(f"A {self.op.name} node has {name}={value!r}, expected a list of integers.")
        return value

    @property
    def element_type(self) -> ir.DataType:
        """`dtype`, which the body needs."""
        if self.dtype is None:
            raise RaggedRTError(
                f"The element type of a {self.op.name} node's first input is unknown, so it can have no function body; "
                "infer types before attaching bodies."
            )
        return self.dtype

    @property
    def product_type(self) -> ir.DataType:
        """What matrices are multiplied in: float32, in an engine the element type if nothing else is asked for.

        Engines have kernels that multiply, mask and normalise in one step for 16-bit products only, and these sum in
        float32.
        """
        return self.element_type if self.engine and not self.exact else ir.DataType.FLOAT


class BodyBuilder:
    """Collects the nodes of one function body."""

    def __init__(self, form: NodeForm, opset: int):
        self.form = form
        self._opset = opset
        self._nodes: list[ir.Node] = []
        self._constants: dict[tuple[ir.DataType, tuple[int, ...], bytes], ir.Value] = {}
        self._inputs = {name: ir.Value(name=name) for name in form.inputs}

    def input(self, name: str) -> ir.Value:
        """The formal input `name`, which the node must have."""
        return self._inputs[name]

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: int | float | str | Sequence[int]) -> ir.Value:
        """Adds a node of the default domain with one output."""
        node = ir.node(op_type, list(inputs), dict(attributes))
        self._nodes.append(node)
        return node.outputs[0]

    def ops(
        self, op_type: str, outputs: int, *inputs: ir.Value | None, **attributes: int | float | str | Sequence[int]
    ) -> Sequence[ir.Value]:
        """Adds a node of the default domain with several outputs."""
        node = ir.node(op_type, list(inputs), dict(attributes), num_outputs=outputs)
        self._nodes.append(node)
        return node.outputs

    def constant(self, values: object, dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
        """A constant tensor; equal ones are shared."""
        array = np.asarray(values, dtype=dtype.numpy())
        key = (dtype, array.shape, array.tobytes())
        if key not in self._constants:
            node = ir.Node("", "Constant", [], [ir.AttrTensor("value", ir.tensor(array, dtype=dtype))])
            self._nodes.append(node)
            self._constants[key] = node.outputs[0]
        return self._constants[key]

    def width(self, name: str) -> int | None:
        """The last axis of an input, where it is known and may be relied on."""
        return dict(self.form.widths).get(name)

    def real(self, value: object) -> ir.Value:
        """A float32 constant."""
        return self.constant(value, ir.DataType.FLOAT)

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` as `dtype`."""
        return self.op("Cast", value, to=int(dtype))

    def dims(self, value: ir.Value, start: int, end: int | None = None) -> ir.Value:
        """Dimensions start..end of `value`: int64 [end - start]."""
        return self.op("Shape", value, start=start) if end is None else self.op("Shape", value, start=start, end=end)

    def dim(self, value: ir.Value, axis: int) -> ir.Value:
        """One dimension of `value`: int64 [1]."""
        return self.dims(value, axis, axis + 1)

    def range(self, count: ir.Value) -> ir.Value:
        """0, 1, … count - 1: int64 [count] of a count int64 [1]."""
        return self.op("Range", self.constant(0), self.op("Squeeze", count, self.constant([0])), self.constant(1))

    def concat(self, *values: ir.Value, axis: int = 0) -> ir.Value:
        """`values` one after the other."""
        return self.op("Concat", *values, axis=axis)

    def fill(self, shape: ir.Value, value: float, dtype: ir.DataType) -> ir.Value:
        """A tensor of one value.

        It is made in float32 or int64 and cast, because runtimes lack ConstantOfShape for the smaller types.
        """
        made = ir.DataType.INT64 if dtype in (ir.DataType.INT64, ir.DataType.INT32) else ir.DataType.FLOAT
        one = ir.tensor(np.array([value], dtype=made.numpy()), dtype=made)
        node = ir.Node("", "ConstantOfShape", [shape], [ir.AttrTensor("value", one)])
        self._nodes.append(node)
        return node.outputs[0] if made == dtype else self.cast(node.outputs[0], dtype)

    def reshape(self, value: ir.Value, *dims: ir.Value) -> ir.Value:
        """`value` with the given dimensions, each int64 [n]; none is inferred, so every one may be 0."""
        return self.op("Reshape", value, self.concat(*dims), allowzero=1)

    def unsqueeze(self, value: ir.Value, *axes: int) -> ir.Value:
        """`value` with axes of length 1 inserted."""
        return self.op("Unsqueeze", value, self.constant(axes))

    def slice(self, value: ir.Value, start: int, end: ir.Value | int, axis: int = 0) -> ir.Value:
        """`value[start:end]` along `axis`; `end` is a number or int64 [1]."""
        stop = self.constant([end]) if isinstance(end, int) else end
        return self.op("Slice", value, self.constant([start]), stop, self.constant([axis]))

    def reduce(self, op_type: str, value: ir.Value, axis: int, *, keepdims: bool = True) -> ir.Value:
        """ReduceSum or ReduceMax over one axis."""
        if self._opset >= _REDUCE_AXES_INPUT[op_type]:
            return self.op(op_type, value, self.constant([axis]), keepdims=int(keepdims))
        return self.op(op_type, value, axes=[axis], keepdims=int(keepdims))

    def product(self, *dims: ir.Value) -> ir.Value:
        """The product of dimensions, each int64 [1]."""
        result = dims[0]
        for dim in dims[1:]:
            result = self.op("Mul", result, dim)
        return result

    def function(self, overload: str, outputs: Sequence[ir.Value]) -> ir.Function:
        """The finished function; `outputs` in the order of the node's outputs."""
        names = self.form.outputs
        for value, name in zip(outputs, names, strict=True):
            value.name = name
        formal = [self._inputs.get(tensor.name) or ir.Value(name=tensor.name) for tensor in self._formal_inputs()]
        graph = ir.Graph(formal, list(outputs), nodes=self._nodes, opset_imports={"": self._opset})
        return ir.Function(DOMAIN, self.form.op.name, overload, graph=graph, attributes=[])

    def _formal_inputs(self) -> Sequence[TensorSpec]:
        """Every input up to the last one present: formal inputs are matched by place."""
        last = max(self.form.op.input_index(name) for name in self.form.inputs)
        return self.form.op.inputs[: last + 1]
