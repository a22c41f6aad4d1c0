"""Symbolic tensors: sizes, and what stands at an index."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from raggedrt.graph_passes.masks.elements import Element, choose, number
from raggedrt.graph_passes.masks.formula import Truth, Unreadable, at_most_zero
from raggedrt.graph_passes.masks.poly import Poly, Ranges

Index = tuple[Poly, ...]
Dims = tuple[Poly, ...]
ONE = Poly.number(1)
ZERO = Poly.number(0)


@dataclasses.dataclass
class SymbolicTensor:
    """A tensor as a function of its index; nothing of the size of the sequence is ever stored.

    Attributes:
        dims: sizes of the axes, in elements.
        element: what stands at an index (one expression per axis, each within its size).
    """

    dims: Dims
    element: Callable[[Index], Element]
    _known: dict[Index, Element] = dataclasses.field(default_factory=dict, repr=False)

    def at(self, index: Index) -> Element:
        """The element at an index, computed once."""
        if index not in self._known:
            self._known[index] = self.element(index)
        return self._known[index]

    def broadcast_at(self, index: Index) -> Element:
        """The element at an index of a tensor that this one is broadcast to."""
        tail = index[len(index) - len(self.dims) :]
        return self.at(tuple(ZERO if dim == ONE else i for dim, i in zip(self.dims, tail, strict=True)))

    def scalar(self) -> Poly:
        """The only element, an index expression."""
        if any(dim != ONE for dim in self.dims):
            raise Unreadable("a tensor where one number is expected")
        return _as_poly(self.at((ZERO,) * len(self.dims)))

    def vector(self) -> tuple[Poly, ...]:
        """All elements of a rank-1 tensor of known length (a shape, axes, …)."""
        if len(self.dims) != 1 or self.dims[0].constant is None or self.dims[0].constant > 32:
            raise Unreadable("a vector of unknown length")
        return tuple(_as_poly(self.at((Poly.number(i),))) for i in range(self.dims[0].constant))


def _as_poly(element: Element) -> Poly:
    if not isinstance(element, Poly):
        raise Unreadable("a size that depends on values")
    return element


def vector_tensor(items: Sequence[Poly]) -> SymbolicTensor:
    """A rank-1 tensor of given elements."""

    def element(index: Index) -> Element:
        position = index[0].constant
        if position is None:
            raise Unreadable("a shape read at a varying index")
        return items[position]

    return SymbolicTensor((Poly.number(len(items)),), element)


def broadcast_dims(*shapes: Dims) -> Dims:
    """Sizes after ONNX broadcasting."""
    rank = max(map(len, shapes))
    result = []
    for axis in range(rank):
        sizes = {shape[axis - rank] for shape in shapes if len(shape) >= rank - axis} - {ONE}
        if len(sizes) > 1:
            raise Unreadable("sizes that are equal only by chance: " + ", ".join(sorted(map(str, sizes))))
        result.append(sizes.pop() if sizes else ONE)
    return tuple(result)


def constant_tensor(array: npt.NDArray[np.generic], ranges: Ranges) -> SymbolicTensor:
    """A constant array: uniform, counting up, triangular, or read at constant indices."""
    dims = tuple(Poly.number(size) for size in array.shape)
    return SymbolicTensor(dims, lambda index: _constant_at(array, index, ranges))


def _constant_at(array: npt.NDArray[np.generic], index: Index, ranges: Ranges) -> Element:
    fixed = tuple(slice(None) if i.constant is None else i.constant for i in index)
    part, free = array[fixed], [i for i in index if i.constant is None]
    if part.size == 0:
        raise Unreadable("an empty constant")
    first = part.ravel()[0]
    if part.ndim == 0 or bool((part == first).all()):
        return _leaf(first)
    if part.ndim == 1 and part.dtype.kind in "iu":
        step = int(part[1]) - int(part[0])
        if bool((part.astype(np.int64) == int(part[0]) + step * np.arange(part.size)).all()):
            return free[0] * step + int(part[0])
    if part.ndim == 2:
        return _triangle_at(part, free[0], free[1], ranges)
    raise Unreadable("a table of constants")


def _triangle_at(part: npt.NDArray[np.generic], row: Poly, column: Poly, ranges: Ranges) -> Element:
    """One value up to a diagonal and another after it."""
    along = np.concatenate([part[::-1, 0], part[0, 1:]])  # one element of each diagonal, the lowest first
    changes = np.flatnonzero(along[1:] != along[:-1])
    if len(changes) != 1:
        raise Unreadable("a table of constants")
    diagonal = int(changes[0]) - (part.shape[0] - 1)
    below, above = along[0], along[-1]
    rows, columns = np.indices(part.shape)
    if not bool((part == np.where(columns - rows <= diagonal, below, above)).all()):
        raise Unreadable("a table of constants")
    return choose(at_most_zero(column - row - diagonal, ranges), _leaf(below), _leaf(above))


def _leaf(value: np.generic) -> Element:
    if value.dtype.kind == "b":
        return Truth(bool(value))
    if value.dtype.kind in "iu":
        return Poly.number(int(value))
    return number(float(value))
