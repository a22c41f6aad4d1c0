"""New nodes on trial: built beside the original graph, then either joined to it or dropped without a trace."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from raggedrt.graph_passes.axes.atoms import Axes, Axis, Kind, Size, axis_size
from raggedrt.graph_passes.axes.rule import packed_axes
from raggedrt.plugins.node import make_node

TOKENS = "tokens"
"""Name of the packed token dimension in shapes."""
PREFIX = "ragged_"


class Tape:
    """Collects nodes and constants; the graph is not touched before `join`."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.nodes: list[ir.Node] = []
        self.constants: dict[Hashable, ir.Value] = {}
        self._names = {value.name for node in graph for value in node.outputs} | set(graph.initializers)
        self._names |= {value.name for value in graph.inputs} | {node.name for node in graph}

    def fresh_name(self, stem: str) -> str:
        """A name that no value or node of the graph has yet."""
        stem = stem.removeprefix(PREFIX)
        name, number = f"{PREFIX}{stem}", 0
        while name in self._names:
            number += 1
            name = f"{PREFIX}{stem}_{number}"
        self._names.add(name)
        return name

    def vector(self, values: Sequence[int]) -> ir.Value:
        """An int64 vector."""
        return self._constant(tuple(values), np.array(values, dtype=np.int64))

    def scalar(self, value: int) -> ir.Value:
        """An int64 scalar."""
        return self._constant(value, np.array(value, dtype=np.int64))

    def number(self, value: float, dtype: ir.DataType) -> ir.Value:
        """A scalar of any element type."""
        return self._constant((str(value), dtype), np.array(value, dtype=dtype.numpy()), dtype)

    def array(self, values: npt.NDArray[Any], stem: str) -> ir.Value:
        """A constant tensor of its own."""
        return self._constant((stem, len(self.constants)), values, ir.DataType.from_numpy(values.dtype))

    def _constant(self, key: Hashable, array: npt.NDArray[Any], dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
        if key not in self.constants:
            name = self.fresh_name("const")
            value = ir.Value(name=name, const_value=ir.tensor(array, dtype=dtype, name=name))
            value.dtype, value.shape = dtype, ir.Shape(array.shape)
            self.constants[key] = value
        return self.constants[key]

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        stem: str,
        dtype: ir.DataType | None = None,
        shape: ir.Shape | Sequence[int | str] | None = None,
    ) -> ir.Value:
        """A standard op with one output."""
        attrs = ir.convenience.convert_attributes(attributes or {})
        node = ir.Node("", op_type, inputs, attributes=attrs, num_outputs=1, name=self.fresh_name(f"{stem}_node"))
        self._enter(node, stem)
        output = node.outputs[0]
        if dtype is not None:
            output.dtype = dtype
        elif inputs[0] is not None:
            output.type = inputs[0].type
        if shape is not None:
            output.shape = ir.Shape(shape)
        return output

    def custom(
        self,
        op_name: str,
        inputs: Mapping[str, ir.Value | None],
        attributes: Mapping[str, int | float | Sequence[int]] | None = None,
        *,
        stem: str,
        outputs: Sequence[str] | None = None,
    ) -> ir.Node:
        """A `raggedrt` op."""
        node = make_node(op_name, inputs, attributes or {}, outputs=outputs, name=self.fresh_name(f"{stem}_node"))
        self.nodes.append(node)
        for output in node.outputs:
            role = (output.name or "").removeprefix(f"{node.name}_")
            output.name = self.fresh_name(stem if len(node.outputs) == 1 else f"{stem}_{role}")
        return node

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any]) -> ir.Node:
        """A copy of a node on other inputs, some attributes replaced. Outputs keep their element types."""
        attrs = {**node.attributes, **{a.name: a for a in ir.convenience.convert_attributes(attributes)}}
        new = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            attributes=attrs.values(),
            overload=node.overload,
            num_outputs=len(node.outputs),
            version=node.version,
            name=self.fresh_name(node.name or node.outputs[0].name or node.op_type),
            metadata_props=dict(node.metadata_props),
        )
        self._enter(new, None)
        for old, output in zip(node.outputs, new.outputs, strict=True):
            output.name = self.fresh_name(old.name) if old.name else ""
            output.type = old.type
        return new

    def _enter(self, node: ir.Node, stem: str | None) -> None:
        self.nodes.append(node)
        if stem is not None:
            node.outputs[0].name = self.fresh_name(stem)

    def join(self, before: ir.Node | None = None) -> None:
        """Add everything to the graph: before a node, or at its end (the caller sorts)."""
        for value in self.constants.values():
            self.graph.register_initializer(value)
        if before is None:
            self.graph.extend(self.nodes)
        else:
            self.graph.insert_before(before, self.nodes)

    def drop(self) -> None:
        """Forget everything: the graph is as if nothing had been built."""
        for node in self.nodes:
            for number in range(len(node.inputs)):
                node.replace_input_with(number, None)
        self.nodes.clear()


def packed_shape(axes: Axes) -> list[int | str]:
    """Dimensions of the packed form; unknown ones get a symbol."""
    return [_dim(axis, {Kind.TOKEN: TOKENS}) for axis in packed_axes(axes)]


def padded_shape(axes: Axes) -> list[int | str]:
    """Dimensions of the padded form."""
    return [_dim(axis, {Kind.BATCH: "batch", Kind.TOKEN: "sequence"}) for axis in axes]


def _dim(axis: Axis, names: Mapping[Kind, str]) -> int | str:
    """Different lengths need different symbols: ONNX Runtime reuses buffers of tensors whose symbols agree."""
    packed = Kind.BATCH not in names and any(atom.kind is Kind.TOKEN for atom in axis)
    static = axis_size(axis).static
    if static is not None and not packed:  # a static sequence still has any number of packed tokens
        return static
    parts = [names.get(atom.kind) or _size_name(atom.size) for atom in axis]
    return "*".join(part for part in parts if part != "1")


def _size_name(size: Size) -> str:
    coefficient = [] if size.coefficient == 1 and size.symbols else [str(size.coefficient)]
    product = "*".join([*coefficient, *size.symbols]).replace(":", "_")
    return f"{product}{size.plus:+d}" if size.plus else product
