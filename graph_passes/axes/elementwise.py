"""Transfer rule of ops that work element by element with broadcasting."""

from __future__ import annotations

import typing

import onnx_ir as ir

from raggedrt.graph_passes.axes.atoms import Axes, Axis, axis_size, kinds
from raggedrt.graph_passes.axes.rule import Packed, require_axes

if typing.TYPE_CHECKING:
    from raggedrt.graph_passes.axes.analysis import AxisAnalysis


def merge_axis(axes: list[Axis]) -> Axis | None:
    """The axis that operands broadcast to; None where their meanings conflict."""
    present = [axis for axis in axes if axis]
    if not present:
        return ()
    meaningful = [axis for axis in present if kinds(axis)]
    chosen = meaningful[0] if meaningful else next((a for a in present if not a[0].repeat), present[0])
    for axis in present:
        if kinds(axis) and [atom.kind for atom in axis] != [atom.kind for atom in chosen]:
            return None
        if not kinds(axis) and kinds(chosen) and axis_size(axis) != axis_size(chosen):
            return None  # a feature axis beside slots: only a constant of the same static length means slots
    return chosen


def broadcast(operands: list[Axes]) -> Axes | None:
    """Axes of operands broadcast together, aligned at the end."""
    rank = max((len(axes) for axes in operands), default=0)
    columns = [[axes[i - rank + len(axes)] for axes in operands if i - rank + len(axes) >= 0] for i in range(rank)]
    merged = [merge_axis(column) for column in columns]
    known = tuple(axis for axis in merged if axis is not None)
    return known if len(known) == rank else None


def broadcast_values(values: list[ir.Value], analysis: AxisAnalysis) -> Axes | None:
    """Axes of values broadcast together."""
    operands = [analysis.axes_of(value) for value in values]
    known = [axes for axes in operands if axes is not None]
    return broadcast(known) if len(known) == len(operands) else None


class Elementwise:
    """Every operand broadcasts to the first output; further outputs (Dropout's mask) have the same axes."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        values = [value for value in node.inputs if value is not None]
        return [broadcast_values(values, analysis)] * len(node.outputs)

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        output = require_axes(node, region.analysis.axes_of(node.outputs[0]), "the output")
        return region.emit(node, [None if v is None else region.aligned(v, output) for v in node.inputs])
