"""Spell writes into a slice of a tensor as joins: what PyTorch writes as `x[..., 8:] = y`.

Exporters turn the axis to the front, make indices by Range and Slice, and write with ScatterND. Joined along
the axis itself, what stands before, the update and what stands behind keep the meaning of every axis:

    ScatterND(x^T, [start, start + 1, ... stop - 1], y^T)  ->  Concat(x[:start], y, x[stop:])^T

A tensor that is written part by part becomes the join of its parts, and what was there before is gone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.axes.views import permutation
from raggedrt.graph_passes.axes.within import LAST
from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.graph_passes.respell import respell

_VIEWS = ("Unsqueeze", "Squeeze", "Reshape", "Identity")
"""Of a list of indices: they change nothing but its rank."""


@dataclasses.dataclass(frozen=True)
class _Span:
    """Indices start, start + 1 ... stop - 1; a stop of None is the length of an axis, `length`."""

    start: int
    stop: int | None
    length: str | None = None


@dataclasses.dataclass(frozen=True)
class _Part:
    """A piece of a tensor along one axis; None: its size is known at run time only."""

    value: ir.Value
    size: int | None


def join_written_slices(graph: ir.Graph) -> int:
    """Respell every ScatterND that writes a slice of one axis; returns how many."""
    return respell(graph, {("", "ScatterND")}, _joined)


def _joined(node: ir.Node, tape: Tape) -> ir.Value | None:
    data, indices, updates = node.inputs[:3]
    if data is None or indices is None or updates is None or data.shape is None or updates.shape is None:
        return None
    reduction = node.attributes.get_string("reduction", "none")
    span = _span(indices)
    if reduction != "none" or span is None or indices.shape is None or len(indices.shape) != 2:
        return None
    if len(data.shape) != len(updates.shape) or not _fits(span, data.shape[0]):
        return None
    (target, order), (update, own_order) = _untransposed(data), _untransposed(updates)
    if order != own_order:
        target, update, order = data, updates, tuple(range(len(data.shape)))
    axis = order[0]
    parts = [
        *_cut(_parts(target, axis), 0, span.start, axis, tape),
        _Part(update, None),
        *([] if span.stop is None else _cut(_parts(target, axis), span.stop, None, axis, tape)),
    ]
    stem = f"{node.outputs[0].name}_joined"
    values = [part.value for part in parts]
    joined = tape.op("Concat", values, {"axis": axis}, stem=stem, shape=target.shape) if len(values) > 1 else update
    turned = tape.op("Transpose", [joined], {"perm": order}, stem=stem, shape=data.shape)
    return turned if len(values) > 1 or order != tuple(range(len(order))) else tape.op("Identity", [joined], stem=stem)


def _fits(span: _Span, length: int | ir.SymbolicDim) -> bool:
    """Whether the span is known to lie within an axis."""
    if span.stop is None:
        return not isinstance(length, int) and length.value is not None and length.value == span.length
    return not isinstance(length, int) or span.stop <= length  # beyond a length known at run time ONNX has no value


def _untransposed(value: ir.Value) -> tuple[ir.Value, tuple[int, ...]]:
    """What a chain of Transposes turns, and the order of axes in which it does."""
    assert value.shape is not None
    order = tuple(range(len(value.shape)))
    node = value.producer()
    while node is not None and node.op_type == "Transpose" and not node.domain and node.inputs[0] is not None:
        own = permutation(node, len(order))
        order = tuple(own[number] for number in order)
        value = node.inputs[0]
        node = value.producer()
    return value, order


def _parts(value: ir.Value, axis: int) -> list[_Part]:
    """The pieces that a Concat joins along an axis, else the whole."""
    node = value.producer()
    pieces = [value]
    if node is not None and node.op_type == "Concat" and not node.domain and None not in node.inputs:
        assert value.shape is not None
        if int_attribute(node, "axis", 0) % len(value.shape) == axis:
            pieces = [piece for piece in node.inputs if piece is not None]
    sizes = [piece.shape[axis] if piece.shape is not None else None for piece in pieces]
    return [_Part(piece, size if isinstance(size, int) else None) for piece, size in zip(pieces, sizes, strict=True)]


def _cut(parts: Sequence[_Part], start: int, stop: int | None, axis: int, tape: Tape) -> list[_Part]:
    """The pieces from `start` to `stop`; None: to the end. Those that are cut through are sliced."""
    found: list[_Part] = []
    place = 0
    for number, part in enumerate(parts):
        if stop is not None and place >= stop:
            break
        if part.size is None:  # nothing is known of what stands behind it
            rest = parts[number:]
            whole = rest[0] if len(rest) == 1 else _Part(_concat(rest, axis, tape), None)
            return [*found, *_slice(whole, max(start - place, 0), None if stop is None else stop - place, axis, tape)]
        end = part.size if stop is None else min(part.size, stop - place)
        found += _slice(part, max(start - place, 0), end, axis, tape)
        place += part.size
    return found


def _concat(parts: Sequence[_Part], axis: int, tape: Tape) -> ir.Value:
    return tape.op("Concat", [part.value for part in parts], {"axis": axis}, stem="parts")


def _slice(part: _Part, start: int, stop: int | None, axis: int, tape: Tape) -> list[_Part]:
    if stop is not None and start >= stop:
        return []
    if start == 0 and (stop is None or stop == part.size):
        return [part]
    shape = None
    if part.value.shape is not None and stop is not None:
        shape = [dim if isinstance(dim, int) else str(dim) for dim in part.value.shape]
        shape[axis] = stop - start
    bounds = [
        tape.vector([start]),
        tape.vector([np.iinfo(np.int64).max if stop is None else stop]),
        tape.vector([axis]),
    ]
    return [
        _Part(tape.op("Slice", [part.value, *bounds], stem="part", shape=shape), None if stop is None else stop - start)
    ]


def _span(indices: ir.Value) -> _Span | None:
    """The indices as a span, where they are known to be one."""
    if indices.const_value is not None:
        return _listed_span(indices.const_value.numpy().reshape(-1))
    node = indices.producer()
    if node is None or node.domain or node.inputs[0] is None:
        return None
    if node.op_type in _VIEWS:
        return _span(node.inputs[0])
    if node.op_type == "Range":
        return _range_span(node)
    if node.op_type != "Slice":
        return None
    whole, bounds = _span(node.inputs[0]), [_ints(value) for value in node.inputs[1:]]
    if whole is None or len(bounds) < 2 or bounds[0] is None or bounds[1] is None or not _is_column(node.inputs[0]):
        return None
    if (bounds[2:] and bounds[2] != [0]) or (bounds[3:] and bounds[3] != [1]):
        return None
    return _sliced(whole, bounds[0][0], bounds[1][0])


def _is_column(indices: ir.Value) -> bool:
    """Whether the first axis counts the indices, [n] or [n, 1]."""
    return indices.shape is not None and len(indices.shape) > 0 and all(dim == 1 for dim in list(indices.shape)[1:])


def _listed_span(places: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> _Span | None:
    if places.size == 0 or places[0] < 0 or (np.diff(places) != 1).any():
        return None
    return _Span(int(places[0]), int(places[-1]) + 1)


def _range_span(node: ir.Node) -> _Span | None:
    """Range(start, limit, 1); the limit a number, or the length of an axis."""
    start, step = _ints(node.inputs[0]), _ints(node.inputs[2])
    limit = node.inputs[1]
    if start is None or step != [1] or limit is None or start[0] < 0:
        return None
    length = _length(limit)
    if isinstance(length, str):
        return _Span(start[0], None, length)
    return None if length is None else _Span(start[0], max(length, start[0]))


def _length(value: ir.Value) -> int | str | None:
    """A number, or the symbol of an axis whose length is asked for: `Gather(Shape(x), 2)`."""
    known = _ints(value)
    if known is not None:
        return known[0]
    node = value.producer()
    if node is not None and node.op_type in _VIEWS and not node.domain and node.inputs[0] is not None:
        return _length(node.inputs[0])
    if node is None or node.op_type != "Gather" or node.domain or node.inputs[0] is None:
        return None
    shape, place = node.inputs[0].producer(), _ints(node.inputs[1])
    if shape is None or shape.op_type != "Shape" or shape.inputs[0] is None or place is None or len(place) != 1:
        return None
    dims = shape.inputs[0].shape
    if dims is None:
        return None
    asked = tuple(dims)[shape.attributes.get_int("start", 0) : shape.attributes.get_int("end", len(dims))]
    if not -len(asked) <= place[0] < len(asked):
        return None
    dim = asked[place[0]]
    return dim if isinstance(dim, int) else dim.value


def _sliced(whole: _Span, start: int, stop: int) -> _Span | None:
    if whole.stop is not None:
        first, last, _ = slice(start, stop).indices(whole.stop - whole.start)
        return _Span(whole.start + first, whole.start + last) if first < last else None
    if start < 0 or stop <= start:  # how far that is from the end is known at run time only
        return None
    # Where the axis is shorter than that, the update is shorter, too, and nothing stands behind it.
    return _Span(whole.start + start, None if stop >= LAST else whole.start + stop, whole.length)


def _ints(value: ir.Value | None) -> list[int] | None:
    if value is None or value.const_value is None:
        return None
    return [int(number) for number in value.const_value.numpy().reshape(-1)]
