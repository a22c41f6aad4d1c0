"""Transfer rules of fused attention ops. They mix tokens: packing goes through their attention site instead."""

from __future__ import annotations

import typing

import onnx_ir as ir

from raggedrt.graph_passes.axes.atoms import Axes, Size, axis_size, feature
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.axes.rule import Packed, PackingRefused

if typing.TYPE_CHECKING:
    from raggedrt.graph_passes.axes.analysis import AxisAnalysis


class _Attention:
    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        raise PackingRefused(node, "attention that was not lowered mixes tokens")


class StandardAttention(_Attention):
    """ONNX `Attention`: 4-D [batch, heads, slots, head size] or 3-D [batch, slots, heads * head size]."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        query, value = analysis.axes_of(node.inputs[0]), analysis.axes_of(node.inputs[2])
        others: list[Axes | None] = [None] * (len(node.outputs) - 1)
        if query is None or value is None or len(query) != len(value):
            return [None, *others]
        if len(query) == 4:
            return [(*query[:3], value[3]), *others]
        heads, kv_heads = int_attribute(node, "q_num_heads", 1), int_attribute(node, "kv_num_heads", 1)
        width = axis_size(value[2]).static
        if width is None:
            return [None, *others]
        return [(*query[:2], feature(Size(width // kv_heads * heads))), *others]


class FusedAttention(_Attention):
    """`com.microsoft` attention on [batch, slots, hidden]; only the first output is understood."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        query = analysis.axes_of(node.inputs[0])
        others: list[Axes | None] = [None] * (len(node.outputs) - 1)
        if query is None or len(query) != 3:
            return [None, *others]
        return [(*query[:2], self._width(node, query, analysis)), *others]

    @staticmethod
    def _width(node: ir.Node, query: Axes, analysis: AxisAnalysis) -> tuple[typing.Any, ...]:
        hidden = query[2]
        if node.op_type == "Attention":
            sizes = node.attributes.get("qkv_hidden_sizes")
            weight = analysis.axes_of(node.inputs[1])
            static = axis_size(weight[1]).static if weight is not None and len(weight) == 2 else None
            width = sizes.as_ints()[2] if sizes is not None else None if static is None else static // 3
            return hidden if width is None else feature(Size(width))
        value = analysis.axes_of(node.inputs[2]) if len(node.inputs) > 2 else None
        if node.op_type == "GroupQueryAttention" and value is None:  # query, key and value in one
            heads, kv_heads = (int_attribute(node, name, 1) for name in ("num_heads", "kv_num_heads"))
            packed = axis_size(hidden).static
            return hidden if packed is None else feature(Size(packed // (heads + 2 * kv_heads) * heads))
        if node.op_type == "MultiHeadAttention" and value is not None and len(value) == 3:
            return feature(axis_size(value[2]))
        return hidden


class Rotary:
    """`RotaryEmbedding` that is not spelled out (yet): every row is rotated by its own position."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        return [analysis.axes_of(node.inputs[0])]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        raise PackingRefused(node, "RotaryEmbedding of a rank or head size that is not known before run time")
