"""Turn the nodes of a mask's graph into symbolic tensors, one table row per op."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from raggedrt.graph_passes.masks.elements import Branch, Element
from raggedrt.graph_passes.masks.formula import Unreadable, Valid
from raggedrt.graph_passes.masks.inputs import GraphInputs
from raggedrt.graph_passes.masks.poly import Poly, Ranges
from raggedrt.graph_passes.masks.readings import NodeView
from raggedrt.graph_passes.masks.readings_layout import LAYOUT_READINGS
from raggedrt.graph_passes.masks.readings_value import VALUE_READINGS
from raggedrt.graph_passes.masks.tensors import ONE, Index, SymbolicTensor, constant_tensor

READINGS = {**LAYOUT_READINGS, **VALUE_READINGS}


class Reader:
    """Symbolic tensors of a mask's graph.

    Attributes:
        extents: size of each labelled axis: b batch, q and k sequence.
        ranges: bounds of the slots, for folding comparisons.
    """

    def __init__(self, inputs: GraphInputs) -> None:
        batch = Poly.variable("B") if inputs.batch is None else Poly.number(inputs.batch)
        sequence = Poly.variable("S") if inputs.sequence is None else Poly.number(inputs.sequence)
        self._inputs = inputs
        self._tensors: dict[int, SymbolicTensor | Unreadable] = {}
        self.extents = {"b": batch, "q": sequence, "k": sequence}
        self.ranges = Ranges(tuple(self.extents.items()))

    def tensor_of(self, value: ir.Value) -> SymbolicTensor:
        """The symbolic tensor of a value whose producer was read.

        Raises:
            Unreadable: the value could not be read.
        """
        if id(value) not in self._tensors:
            self._tensors[id(value)] = self._guard(lambda: self._leaf(value))
        found = self._tensors[id(value)]
        if isinstance(found, Unreadable):
            raise found
        return found

    def read_node(self, node: ir.Node) -> None:
        """Read one node whose producers were read; what cannot be read fails only where it is used."""
        constant = ir.convenience.get_const_tensor(node.outputs[0])
        if constant is not None:
            array = constant.numpy()
            self._tensors[id(node.outputs[0])] = constant_tensor(array, self.ranges)
            return
        self._tensors[id(node.outputs[0])] = self._guard(lambda: self._read(node))

    def _guard(self, read: Callable[[], SymbolicTensor]) -> SymbolicTensor | Unreadable:
        try:
            return read()
        except Unreadable as reason:
            return reason

    def _read(self, node: ir.Node) -> SymbolicTensor:
        reading = READINGS.get(node.op_type)
        if reading is None or len(node.outputs) != 1:
            raise Unreadable(f"the symbolic reading has no {node.op_type}")
        return reading(NodeView(node, self.tensor_of, self.ranges))

    def _leaf(self, value: ir.Value) -> SymbolicTensor:
        if value.const_value is not None:
            return constant_tensor(value.const_value.numpy(), self.ranges)
        name = value.name or ""
        batch_and_sequence = (self.extents["b"], self.extents["k"])
        if name == self._inputs.attention_mask:
            return SymbolicTensor(batch_and_sequence, self._padding_element(value.dtype))
        if name in self._inputs.per_token:
            return SymbolicTensor(batch_and_sequence, _only_shape(name))
        if value.shape is None:
            raise Unreadable(f"input {name} has no shape")
        return SymbolicTensor(tuple(self._size(dim, name) for dim in value.shape), _only_shape(name))

    def _padding_element(self, dtype: ir.DataType | None) -> Callable[[Index], Element]:
        def element(index: Index) -> Element:
            # On an axis of size 1 the only index is this row's (this key's) own.
            batch, slot = (
                Poly.variable(label) if self.extents[label] == ONE else i for label, i in zip("bk", index, strict=True)
            )
            valid = Valid(batch, slot)
            return valid if dtype == ir.DataType.BOOL else Branch(valid, Poly.number(1), Poly.number(0))

        return element

    def _size(self, dim: int | ir.SymbolicDim, name: str) -> Poly:
        if isinstance(dim, int):
            return Poly.number(dim)
        if dim.value in self._inputs.batch_symbols:
            return self.extents["b"]
        if dim.value in self._inputs.sequence_symbols:
            return self.extents["k"]
        raise Unreadable(f"input {name} has an axis {dim.value} that is neither batch nor sequence")


def _only_shape(name: str) -> Callable[[Index], Element]:
    def element(index: Index) -> Element:
        raise Unreadable(f"it reads the values of input {name}")

    return element
