"""Transfer rules of ops that look up, enumerate or repeat."""

from __future__ import annotations

import typing

import onnx_ir as ir

from raggedrt.graph_passes.axes.atoms import ONE, Axes, Axis, Kind, Size, axis_size, feature, has, kinds
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.axes.rule import (
    Packed,
    PackingRefused,
    dropped_axis,
    packed_axes,
    packed_axis_number,
    refuse_mixing,
    require_axes,
)

if typing.TYPE_CHECKING:
    from raggedrt.graph_passes.axes.analysis import AxisAnalysis


class Gather:
    """Either a table look-up by token (an embedding), or constant indices into a feature axis."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        data, indices = (analysis.axes_of(value) for value in node.inputs[:2])
        if data is None or indices is None or not data:
            return [None]
        axis = int_attribute(node, "axis", 0) % len(data)
        return [(*data[:axis], *indices, *data[axis + 1 :])]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        data, indices = node.inputs[:2]
        if data is None or indices is None:
            raise PackingRefused(node, "an operand is missing")
        data_axes = require_axes(node, region.analysis.axes_of(data), "the table")
        index_axes = require_axes(node, region.analysis.axes_of(indices), "the indices")
        axis = int_attribute(node, "axis", 0) % len(data_axes)
        if not has(index_axes, Kind.TOKEN) and not has(index_axes, Kind.BATCH):
            refuse_mixing(node, data_axes, axis)
            return region.emit(node, [region.packed(data), indices], {"axis": packed_axis_number(data_axes, axis)})
        rest = data_axes[:axis] + data_axes[axis + 1 :]
        if has(rest, Kind.TOKEN) or has(rest, Kind.BATCH) or has(data_axes, Kind.BATCH):
            raise PackingRefused(node, "Gather takes tokens by indices that differ from token to token")
        return region.emit(node, [region.exact(data, node), region.packed(indices)])


class GatherElements:
    """Takes along one axis; the indices' axes are the output's."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        return [analysis.axes_of(node.inputs[1])]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        data, indices = node.inputs[:2]
        if data is None or indices is None:
            raise PackingRefused(node, "an operand is missing")
        data_axes = require_axes(node, region.analysis.axes_of(data), "the data")
        index_axes = require_axes(node, region.analysis.axes_of(indices), "the indices")
        axis = int_attribute(node, "axis", 0) % len(data_axes)
        table = self._table(data, data_axes, axis, region)
        if table is not None:
            row = region.reshaped(node, region.exact(table, node), data_axes[1:])
            return [region.gather(node, row, region.packed(indices))]
        refuse_mixing(node, data_axes, axis)
        others = [number for number in range(len(data_axes)) if number != axis]
        if len(index_axes) != len(data_axes) or any(kinds(data_axes[n]) != kinds(index_axes[n]) for n in others):
            raise PackingRefused(node, "GatherElements takes elements of other tokens")
        packed = [region.packed(data), region.packed(indices)]
        return region.emit(node, packed, {"axis": packed_axis_number(data_axes, axis)})

    @staticmethod
    def _table(data: ir.Value, axes: Axes, axis: int, region: Packed) -> ir.Value | None:
        """One row [1, F] that Expand repeats for every sequence, looked up by token: RoBERTa's token types."""
        if axis != 1 or len(axes) != 2 or has(axes[1:], Kind.TOKEN):
            return None
        node = data.producer()
        source = data if node is None or node.op_type != "Expand" else node.inputs[0]
        source_axes = region.analysis.axes_of(source)
        return source if source_axes is not None and len(source_axes) == 2 and not source_axes[0] else None


class ScatterElements:
    """Writes along one feature axis; data, indices and updates hold the same tokens (the routing of experts)."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        return [analysis.axes_of(node.inputs[0])]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        operands = [value for value in node.inputs[:3] if value is not None]
        axes = [require_axes(node, region.analysis.axes_of(value)) for value in operands]
        number = int_attribute(node, "axis", 0) % len(axes[0])
        for own in axes:
            if [kinds(axis) for axis in own] != [kinds(axis) for axis in axes[0]]:
                raise PackingRefused(node, "ScatterElements writes to elements of other tokens")
            refuse_mixing(node, own, number)
        packed = [region.full(value) for value in operands]
        return region.emit(node, packed, {"axis": packed_axis_number(axes[0], number)})


class GatherND:
    """A table look-up by index tuples. Reads of one slot per sequence are `packing/readers.py`'s."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        data, indices = (analysis.axes_of(value) for value in node.inputs[:2])
        depth = axis_size(indices[-1]).static if indices else None
        if data is None or not indices or depth is None:
            return [None]
        return [(*indices[:-1], *data[int_attribute(node, "batch_dims", 0) + depth :])]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        data, indices = node.inputs[:2]
        axes = require_axes(node, region.analysis.axes_of(data), "the table")
        if data is None or indices is None or has(axes, Kind.TOKEN) or has(axes, Kind.BATCH):
            raise PackingRefused(node, "GatherND takes tokens by computed indices")
        return region.emit(node, [region.exact(data, node), region.packed(indices)])


