"""Ragged I/O: graph inputs `[T]` with cu_seqlens and max_seqlen in place of `[B, S]` with attention_mask."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import Axes, Kind, axis_of
from raggedrt.graph_passes.axes.rule import PackingRefused, packed_axis_number
from raggedrt.graph_passes.packing.region import PackedRegion
from raggedrt.graph_passes.packing.tape import TOKENS, Tape, packed_shape

CU_SEQLENS, MAX_SEQLEN = "cu_seqlens", "max_seqlen"


@dataclasses.dataclass
class RaggedInputs:
    """The new graph inputs.

    Attributes:
        mask: the attention mask [B, M] of right-padded sequences, rebuilt from the lengths.
        original_mask: the input it stands for.
        tokens: packed input per original per-token input.
    """

    mask: ir.Value
    original_mask: ir.Value
    cu_seqlens: ir.Value
    max_seqlen: ir.Value
    tokens: dict[ir.Value, ir.Value]

    def install(self, graph: ir.Graph) -> None:
        """Exchange the graph's inputs; whatever still reads the old mask reads the rebuilt one."""
        ir.convenience.replace_all_uses_with(self.original_mask, self.mask, replace_graph_outputs=True)
        kept = []
        for value in list(graph.inputs):
            if value in self.tokens:
                name = value.name
                value.name = f"{name}_padded"
                self.tokens[value].name = name
                kept.append(self.tokens[value])
            elif value is not self.original_mask:
                kept.append(value)
        graph.inputs.clear()
        graph.inputs.extend([*kept, self.cu_seqlens, self.max_seqlen])


def make_ragged_inputs(graph: ir.Graph, analysis: AxisAnalysis, tape: Tape, mask: ir.Value) -> RaggedInputs:
    """Make the new inputs and the nodes that rebuild the mask."""
    cu_seqlens = ir.Value(name=CU_SEQLENS, type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape(["batch+1"]))
    max_seqlen = ir.Value(name=MAX_SEQLEN, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["sequence"]))
    tokens = {}
    for value in graph.inputs:
        axes = analysis.axes_of(value)
        if value is mask or axes is None or axis_of(axes, Kind.TOKEN) is None:
            continue
        packed = ir.Value(name=f"{value.name}_packed", type=value.type, shape=ir.Shape(packed_shape(axes)))
        tokens[value] = packed
    _refuse_copies(graph, {mask, *tokens})
    _refuse_captures(graph, set(tokens))
    rebuilt = _mask_from_lengths(tape, cu_seqlens, max_seqlen, mask.dtype or ir.DataType.INT64)
    return RaggedInputs(rebuilt, mask, cu_seqlens, max_seqlen, tokens)


def _refuse_copies(graph: ir.Graph, exchanged: set[ir.Value]) -> None:
    for value in graph.outputs:
        if value in exchanged:
            raise PackingRefused(f"'{value.name}'", "it is input and output at once, and ragged I/O exchanges inputs")


def _refuse_captures(graph: ir.Graph, exchanged: set[ir.Value]) -> None:
    """A subgraph (If, Loop, Scan) reads values of the graph around it by name; it is not packed."""
    behind = set(exchanged)
    for node in graph:
        if any(value in behind for value in node.inputs):
            behind.update(node.outputs)
        for attribute in node.attributes.values():
            if attribute.type is not ir.AttributeType.GRAPH:
                continue
            for inner in ir.traversal.RecursiveGraphIterator(attribute.as_graph()):
                captured = next((value for value in inner.inputs if value in behind), None)
                if captured is not None:
                    raise PackingRefused(node, f"its subgraph reads '{captured.name}', which has no padded form left")


def _mask_from_lengths(tape: Tape, cu_seqlens: ir.Value, max_seqlen: ir.Value, dtype: ir.DataType) -> ir.Value:
    """`slot < length` as [B, M]."""
    int64 = ir.DataType.INT64
    offsets = tape.op("Cast", [cu_seqlens], {"to": int64}, stem="offsets", dtype=int64, shape=["batch+1"])
    zero, end = tape.vector([0]), tape.vector([(1 << 31) - 1])
    begins = tape.op("Slice", [offsets, zero, tape.vector([-1]), zero], stem="begins", shape=["batch"])
    ends = tape.op("Slice", [offsets, tape.vector([1]), end, zero], stem="ends", shape=["batch"])
    lengths = tape.op("Sub", [ends, begins], stem="lengths", shape=["batch"])
    lengths = tape.op("Unsqueeze", [lengths, tape.vector([1])], stem="lengths", shape=["batch", 1])
    shape = tape.op("Shape", [max_seqlen], stem="longest", dtype=int64, shape=[1])
    longest = tape.op("Squeeze", [shape], stem="longest", shape=[])
    slots = tape.op("Range", [tape.scalar(0), longest, tape.scalar(1)], stem="slots", shape=["sequence"])
    mask = tape.op("Less", [slots, lengths], stem="valid", dtype=ir.DataType.BOOL, shape=["batch", "sequence"])
    return (
        mask
        if dtype is ir.DataType.BOOL
        else tape.op("Cast", [mask], {"to": dtype}, stem="mask", dtype=dtype, shape=["batch", "sequence"])
    )


def ragged_output(region: PackedRegion, value: ir.Value, axes: Axes) -> ir.Value:
    """A per-token output as [T, ...]."""
    slot = axis_of(axes, Kind.TOKEN)
    if slot is None or axis_of(axes, Kind.BATCH) is None:
        raise PackingRefused(
            value.producer() or f"'{value.name}'", f"the output '{value.name}' is not one row per token"
        )
    form = region.packed(value)
    number = packed_axis_number(axes, slot)
    if number == 0:
        return form
    rank = len(packed_shape(axes))
    order = [number, *(other for other in range(rank) if other != number)]
    shape = [TOKENS, *(dim for other, dim in enumerate(packed_shape(axes)) if other != number)]
    return region.tape.op("Transpose", [form], {"perm": order}, stem=f"{value.name}_tokens", shape=shape)
