"""Symbolic readings of ops that move elements: shapes, slices, gathers, concatenations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from raggedrt.graph_passes.masks.elements import Element, choose
from raggedrt.graph_passes.masks.formula import Unreadable, at_most_zero
from raggedrt.graph_passes.masks.poly import Poly, divide
from raggedrt.graph_passes.masks.readings import NodeView, Reading
from raggedrt.graph_passes.masks.tensors import (
    ONE,
    ZERO,
    Dims,
    Index,
    SymbolicTensor,
    broadcast_dims,
    vector_tensor,
)

FAR = 2**31 - 1
"""Slice ends at or beyond this mean the end of the axis."""


def _identity(view: NodeView) -> SymbolicTensor:
    return view.input(0)


def _shape(view: NodeView) -> SymbolicTensor:
    dims = view.input(0).dims
    return vector_tensor(dims[view.integer("start", 0) : view.integer("end", len(dims))])


def _size(view: NodeView) -> SymbolicTensor:
    total = product(view.input(0).dims)
    return SymbolicTensor((), lambda index: total)


def _shape_of(view: NodeView, position: int) -> SymbolicTensor:
    """Ops of the network itself, of which a mask only reads the shape: that of one input."""
    return SymbolicTensor(view.input(position).dims, _never(view.node.op_type))


def _never(op_type: str) -> Callable[[Index], Element]:
    def element(index: Index) -> Element:
        raise Unreadable(f"the symbolic reading has no {op_type}")

    return element


def _unsqueeze(view: NodeView) -> SymbolicTensor:
    data, axes = view.input(0), view.constants(1, "axes")
    if axes is None:
        raise Unreadable("Unsqueeze without axes")
    rank = len(data.dims) + len(axes)
    new = {axis % rank for axis in axes}
    old = [axis for axis in range(rank) if axis not in new]
    dims = [ONE] * rank
    for axis, dim in zip(old, data.dims, strict=True):
        dims[axis] = dim
    return SymbolicTensor(tuple(dims), lambda index: data.at(tuple(index[axis] for axis in old)))


def _squeeze(view: NodeView) -> SymbolicTensor:
    data, axes = view.input(0), view.constants(1, "axes")
    rank = len(data.dims)
    gone = {axis for axis in range(rank) if data.dims[axis] == ONE} if axes is None else {a % rank for a in axes}
    if any(data.dims[axis] != ONE for axis in gone):
        raise Unreadable("Squeeze of an axis that is not of size 1")
    kept = [axis for axis in range(rank) if axis not in gone]

    def element(index: Index) -> Element:
        full = [ZERO] * rank
        for axis, i in zip(kept, index, strict=True):
            full[axis] = i
        return data.at(tuple(full))

    return SymbolicTensor(tuple(data.dims[axis] for axis in kept), element)


def _transpose(view: NodeView) -> SymbolicTensor:
    data = view.input(0)
    perm = view.node.attributes.get_ints("perm", None) or tuple(reversed(range(len(data.dims))))
    back = [perm.index(axis) for axis in range(len(perm))]
    return SymbolicTensor(
        tuple(data.dims[axis] for axis in perm), lambda index: data.at(tuple(index[axis] for axis in back))
    )


def _expand(view: NodeView) -> SymbolicTensor:
    data = view.input(0)
    return SymbolicTensor(broadcast_dims(data.dims, view.input(1).vector()), data.broadcast_at)


def _tile(view: NodeView) -> SymbolicTensor:
    data, repeats = view.input(0), view.input(1).vector()
    for dim, repeat in zip(data.dims, repeats, strict=True):
        if dim != ONE and repeat != ONE:
            raise Unreadable("Tile of an axis longer than 1")
    return SymbolicTensor(tuple(d * r for d, r in zip(data.dims, repeats, strict=True)), data.broadcast_at)


def product(dims: Sequence[Poly]) -> Poly:
    """The number of elements."""
    return math.prod(dims, start=ONE)


def _reshape(view: NodeView) -> SymbolicTensor:
    data, target = view.input(0), list(view.input(1).vector())
    for axis, size in enumerate(target):
        if size == ZERO and not view.integer("allowzero", 0):
            target[axis] = data.dims[axis]
    free = [axis for axis, size in enumerate(target) if size == Poly.number(-1)]
    if free:
        known = product([size for axis, size in enumerate(target) if axis != free[0]])
        target[free[0]], rest = divide(product(data.dims), known)
        if rest != ZERO:
            raise Unreadable(f"Reshape of {product(data.dims)} elements by {known}")
    return reshape_to(view, data, tuple(target))


def _flatten(view: NodeView) -> SymbolicTensor:
    data = view.input(0)
    axis = view.integer("axis", 1)
    axis = axis % len(data.dims) if axis < 0 else axis
    return reshape_to(view, data, (product(data.dims[:axis]), product(data.dims[axis:])))


def reshape_to(view: NodeView, data: SymbolicTensor, dims: Dims) -> SymbolicTensor:
    """The same elements in row-major order under other sizes."""
    if product(dims) != product(data.dims):
        raise Unreadable(f"Reshape of {product(data.dims)} elements to {product(dims)}")
    old = [axis for axis, dim in enumerate(data.dims) if dim != ONE]
    new = [axis for axis, dim in enumerate(dims) if dim != ONE]
    only_ones = [data.dims[axis] for axis in old] == [dims[axis] for axis in new]

    def element(index: Index) -> Element:
        full = [ZERO] * len(data.dims)
        if only_ones:  # axes of size 1 come and go
            for to, source in zip(old, new, strict=True):
                full[to] = index[source]
            return data.at(tuple(full))
        flat = ZERO
        for i, dim in zip(index, dims, strict=True):
            flat = flat * dim + i
        for axis in reversed(range(len(data.dims))):
            if axis == 0:
                full[axis] = view.below(flat, data.dims[axis])
            elif data.dims[axis] != ONE:
                flat, rest = divide(flat, data.dims[axis])
                full[axis] = view.below(rest, data.dims[axis])
        return data.at(tuple(full))

    return SymbolicTensor(dims, element)


def _slice(view: NodeView) -> SymbolicTensor:
    data = view.input(0)
    if not view.has(1):
        raise Unreadable("Slice of an old opset")
    starts, ends = view.input(1).vector(), view.input(2).vector()
    axes = view.constants(3, "axes") or tuple(range(len(starts)))
    steps = view.constants(4, "steps") or (1,) * len(starts)
    dims, offsets = list(data.dims), [ZERO] * len(data.dims)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step != 1:
            raise Unreadable("Slice with a step")
        size = data.dims[axis % len(dims)]
        begin, stop = _slice_end(view, start, size), _slice_end(view, end, size)
        offsets[axis % len(dims)], dims[axis % len(dims)] = begin, stop - begin
    return SymbolicTensor(
        tuple(dims), lambda index: data.at(tuple(i + offset for i, offset in zip(index, offsets, strict=True)))
    )


def _slice_end(view: NodeView, end: Poly, size: Poly) -> Poly:
    if end.constant is not None and end.constant >= FAR:
        return size
    if end.constant is not None and end.constant < 0:
        end = size + end
    if size.constant is not None and end.constant is None and view.ranges.at_most_zero(-end):
        return end  # a table cut to the sequence: beyond the table's size the graph itself does not run
    if view.ranges.at_most_zero(-end) and view.ranges.at_most_zero(end - size):
        return end
    raise Unreadable(f"Slice to {end} of {size}")


def _concat(view: NodeView) -> SymbolicTensor:
    parts = view.inputs()
    axis = view.axis(0, len(parts[0].dims))
    sizes = [part.dims[axis] for part in parts]
    dims = list(broadcast_dims(*((*part.dims[:axis], ONE, *part.dims[axis + 1 :]) for part in parts)))
    dims[axis] = sum(sizes, start=ZERO)

    def element(index: Index) -> Element:
        return _part_at(view, parts, index, axis)

    return SymbolicTensor(tuple(dims), element)


def _part_at(view: NodeView, parts: list[SymbolicTensor], index: Index, axis: int) -> Element:
    first, rest = parts[0], parts[1:]
    if not rest:
        return first.at(index)
    size = first.dims[axis]
    in_first = at_most_zero(index[axis] - size + 1, view.ranges)
    after = (*index[:axis], index[axis] - size, *index[axis + 1 :])
    if view.ranges.at_most_zero(index[axis] - size + 1):
        return first.at(index)
    if view.ranges.at_most_zero(size - index[axis]):
        return _part_at(view, rest, after, axis)
    here = (*index[:axis], ZERO, *index[axis + 1 :]) if size == ONE else index
    return choose(in_first, first.at(here), _part_at(view, rest, after, axis))


def _gather(view: NodeView) -> SymbolicTensor:
    data, indices = view.input(0), view.input(1)
    axis, rank = view.axis(0, len(data.dims)), len(indices.dims)

    def element(index: Index) -> Element:
        found = indices.at(index[axis : axis + rank])
        if not isinstance(found, Poly):
            raise Unreadable("Gather at an index that depends on values")
        inner = view.within(found, data.dims[axis])
        return data.at((*index[:axis], inner, *index[axis + rank :]))

    return SymbolicTensor(data.dims[:axis] + indices.dims + data.dims[axis + 1 :], element)


def _gather_nd(view: NodeView) -> SymbolicTensor:
    data, indices = view.input(0), view.input(1)
    width = indices.dims[-1].constant
    if view.integer("batch_dims", 0) or width is None:
        raise Unreadable("GatherND with batch_dims")

    def element(index: Index) -> Element:
        lead = index[: len(indices.dims) - 1]
        found = []
        for axis in range(width):
            item = indices.at((*lead, Poly.number(axis)))
            if not isinstance(item, Poly):
                raise Unreadable("GatherND at an index that depends on values")
            found.append(view.within(item, data.dims[axis]))
        return data.at((*found, *index[len(lead) :]))

    return SymbolicTensor(indices.dims[:-1] + data.dims[width:], element)


LAYOUT_READINGS: dict[str, Reading] = {
    "Identity": _identity,
    "Shape": _shape,
    "Size": _size,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Slice": _slice,
    "Concat": _concat,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "GatherElements": lambda view: _shape_of(view, 1),
    "LayerNormalization": lambda view: _shape_of(view, 0),
}
