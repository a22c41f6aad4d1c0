"""Transfer rules of matrix products."""

from __future__ import annotations

import typing

import onnx_ir as ir

from raggedrt.graph_passes.axes.atoms import Axes, Kind, count, has
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.axes.elementwise import broadcast
from raggedrt.graph_passes.axes.rule import Packed, PackingRefused, refuse_mixing, require_axes

if typing.TYPE_CHECKING:
    from raggedrt.graph_passes.axes.analysis import AxisAnalysis


class MatMul:
    """`[..., M, K] x [..., K, N]`; on packed tokens the right operand is a weight."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        left, right = (analysis.axes_of(value) for value in node.inputs[:2])
        if left is None or right is None or len(left) < 2 or len(right) < 2:
            return [None]
        leading = broadcast([left[:-2], right[:-2]])
        return [None if leading is None else (*leading, left[-2], right[-1])]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        left, right = node.inputs[:2]
        if left is None or right is None:
            raise PackingRefused(node, "an operand is missing")
        output = require_axes(node, region.analysis.axes_of(node.outputs[0]), "the output")
        left_axes = require_axes(node, region.analysis.axes_of(left), "the left operand")
        right_axes = require_axes(node, region.analysis.axes_of(right), "the right operand")
        refuse_mixing(node, left_axes, len(left_axes) - 1)
        weight = _repeated_weight(right)
        if weight is not None and left_axes[:-2] == right_axes[:-2]:
            right, right_axes = weight, right_axes[-2:]
        if _row_by_row(left_axes, right_axes):
            rows = [region.aligned(left, (*output[:-1], left_axes[-1]))]
            return region.emit(node, [*rows, region.aligned(right, (*output[:-2], *right_axes[-2:]))])
        if has(right_axes, Kind.BATCH) or has(right_axes, Kind.TOKEN):
            raise PackingRefused(
                node, "MatMul multiplies tokens by tokens; this is not a form of attention that is known"
            )
        contracted = (*output[:-1], left_axes[-1])
        # Only leading axes of a weight line up with the output's; a weight without them is used as it is.
        weight = region.aligned(right, (*output[:-2], (), ())) if len(right_axes) > 2 else right
        return region.emit(node, [region.aligned(left, contracted), weight])


def _row_by_row(left: Axes, right: Axes) -> bool:
    """Each token has a matrix of its own (the expert that it was sent to): slots lead on both sides, nowhere else."""
    matrices = (*left[-2:], *right[-2:])
    if has(matrices, Kind.BATCH) or has(matrices, Kind.TOKEN):
        return False
    return all(count(axes, Kind.TOKEN) == 1 and count(axes, Kind.BATCH) == 1 for axes in (left, right))


def _repeated_weight(value: ir.Value) -> ir.Value | None:
    """The matrix that is repeated along leading axes (`bmm` of programs that were decomposed), None for others."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.op_type == "Expand" else None
    if source is None or source.const_value is None or len(source.const_value.shape) != 2 or value.shape is None:
        return None
    return source if list(value.shape)[-2:] == list(source.const_value.shape) else None


class Gemm:
    """`[M, K] x [K, N] + [N]`; on packed tokens M is the token axis."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        left, right = (analysis.axes_of(value) for value in node.inputs[:2])
        if left is None or right is None or len(left) != 2 or len(right) != 2:
            return [None]
        rows = left[1] if int_attribute(node, "transA", 0) else left[0]
        return [(rows, right[0] if int_attribute(node, "transB", 0) else right[1])]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        left, right = node.inputs[:2]
        if left is None or right is None or int_attribute(node, "transA", 0):
            raise PackingRefused(node, "Gemm with a transposed left operand is not covered")
        output = require_axes(node, region.analysis.axes_of(node.outputs[0]), "the output")
        left_axes = require_axes(node, region.analysis.axes_of(left), "the left operand")
        refuse_mixing(node, left_axes, 1)
        if any(has(region.analysis.axes_of(v), kind) for v in (right,) for kind in (Kind.BATCH, Kind.TOKEN)):
            raise PackingRefused(node, "Gemm multiplies tokens by tokens")
        rest = [None if value is None else region.aligned(value, output) for value in node.inputs[2:]]
        return region.emit(node, [region.aligned(left, (output[0], left_axes[1])), right, *rest])
