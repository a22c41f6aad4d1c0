"""Transfer rules of ops that work along given axes: fine along features, never along tokens."""

from __future__ import annotations

import typing
from collections.abc import Sequence

import onnx_ir as ir

from raggedrt.graph_passes.axes.atoms import Axes, Axis, Kind, Size, axis_size, feature, has, kinds
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.axes.elementwise import merge_axis
from raggedrt.graph_passes.axes.rule import (
    Packed,
    PackingRefused,
    packed_axis_number,
    refuse_mixing,
    require_axes,
)
from raggedrt.graph_passes.axes.views import view_axes

if typing.TYPE_CHECKING:
    from raggedrt.graph_passes.axes.analysis import AxisAnalysis

LAST = 1 << 31
"""Slice ends at or beyond this mean "to the end"."""


def _source(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    if value is None:
        raise PackingRefused(node, "the operand is missing")
    return value


class AlongAxis:
    """Same shape out as in; works along one axis (Softmax, CumSum)."""

    def __init__(self, default: int = -1, axis_input: int | None = None) -> None:
        self.default = default
        self.axis_input = axis_input

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        return [analysis.axes_of(node.inputs[0])]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        source = _source(node)
        axes = require_axes(node, region.analysis.axes_of(source))
        number = self.axis(node, region.analysis)
        if number is None:
            raise PackingRefused(node, f"the axis of {node.op_type} is known only at run time")
        number %= len(axes)
        refuse_mixing(node, axes, number)
        packed = packed_axis_number(axes, number)
        if self.axis_input is not None:
            return region.emit(node, [region.packed(source), region.constant([packed])])
        return region.emit(node, [region.packed(source)], {"axis": packed})

    def axis(self, node: ir.Node, analysis: AxisAnalysis) -> int | None:
        """The axis as written (may be negative)."""
        if self.axis_input is None:
            return int_attribute(node, "axis", self.default)
        written = analysis.static_ints(node.inputs[self.axis_input])
        return written[0] if written else None


class Normalization:
    """Normalises the axes from `axis` on; scale and bias belong to those axes. `skip`: a residual is added first."""

    def __init__(self, *, skip: bool = False) -> None:
        self.skip = skip

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        axes = analysis.axes_of(node.inputs[0])
        statistics: list[Axes | None] = [None] * max(0, len(node.outputs) - 1)
        if self.skip and len(statistics) == 3:
            statistics[2] = axes  # the sum before normalisation
        return [axes, *statistics]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        source = _source(node)
        axes = require_axes(node, region.analysis.axes_of(source))
        first = int_attribute(node, "axis", -1) % len(axes)
        for number in range(first, len(axes)):
            refuse_mixing(node, axes, number)
        operands = [
            region.packed(source),
            *(self._parameter(node, v, axes, i, region) for i, v in enumerate(node.inputs[1:])),
        ]
        # Counted from the end, the axis is the same with and without the batch.
        return region.emit(node, operands, {} if self.skip else {"axis": first - len(axes)})

    def _parameter(
        self, node: ir.Node, value: ir.Value | None, axes: Axes, index: int, region: Packed
    ) -> ir.Value | None:
        if value is None:
            return None
        own = require_axes(node, region.analysis.axes_of(value), "a parameter")
        if self.skip and index == 0:
            return region.aligned(value, axes)
        if has(own, Kind.TOKEN) or has(own, Kind.BATCH):
            raise PackingRefused(node, "a parameter differs from token to token")
        return value


class Reduction:
    """Reduces some axes. Along features it packs; along tokens it reads slots (`packing/readers.py`)."""

    def __init__(self, *, single_axis: bool = False) -> None:
        self.single_axis = single_axis

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        axes = analysis.axes_of(node.inputs[0])
        if axes is None:
            return [None]
        numbers = self.axes(node, analysis, len(axes))
        if numbers is None:
            return [None]
        keep = int_attribute(node, "keepdims", 1)
        return [tuple(() if n in numbers else axis for n, axis in enumerate(axes) if keep or n not in numbers)]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        source = _source(node)
        axes = require_axes(node, region.analysis.axes_of(source))
        numbers = self.axes(node, region.analysis, len(axes))
        if numbers is None:
            raise PackingRefused(node, "the reduced axes are known only at run time")
        for number in numbers:
            refuse_mixing(node, axes, number)
        packed = sorted(packed_axis_number(axes, number) for number in numbers)
        if self.single_axis:
            return region.emit(node, [region.packed(source)], {"axis": packed[0]})
        if "axes" in node.attributes:
            return region.emit(node, [region.packed(source)], {"axes": packed})
        return region.emit(node, [region.packed(source), region.constant(packed)])

    def axes(self, node: ir.Node, analysis: AxisAnalysis, rank: int) -> set[int] | None:
        """The reduced axes, counted from zero."""
        if self.single_axis:
            return {int_attribute(node, "axis", 0) % rank}
        given = "axes" in node.attributes or (len(node.inputs) > 1 and node.inputs[1] is not None)
        numbers = view_axes(node, analysis) if given else []
        if numbers is None:
            return None
        if not numbers:
            return set() if int_attribute(node, "noop_with_empty_axes", 0) else set(range(rank))
        return {number % rank for number in numbers}


class TopK:
    """The largest elements along one axis and where they are."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        axes, count = analysis.axes_of(node.inputs[0]), analysis.static_ints(node.inputs[1])
        if axes is None or count is None:
            return [None, None]
        number = int_attribute(node, "axis", -1) % len(axes)
        return [(*axes[:number], feature(Size(count[0])), *axes[number + 1 :])] * 2

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        source = _source(node)
        axes = require_axes(node, region.analysis.axes_of(source))
        number = int_attribute(node, "axis", -1) % len(axes)
        refuse_mixing(node, axes, number)
        packed = packed_axis_number(axes, number)
        return region.emit(node, [region.packed(source), node.inputs[1]], {"axis": packed})


class Concat:
    """Joins along one axis; along features the operands share their tokens."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        operands = [analysis.axes_of(value) for value in node.inputs]
        known = [axes for axes in operands if axes is not None]
        if len(known) != len(operands) or len({len(axes) for axes in known}) != 1:
            return [None]
        axis = int_attribute(node, "axis", 0) % len(known[0])
        merged: list[Axis | None] = []
        for number in range(len(known[0])):
            column = [axes[number] for axes in known]
            merged.append(_joined(column, node, analysis) if number == axis else merge_axis(column))
        return [None if any(m is None for m in merged) else tuple(m for m in merged if m is not None)]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        output = require_axes(node, region.analysis.axes_of(node.outputs[0]), "the output")
        axis = int_attribute(node, "axis", 0) % len(output)
        moved = moved_slots(node, output, axis, region.analysis)
        if moved is not None:
            return [region.shifted(node, *moved)]
        operands = []
        for value in node.inputs:
            own = require_axes(node, region.analysis.axes_of(value))
            if value is None or [kinds(a) for a in own] != [kinds(a) for a in output]:
                raise PackingRefused(node, "Concat joins tensors that do not hold the same tokens")
            refuse_mixing(node, own, axis)
            operands.append(region.packed(value))
        return region.emit(node, operands, {"axis": packed_axis_number(output, axis)})


def moved_slots(node: ir.Node, output: Axes, axis: int, analysis: AxisAnalysis) -> tuple[ir.Value, int] | None:
    """The x and -k of `Concat(zeros[k], x[:, :-k])` along slots (or k of `Concat(x[:, k:], zeros[k])`).

    Only where x is zero at padded slots, so that what is moved in from them is zero, too.
    """
    if kinds(output[axis]) != (Kind.TOKEN,) or len(node.inputs) != 2:
        return None
    for zeros, cut, sign in ((node.inputs[0], node.inputs[1], -1), (node.inputs[1], node.inputs[0], 1)):
        producer = None if cut is None else cut.producer()
        own, whole = analysis.axes_of(zeros), None if producer is None else analysis.axes_of(producer.inputs[0])
        if producer is None or producer.op_type != "Slice" or own is None or whole is None or len(whole) != len(output):
            continue
        count, bounds = axis_size(own[axis]).static, slice_bounds(producer, analysis)
        if (
            count is None
            or has(own, Kind.TOKEN)
            or bounds is None
            or {number % len(whole) for number in bounds} != {axis}
        ):
            continue
        start, end, step = next(iter(bounds.values()))
        wanted = (0, -count) if sign < 0 else (count, None)
        found = (None if start is None else start.static, None if end is None else end.static)
        to_the_end = wanted[1] is None and found[1] is not None and found[1] >= LAST
        same = found == wanted or (found[0] == wanted[0] and to_the_end)
        known = analysis.padded_of(zeros) == 0.0 == analysis.padded_of(producer.inputs[0])
        source = producer.inputs[0]
        if same and step == 1 and known and source is not None and kinds(whole[axis]) == (Kind.TOKEN,):
            return source, sign * count
    return None


def _joined(column: list[Axis], node: ir.Node, analysis: AxisAnalysis) -> Axis:
    lengths = [axis_size(axis).static for axis in column]
    known = [length for length in lengths if length is not None]
    if len(known) == len(lengths) and not any(kinds(axis) for axis in column):
        return feature(Size(sum(known)))
    total: Size | None = Size(0)
    for axis in column:
        total = None if total is None else total + axis_size(axis)
    if total is not None and total.symbols and any(axis_size(axis).plus for axis in column):
        return analysis.axis_of_size(total)
    return feature(Size(1, (f"{node.outputs[0].name}:joined",)))


class Split:
    """Cuts one axis into pieces."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        axes = analysis.axes_of(node.inputs[0])
        if axes is None:
            return [None] * len(node.outputs)
        axis = int_attribute(node, "axis", 0) % len(axes)
        lengths = self._lengths(node, axes[axis], analysis)
        if lengths is None or kinds(axes[axis]):
            return [None] * len(node.outputs)
        return [(*axes[:axis], feature(Size(length)), *axes[axis + 1 :]) for length in lengths]

    @staticmethod
    def _lengths(node: ir.Node, axis: Axis, analysis: AxisAnalysis) -> Sequence[int] | None:
        attribute = node.attributes.get("split")
        if attribute is not None:
            return attribute.as_ints()
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            return analysis.static_ints(node.inputs[1])
        total, pieces = axis_size(axis).static, len(node.outputs)
        if total is None:
            return None
        chunk = -(-total // pieces)
        return [min(chunk, total - chunk * number) for number in range(pieces)]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        source = _source(node)
        axes = require_axes(node, region.analysis.axes_of(source))
        axis = int_attribute(node, "axis", 0) % len(axes)
        refuse_mixing(node, axes, axis)
        rest = list(node.inputs[1:])
        return region.emit(node, [region.packed(source), *rest], {"axis": packed_axis_number(axes, axis)})


class Slice:
    """Cuts features, or takes the first slots of a constant table (`table[:, :sequence]`)."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        axes = analysis.axes_of(node.inputs[0])
        bounds = slice_bounds(node, analysis)
        if axes is None or bounds is None:
            return [None]
        result: list[Axis] = list(axes)
        for number, (start, end, step) in bounds.items():
            result[number % len(axes)] = self._cut(node, axes[number % len(axes)], start, end, step, analysis)
        return [tuple(result)]

    @staticmethod
    def _cut(
        node: ir.Node, axis: Axis, start: Size | None, end: Size | None, step: int, analysis: AxisAnalysis
    ) -> Axis:
        length = axis_size(axis)
        to_the_end = end is not None and (end == length or (end.static is not None and end.static >= LAST))
        if step == 1 and start == Size(0) and to_the_end:
            return axis
        count = None if start is None or end is None or (start.static or 0) < 0 else end + -start
        atom = None if count is None or step != 1 or kinds(axis) else analysis.size_atom(count)
        if atom is not None and length.static is not None:
            return (atom,)  # slots 0 … length, or as many from another number on; the table ends at the model's limit
        if step == 1 and start is not None and end is not None and length.symbols and len(axis) == 1:
            some = _counted_from_ends(length, start, end)
            if some is not None:
                return analysis.axis_of_size(some)
        if step == 1 and _one_element(start, end):
            return ()
        static = (length.static, None if start is None else start.static, None if end is None else end.static)
        if static[0] is not None and static[1] is not None and static[2] is not None and not kinds(axis):
            return feature(Size(len(range(static[0])[slice(static[1], static[2], step)])))
        return feature(Size(1, (f"{node.outputs[0].name}:cut",)))

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        source = _source(node)
        axes = require_axes(node, region.analysis.axes_of(source))
        bounds = slice_bounds(node, region.analysis)
        output = require_axes(node, region.analysis.axes_of(node.outputs[0]), "the output")
        if bounds is None:
            raise PackingRefused(node, "the slice is known only at run time")
        cut = {number % len(axes) for number in bounds}
        moved = [number for number in sorted(cut) if axes[number] != output[number] or not kinds(axes[number])]
        for number in moved:
            refuse_mixing(node, axes, number)
        if not moved:
            return [region.packed(source)]
        by_axis = {number % len(axes): bound for number, bound in bounds.items()}
        starts, ends, steps = zip(*((by_axis[number]) for number in moved), strict=True)
        if any(size is None or size.static is None for size in (*starts, *ends)):
            raise PackingRefused(node, "the slice is known only at run time")
        vectors = [
            [size.static for size in starts if size is not None and size.static is not None],
            [size.static for size in ends if size is not None and size.static is not None],
            [packed_axis_number(axes, number) for number in moved],
            list(steps),
        ]
        if len(node.inputs) < 3:  # opset 9 and before: attributes
            raise PackingRefused(node, "Slice with attributes (opset < 10) is not covered")
        return region.emit(node, [region.packed(source), *(region.constant(vector) for vector in vectors)])


def _counted_from_ends(length: Size, start: Size, end: Size) -> Size | None:
    """What is left of a symbolic length without some elements at its ends; None where the cut says something else."""
    if start.static is None or end.static is None:
        return None
    first = Size(start.static)
    last = length if end.static >= LAST else length + Size(end.static) if end.static < 0 else None
    return None if last is None or start.static < 0 else last + -first


def _one_element(start: Size | None, end: Size | None) -> bool:
    """`k:k+1`, or `-1:` (the end beyond any length)."""
    first, last = (None if size is None else size.static for size in (start, end))
    if first is None or last is None:
        return False
    return last == first + 1 if first != -1 else last >= LAST


Bound = tuple[Size | None, Size | None, int]


def slice_bounds(node: ir.Node, analysis: AxisAnalysis) -> dict[int, Bound] | None:
    """Start, end and step per axis (as written); None where axes or steps are known only at run time."""
    if len(node.inputs) < 3:
        return None
    starts, ends = (analysis.content_of(value) for value in node.inputs[1:3])
    count = len(starts.elements) if starts is not None else len(ends.elements) if ends is not None else None
    axes_value = node.inputs[3] if len(node.inputs) > 3 else None
    axes = analysis.static_ints(axes_value) if axes_value is not None else None if count is None else list(range(count))
    steps_value = node.inputs[4] if len(node.inputs) > 4 else None
    if axes is None:
        return None
    steps = analysis.static_ints(steps_value) if steps_value is not None else [1] * len(axes)
    if steps is None:
        return None
    unknown: tuple[Size | None, ...] = (None,) * len(axes)
    pairs = (starts.elements if starts else unknown, ends.elements if ends else unknown)
    if {len(axes)} != {len(steps), *map(len, pairs)}:
        return None  # no valid Slice
    return {number: (s, e, step) for number, s, e, step in zip(axes, *pairs, steps, strict=True)}