class Range:
    """Slots or rows enumerated: `Range(0, sequence)`, or from another number, `Range(2, sequence + 2)`."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        start, step = (analysis.static_ints(node.inputs[index]) for index in (0, 2))
        limit = analysis.content_of(node.inputs[1])
        size = None
        if start and step == [1] and limit is not None and limit.elements[0] is not None:
            size = limit.elements[0] + Size(-start[0])
        if size is None or size.plus:
            return [(feature(Size(1, (f"{node.outputs[0].name}:0",))),)]
        atom = analysis.size_atom(size)
        return [((atom,),) if atom is not None else (feature(size),)]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        raise PackingRefused(node, "Range enumerates slots")


class Tile:
    """Repeats whole axes; packed where batch and slots are not repeated."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        axes, repeats = analysis.axes_of(node.inputs[0]), analysis.content_of(node.inputs[1])
        if axes is None or repeats is None or len(repeats.elements) != len(axes):
            return [None]
        pairs = zip(axes, repeats.elements, strict=True)
        return [_known(tuple(self._repeated(axis, times, analysis) for axis, times in pairs))]

    @staticmethod
    def _repeated(axis: Axis, times: Size | None, analysis: AxisAnalysis) -> Axis | None:
        if times is None or times == ONE:
            return None if times is None else axis
        if not axis:
            return analysis.repeated_axis(times)
        return None if kinds(axis) else feature(axis_size(axis) * times)

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        source = node.inputs[0]
        axes = require_axes(node, region.analysis.axes_of(source))
        output = require_axes(node, region.analysis.axes_of(node.outputs[0]), "the output")
        repeats = region.analysis.static_ints(node.inputs[1])
        if source is None or repeats is None or [kinds(a) for a in axes] != [kinds(a) for a in output]:
            raise PackingRefused(node, "Tile repeats slots")
        gone = dropped_axis(axes)
        kept = [times for number, times in enumerate(repeats) if number != gone]
        return region.emit(node, [region.packed(source), region.constant(kept)])


class ConstantOfShape:
    """One number at every place of a tensor whose sizes are arithmetic on lengths."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        sizes = analysis.content_of(node.inputs[0])
        if sizes is None or any(size is None for size in sizes.elements):
            return [None]
        return [tuple(analysis.repeated_axis(size) for size in sizes.elements if size is not None)]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        raise PackingRefused(node, "ConstantOfShape fills slots")


class Expand:
    """Repeats along axes of size one; a repeated feature axis is remembered as such (grouped-query heads)."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        axes, target = analysis.axes_of(node.inputs[0]), analysis.content_of(node.inputs[1])
        if axes is None or target is None:
            return [None]
        rank = max(len(axes), len(target.elements))
        own = ((),) * (rank - len(axes)) + axes
        wanted = (ONE,) * (rank - len(target.elements)) + target.elements
        return [_known(tuple(self._axis(a, size, analysis) for a, size in zip(own, wanted, strict=True)))]

    @staticmethod
    def _axis(axis: Axis, size: Size | None, analysis: AxisAnalysis) -> Axis | None:
        if axis or size == ONE:
            return axis if axis or size == ONE else None
        return None if size is None else analysis.repeated_axis(size)

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        source = node.inputs[0]
        output = require_axes(node, region.analysis.axes_of(node.outputs[0]), "the output")
        if source is None:
            raise PackingRefused(node, "the operand is missing")
        operand = region.aligned(source, output)
        sizes = []
        for axis in packed_axes(output):
            static = 1 if has((axis,), Kind.TOKEN) else axis_size(axis).static  # 1: two-way broadcasting keeps tokens
            if static is None:
                raise PackingRefused(node, "Expand to a size known only at run time")
            sizes.append(static)
        return region.emit(node, [operand, region.constant(sizes)])


def _known(axes: tuple[Axis | None, ...]) -> Axes | None:
    known = tuple(axis for axis in axes if axis is not None)
    return known if len(known) == len(axes) else None
