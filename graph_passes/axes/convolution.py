"""Transfer rule of convolutions over slots: they mix neighbours, but where the lengths go can be said."""

from __future__ import annotations

import typing

import onnx_ir as ir

from raggedrt.graph_passes.axes.atoms import Axes, Axis, Kind, Size, axis_size, feature, kinds
from raggedrt.graph_passes.axes.rule import Packed, PackingRefused

if typing.TYPE_CHECKING:
    from raggedrt.graph_passes.axes.analysis import AxisAnalysis


class Conv:
    """Mixes neighbouring slots: where padded ones are zero (`x * attention_mask`), it runs on gathered ones."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        axes, weight = (analysis.axes_of(value) for value in node.inputs[:2])
        if axes is None or weight is None or len(axes) != len(weight) or len(axes) < 3:
            return [None]
        spatial = len(axes) - 2
        kernel = [axis_size(axis).static for axis in weight[2:]]
        channels = axis_size(weight[0])
        pads, strides, dilations = (
            _numbers(node, name, default)
            for name, default in (("pads", [0] * 2 * spatial), ("strides", [1] * spatial), ("dilations", [1] * spatial))
        )
        auto = node.attributes.get("auto_pad")
        if any(size is None for size in kernel) or (auto is not None and auto.as_string() not in ("NOTSET", "")):
            return [None]
        lengths: list[Axis] = []
        for number in range(spatial):
            reach = dilations[number] * ((kernel[number] or 1) - 1)
            more = pads[number] + pads[number + spatial] - reach
            lengths.append(_length(node, number, axes[number + 2], more, strides[number], analysis))
        return [(axes[0], feature(channels), *lengths)]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        chain = _chain(node, region.analysis)
        source = None if chain is None else chain[0].inputs[0]
        if chain is None or source is None or region.analysis.padded_of(source) != 0.0:
            raise PackingRefused(
                node,
                f"{node.op_type} mixes neighbouring tokens, padding among them; multiply by attention_mask before it, "
                "so that its padded slots are known to be zero, or export without it",
            )
        before, after = _numbers(chain[0], "pads", [0, 0])
        form = region.neighbours(node, source, range(-before, after + 1))  # [T, C, reach]
        for conv in chain:
            rest = list(conv.inputs[1:])
            if any(value is not None and value.const_value is None for value in rest):
                raise PackingRefused(conv, "its weights are computed")
            form = region.emit(conv, [form, *rest], {"pads": [0, 0]})[0]
            form.shape = None  # emit knows the shape of packed slots, [C, T]; this is [T, C, reach left]
        return [region.tokens_last(node, form)]


def _chain(node: ir.Node, analysis: AxisAnalysis) -> list[ir.Node] | None:
    """Convolutions from slots to as many slots, of which only the first pads; None where it is not that."""
    chain = [node]
    while True:
        first = chain[0]
        axes = analysis.axes_of(first.inputs[0])
        plain = first.op_type == "Conv" and _numbers(first, "strides", [1]) == [1] and axes is not None
        if not plain or axes is None or len(axes) != 3 or kinds(axes[0]) != (Kind.BATCH,):
            return None
        if kinds(axes[2]) == (Kind.TOKEN,):
            break
        producer = None if first.inputs[0] is None else first.inputs[0].producer()
        if producer is None or producer.op_type != "Conv" or any(_numbers(first, "pads", [0, 0])):
            return None
        chain.insert(0, producer)
    output = analysis.axes_of(node.outputs[0])
    return chain if output is not None and kinds(output[2]) == (Kind.TOKEN,) else None


def _length(node: ir.Node, number: int, axis: Axis, more: int, stride: int, analysis: AxisAnalysis) -> Axis:
    size = axis_size(axis)
    longer = size + Size(more)
    if longer is not None and longer.static is not None:
        return feature(Size((longer.static - 1) // stride + 1))
    if longer is not None and stride == 1:
        return analysis.axis_of_size(longer)
    return feature(Size(1, (f"{node.outputs[0].name}:{number}",)))


def _numbers(node: ir.Node, name: str, default: list[int]) -> list[int]:
    attribute = node.attributes.get(name)
    return default if attribute is None else list(attribute.as_ints())
