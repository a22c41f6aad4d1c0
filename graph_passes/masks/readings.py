"""What a row of the reading tables gets to see of its node."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import onnx_ir as ir

from raggedrt.graph_passes.masks.formula import Unreadable
from raggedrt.graph_passes.masks.poly import Poly, Ranges
from raggedrt.graph_passes.masks.tensors import SymbolicTensor


@dataclasses.dataclass(frozen=True)
class NodeView:
    """A node with its inputs as symbolic tensors."""

    node: ir.Node
    tensor_of: Callable[[ir.Value], SymbolicTensor]
    ranges: Ranges

    def has(self, position: int) -> bool:
        """The input is given."""
        return position < len(self.node.inputs) and self.node.inputs[position] is not None

    def input(self, position: int) -> SymbolicTensor:
        """An input that must be given."""
        value = self.node.inputs[position] if position < len(self.node.inputs) else None
        if value is None:
            raise Unreadable(f"{self.node.op_type} without input {position}")
        return self.tensor_of(value)

    def inputs(self) -> list[SymbolicTensor]:
        """All inputs."""
        return [self.input(position) for position in range(len(self.node.inputs))]

    def integer(self, name: str, default: int) -> int:
        """An int attribute."""
        return self.node.attributes.get_int(name, default)

    def constants(self, position: int, attribute: str) -> tuple[int, ...] | None:
        """Constant integers (axes …) from an input, or from the attribute that older opsets have; None if absent."""
        if self.has(position):
            items = [item.constant for item in self.input(position).vector()]
            if any(item is None for item in items):
                raise Unreadable(f"{self.node.op_type} with axes that vary")
            return tuple(item for item in items if item is not None)
        found = self.node.attributes.get_ints(attribute, None)
        return None if found is None else tuple(found)

    def axis(self, default: int, rank: int) -> int:
        """The `axis` attribute, from the front."""
        return self.integer("axis", default) % rank

    def integral(self) -> bool:
        """The first input is known to be of an integer type."""
        value = self.node.inputs[0]
        return value is not None and value.dtype is not None and value.dtype.is_integer()

    def within(self, index: Poly, size: Poly) -> Poly:
        """An index that is shown to lie in [0, size); a negative constant counts from the end.

        For a table of constant size the lower bound is enough: the graph itself does not run beyond it.
        """
        if index.constant is not None and index.constant < 0:
            index = size + index
        if size.constant is not None and index.constant is None and self.ranges.at_most_zero(-index):
            return index
        return self.below(index, size)

    def below(self, index: Poly, size: Poly) -> Poly:
        """An index that is shown to lie in [0, size)."""
        if self.ranges.at_most_zero(-index) and self.ranges.at_most_zero(index - size + 1):
            return index
        raise Unreadable(f"an index {index} that may be outside [0, {size})")


Reading = Callable[[NodeView], SymbolicTensor]
