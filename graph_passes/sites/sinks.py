"""Attention sinks (GPT-OSS): a logit per head joins the scores as one more column and leaves after the softmax.

    Slice(Softmax(Concat(scores, sink)), ..., :-1)

The largest score may be subtracted in between (`x - max(x)`), which changes no softmax.
"""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import axis_size, product
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.axes.views import view_axes
from raggedrt.graph_passes.axes.within import slice_bounds

_VIEWS = ("Expand", "Reshape", "Unsqueeze", "Cast", "Identity")


def drops_last_column(node: ir.Node, analysis: AxisAnalysis) -> bool:
    """`x[..., :-1]`."""
    axes, bounds = analysis.axes_of(node.inputs[0]), slice_bounds(node, analysis)
    if axes is None or bounds is None or {number % len(axes) for number in bounds} != {len(axes) - 1}:
        return False
    start, end, step = next(iter(bounds.values()))
    return start is not None and end is not None and (start.static, end.static, step) == (0, -1, 1)


def without_largest(node: ir.Node, analysis: AxisAnalysis) -> ir.Value | None:
    """The x of `x - max(x)` along the last axis; None where the node is something else."""
    first, second = node.inputs[:2]
    largest = None if second is None else second.producer()
    if node.op_type != "Sub" or largest is None or largest.op_type != "ReduceMax" or largest.inputs[0] is not first:
        return None
    axes, rank = view_axes(largest, analysis), analysis.axes_of(first)
    last = axes == [-1] or (rank is not None and axes == [len(rank) - 1])
    return first if last and int_attribute(largest, "keepdims", 1) else None


def joined_sink(node: ir.Node, heads: int, analysis: AxisAnalysis) -> tuple[ir.Value, ir.Value] | None:
    """Scores and sink of `Concat(scores, sink)`: the sink is a value of one element per head, whatever repeats it."""
    if node.op_type != "Concat" or len(node.inputs) != 2:
        return None
    scores, column = node.inputs
    axes, own = analysis.axes_of(scores), analysis.axes_of(column)
    if scores is None or column is None or axes is None or own is None or len(own) != 4 or len(axes) != 4:
        return None
    if int_attribute(node, "axis", 0) not in (-1, 3) or own[3] or axis_size(own[1]).static != heads:
        return None
    value: ir.Value | None = column
    while value is not None:
        found = analysis.axes_of(value)
        single = found is not None and product(axis_size(axis) for axis in found).static == heads
        node_behind = value.producer()
        if single and found is not None:
            return scores, value
        if node_behind is None or node_behind.op_type not in _VIEWS:
            return None
        value = node_behind.inputs[0]
    return None
