"""Ops that read one slot of every sequence: the first (CLS), the last, any constant one, or one chosen at run time."""

from __future__ import annotations

import dataclasses
import math

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import Kind, axis_of, axis_size, has
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.axes.rule import PackingRefused
from raggedrt.graph_passes.axes.within import LAST, slice_bounds
from raggedrt.graph_passes.packing.region import PackedRegion
from raggedrt.graph_passes.packing.tape import padded_shape

_ROW, _SLOT = 0, 1
_VIEWS = ("Unsqueeze", "Squeeze", "Reshape", "Expand", "Cast", "Identity")


@dataclasses.dataclass(frozen=True)
class SlotRead:
    """What a node reads of a `[B, S, ...]` value.

    Attributes:
        slot: a slot number (negative: from the end), or a value with one integer per sequence.
        keep_axis: the slot axis stays, with size one.
    """

    slot: int | ir.Value
    keep_axis: bool


def find_slot_read(node: ir.Node, analysis: AxisAnalysis) -> SlotRead | None:
    """The slot that a node reads, or None where it does something else."""
    source = node.inputs[0] if node.inputs else None
    axes = analysis.axes_of(source)
    if source is None or axes is None or axis_of(axes, Kind.BATCH) != _ROW or axis_of(axes, Kind.TOKEN) != _SLOT:
        return None
    finder = _FINDERS.get(node.op_type) if not node.domain else None
    return None if finder is None else finder(node, len(axes), analysis)


def _constant_gather(node: ir.Node, rank: int, analysis: AxisAnalysis) -> SlotRead | None:
    indices, content = analysis.static_ints(node.inputs[1]), analysis.content_of(node.inputs[1])
    if int_attribute(node, "axis", 0) % rank != _SLOT or indices is None or len(indices) != 1 or content is None:
        return None
    return SlotRead(indices[0], not content.scalar)


def _one_slot_slice(node: ir.Node, rank: int, analysis: AxisAnalysis) -> SlotRead | None:
    bounds = slice_bounds(node, analysis)
    if bounds is None or {number % rank for number in bounds} != {_SLOT}:
        return None
    start, end, step = next(iter(bounds.values()))
    first, last = (None if size is None else size.static for size in (start, end))
    if step != 1 or first is None or last is None:
        return None
    # x[:, k:k+1]; with k = -1 the end is "to the end" (0 would be nothing, 5 depends on the length)
    one = last >= LAST - 1 if first == -1 else last == first + 1
    return SlotRead(first, keep_axis=True) if one else None


def _gather_nd(node: ir.Node, _rank: int, analysis: AxisAnalysis) -> SlotRead | None:
    """`x[arange(B), index]`: indices are pairs (row, slot), or slots alone with batch_dims = 1."""
    indices = node.inputs[1]
    axes = analysis.axes_of(indices)
    if indices is None or axes is None or len(axes) != 2 or not has(axes[:1], Kind.BATCH):
        return None
    if int_attribute(node, "batch_dims", 0) == 1:
        return SlotRead(indices, keep_axis=False)
    pair = indices.producer()
    if (
        pair is None
        or pair.op_type != "Concat"
        or len(pair.inputs) != 2
        or not _enumerates_rows(pair.inputs[0], analysis)
    ):
        return None
    slots = pair.inputs[1]
    return None if slots is None else SlotRead(slots, keep_axis=False)


def _gather_elements(node: ir.Node, rank: int, analysis: AxisAnalysis) -> SlotRead | None:
    """`x.gather(1, index.expand(B, 1, H))`: one index per sequence, repeated for every feature."""
    indices = node.inputs[1]
    expand = None if indices is None else indices.producer()
    if int_attribute(node, "axis", 0) % rank != _SLOT or expand is None or expand.op_type != "Expand":
        return None
    slots = expand.inputs[0]
    axes = analysis.axes_of(slots)
    if slots is None or axes is None or [bool(axis) for axis in axes] != [True] + [False] * (len(axes) - 1):
        return None
    whole, taken = analysis.axes_of(node.inputs[0]), analysis.axes_of(indices)
    if whole is None or taken is None or taken[_SLOT] or len(taken) != rank:
        return None
    if any(axis_size(have) != axis_size(want) for have, want in zip(whole[2:], taken[2:], strict=True)):
        return None  # some features only
    return SlotRead(slots, keep_axis=True) if has(axes[:1], Kind.BATCH) else None


_FINDERS = {
    "Gather": _constant_gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Slice": _one_slot_slice,
}


def _enumerates_rows(value: ir.Value | None, analysis: AxisAnalysis) -> bool:
    """Whether a value holds the row numbers 0, 1, …, B-1."""
    while value is not None and (node := value.producer()) is not None and node.op_type in _VIEWS:
        value = node.inputs[0]
    node = None if value is None else value.producer()
    return node is not None and node.op_type == "Range" and has(analysis.axes_of(value), Kind.BATCH)


def read_slot(node: ir.Node, read: SlotRead, region: PackedRegion) -> ir.Value:
    """Gather the packed row of that slot of every sequence: `[B, ...]`, or `[B, 1, ...]` with the slot axis kept."""
    source, output = node.inputs[0], node.outputs[0]
    if source is None:
        raise PackingRefused(node, "the operand is missing")
    tape, form = region.tape, region.packed(source)
    slot = region.exact(read.slot, node) if isinstance(read.slot, ir.Value) else read.slot
    rows = region.plan.rows_of_slot(slot)
    axes = region.analysis.axes_of(source)
    rest = [] if axes is None else padded_shape(axes)[2:]
    shape = ["batch", *rest]
    if region.plan.ragged:
        # An empty sequence has no such row; PackTokens gives zeros for index -1.
        whole = tape.op("Unsqueeze", [form, tape.vector([0])], stem=f"{output.name}_rows")
        result = tape.custom("PackTokens", {"x": whole, "token_index": rows}, stem=f"{output.name}_read").outputs[0]
        result.type, result.shape = output.type, ir.Shape(shape)
    else:
        result = tape.op("Gather", [form, rows], {"axis": 0}, stem=f"{output.name}_read", shape=shape)
    if isinstance(read.slot, ir.Value) and read.slot in region.plan.kept.guarded:
        result = _guarded(node, result, read.slot, region)
    if read.keep_axis:
        result = tape.op("Unsqueeze", [result, tape.vector([1])], stem=f"{output.name}_read", shape=["batch", 1, *rest])
    return result


def _guarded(node: ir.Node, result: ir.Value, slot: ir.Value, region: PackedRegion) -> ir.Value:
    """Rows whose slot sees no token become NaN: the original has a mean over padding there."""
    if result.dtype is None or not result.dtype.is_floating_point():
        raise PackingRefused(node, "it reads a slot that may see no token of its row, and its type has no NaN")
    tape = region.tape
    blind = region.plan.blind_rows(slot, region.plan.kept.guarded[slot])
    further = list(range(1, len(result.shape or [])))
    if further:
        blind = tape.op("Unsqueeze", [blind, tape.vector(further)], stem="blind", dtype=ir.DataType.BOOL)
    none = tape.number(math.nan, result.dtype)
    stem = f"{result.name}_guarded"
    return tape.op("Where", [blind, none, result], stem=stem, dtype=result.dtype, shape=result.shape)


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
