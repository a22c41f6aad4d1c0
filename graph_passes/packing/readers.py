"""Ops that read one given slot of every sequence: the first (CLS), the last, or any other constant one."""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.graph_passes.axes.atoms import Kind, axis_of, has
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.axes.rule import PackingRefused
from raggedrt.graph_passes.axes.within import slice_bounds
from raggedrt.graph_passes.packing.region import PackedRegion
from raggedrt.graph_passes.packing.tape import padded_shape

_ROW, _SLOT = 0, 1


def slot_read(node: ir.Node, region: PackedRegion) -> tuple[int, bool] | None:
    """The slot that a node reads of a `[B, S, ...]` value, and whether the slot axis stays (with size one)."""
    source = node.inputs[0] if node.inputs else None
    axes = region.analysis.axes_of(source)
    if source is None or axes is None or axis_of(axes, Kind.BATCH) != _ROW or axis_of(axes, Kind.TOKEN) != _SLOT:
        return None
    if node.op_type == "Gather" and node.domain == "":
        indices = region.analysis.static_ints(node.inputs[1])
        content = region.analysis.content_of(node.inputs[1])
        on_slots = int_attribute(node, "axis", 0) % len(axes) == _SLOT
        if on_slots and indices is not None and len(indices) == 1 and content is not None:
            return indices[0], not content.scalar
    if node.op_type == "Slice" and node.domain == "":
        bounds = slice_bounds(node, region.analysis)
        if bounds is not None and {number % len(axes) for number in bounds} == {_SLOT}:
            start, end, step = next(iter(bounds.values()))
            first = None if start is None else start.static
            last = None if end is None else end.static
            # x[:, k:k+1]; with k = -1 the end is "to the end"
            if (
                step == 1
                and first is not None
                and last is not None
                and (last == first + 1 or (first == -1 and last > 0))
            ):
                return first, True
    return None


def read_slot(node: ir.Node, slot: int, keep_axis: bool, region: PackedRegion) -> ir.Value:
    """Gather the packed row of that slot of every sequence: `[B, ...]`, or `[B, 1, ...]` with `keep_axis`."""
    source, output = node.inputs[0], node.outputs[0]
    if source is None:
        raise PackingRefused(node, "the operand is missing")
    tape, form = region.tape, region.packed(source)
    rows = region.plan.rows_of_slot(slot)
    axes = region.analysis.axes_of(output)
    rest = padded_shape(axes, region.analysis)[2 if keep_axis else 1 :] if axes is not None else None
    shape = None if rest is None else ["batch", *rest]
    if region.plan.ragged:
        # An empty sequence has no such row; PackTokens gives zeros for index -1.
        whole = tape.op("Unsqueeze", [form, tape.vector([0])], stem=f"{output.name}_rows")
        result = tape.custom("PackTokens", {"x": whole, "token_index": rows}, stem=f"{output.name}_read").outputs[0]
        result.type = output.type
        result.shape = None if shape is None else ir.Shape(shape)
    else:
        result = tape.op("Gather", [form, rows], {"axis": 0}, stem=f"{output.name}_read", shape=shape)
    if keep_axis:
        kept = None if rest is None else ["batch", 1, *rest]
        result = tape.op("Unsqueeze", [result, tape.vector([1])], stem=f"{output.name}_read", shape=kept)
    return result


def prefix_sum(node: ir.Node, region: PackedRegion) -> bool:
    """Run CumSum along the slots of right-padded sequences; False where the node is something else.

    A running sum reads earlier slots only, and with right padding those of a valid slot are all valid.
    """
    source = node.inputs[0] if node.inputs else None
    axes = region.analysis.axes_of(source)
    if node.op_type != "CumSum" or node.domain or source is None or axes is None or int_attribute(node, "reverse", 0):
        return False
    along = region.analysis.static_ints(node.inputs[1])
    if axis_of(axes, Kind.TOKEN) is None or along is None or along[0] % len(axes) != axis_of(axes, Kind.TOKEN):
        return False
    region.packed(source)
    padded = region.padded(source, axes, node)
    new = region.tape.copy(node, [padded, *node.inputs[1:]], {})
    region.packed_forms[node.outputs[0]] = region.pack_tokens(node.outputs[0], new.outputs[0], axes)
    return True


def reads_tokens(node: ir.Node, region: PackedRegion) -> bool:
    """Whether the node turns tokens into something without a token axis."""
    tokens_in = any(has(region.analysis.axes_of(value), Kind.TOKEN) for value in node.inputs)
    return tokens_in and not has(region.analysis.axes_of(node.outputs[0]), Kind.TOKEN)
