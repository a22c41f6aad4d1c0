"""Transfer rules of quantised graphs: scales known beforehand work token by token, scales over a batch do not."""

from __future__ import annotations

import typing

import onnx_ir as ir

from raggedrt.graph_passes.axes.atoms import Axes, Size, feature
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.axes.elementwise import broadcast
from raggedrt.graph_passes.axes.rule import (
    Packed,
    PackingRefused,
    packed_axis_number,
    refuse_mixing,
    require_axes,
)

if typing.TYPE_CHECKING:
    from raggedrt.graph_passes.axes.analysis import AxisAnalysis


class Quantize:
    """Scales given beforehand: one for the tensor, or one per feature along `axis`."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        return [analysis.axes_of(node.inputs[0])]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        source = node.inputs[0]
        axes = require_axes(node, region.analysis.axes_of(source))
        if source is None:
            raise PackingRefused(node, "the operand is missing")
        attributes = {}
        for value in node.inputs[1:]:
            own = () if value is None else require_axes(node, region.analysis.axes_of(value), "the scale")
            if value is not None and (value.const_value is None or len(own) > 1):
                raise PackingRefused(node, f"its scale '{value.name}' is computed or per block, which is not covered")
            if any(own):  # one per element of an axis
                number = int_attribute(node, "axis", 1) % len(axes)
                refuse_mixing(node, axes, number)
                attributes["axis"] = packed_axis_number(axes, number)
        return region.emit(node, [region.packed(source), *node.inputs[1:]], attributes)


class DynamicQuantize:
    """Scales by the smallest and largest number of the whole batch: every token depends on all others."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        return [analysis.axes_of(node.inputs[0]), (), ()][: len(node.outputs)]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        raise PackingRefused(
            node,
            f"{node.op_type} takes its scale from the whole batch, padding included, so every token's value depends on "
            "all others; quantise with scales known beforehand (static QDQ) or weights alone (MatMulNBits)",
        )


class QuantizedProduct:
    """An integer matrix as right operand (MatMulInteger, DynamicQuantizeMatMul): `[..., K] x [K, N]`."""

    def __init__(self, *, dynamic: bool = False) -> None:
        self.dynamic = dynamic

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        left, right = (analysis.axes_of(value) for value in node.inputs[:2])
        if left is None or right is None or len(left) < 2 or len(right) < 2:
            return [None]
        leading = broadcast([left[:-2], right[:-2]])
        return [None if leading is None else (*leading, left[-2], right[-1])]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        if self.dynamic:
            return DynamicQuantize().pack(node, region)
        left, right = node.inputs[:2]
        axes, weight = (require_axes(node, region.analysis.axes_of(value)) for value in (left, right))
        refuse_mixing(node, axes, len(axes) - 1)
        rest = node.inputs[2:]
        constant = all(value is None or value.const_value is not None for value in (right, *rest))
        if left is None or not constant or len(weight) != 2:
            raise PackingRefused(node, "its weights or zero points are computed, which is not covered")
        return region.emit(node, [region.packed(left), right, *rest])


class BlockQuantizedProduct:
    """`[..., K] x [K, N]` with weights of a few bits and a scale per block of them (MatMulNBits)."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        axes = analysis.axes_of(node.inputs[0])
        return [None if not axes else (*axes[:-1], feature(Size(int_attribute(node, "N", 1))))]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        source = node.inputs[0]
        axes = require_axes(node, region.analysis.axes_of(source))
        refuse_mixing(node, axes, len(axes) - 1)
        rest = node.inputs[1:]
        if source is None or any(value is not None and value.const_value is None for value in rest):
            raise PackingRefused(node, "its weights are computed, which is not covered")
        return region.emit(node, [region.packed(source), *rest])
