"""Spell `RotaryEmbedding` (opset 23 and later, or com.microsoft) out, so that packing sees elementwise work only.

    rotate(x) = concat(x1 * cos - x2 * sin, x2 * cos + x1 * sin, rest)

x1 and x2 are the halves of the rotated features, or with `interleaved` the even and the odd ones. As a side effect a
known exporter defect is repaired: cos and sin of batch 1 beside a larger batch, which the op refuses, broadcast here.
"""

from __future__ import annotations

import dataclasses
import functools

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import axis_size
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.graph_passes.respell import respell

_INT64_MAX = (1 << 63) - 1


_STANDARD = ("", "ai.onnx")
_CONTRIB = "com.microsoft"


def spell_out_rotary(graph: ir.Graph, analysis: AxisAnalysis | None = None) -> int:
    """Replace every `RotaryEmbedding` of known rank and head size, standard or contrib; returns how many.

    `analysis` knows shapes behind ops without shape inference.
    """
    ops = {(domain, "RotaryEmbedding") for domain in (*_STANDARD, _CONTRIB)}
    return respell(graph, ops, functools.partial(_rotated, analysis=analysis))


def _dims(value: ir.Value, analysis: AxisAnalysis | None) -> list[int | None] | None:
    """The static dimensions of a value of known rank."""
    if value.shape is not None:
        return [dim if isinstance(dim, int) else None for dim in value.shape]
    axes = None if analysis is None else analysis.axes_of(value)
    return None if axes is None else [axis_size(axis).static for axis in axes]


@dataclasses.dataclass(frozen=True)
class _Operands:
    """Inputs of one node; `positions` [B, S], or [1] where it is the place of the first slot, or None."""

    x: ir.Value
    cosine: ir.Value
    sine: ir.Value
    positions: ir.Value | None


def _operands(node: ir.Node) -> _Operands | None:
    inputs = [*node.inputs, *[None] * (4 - len(node.inputs))]
    order = (0, 2, 3, 1) if node.domain == _CONTRIB else (0, 1, 2, 3)
    x, cosine, sine, positions = (inputs[number] for number in order)
    if x is None or cosine is None or sine is None:
        return None
    if node.domain == _CONTRIB and (positions is None or positions.shape is None or _does_more(node)):
        return None
    return _Operands(x, cosine, sine, positions)


def _does_more(node: ir.Node) -> bool:
    """Rows packed already, or a factor."""
    scale = node.attributes.get_float("scale", 1.0)
    return bool(int_attribute(node, "is_packed_batching", 0)) or scale != 1.0


def _rotated(node: ir.Node, tape: Tape, analysis: AxisAnalysis | None) -> ir.Value | None:
    operands = _operands(node)
    dims = None if operands is None else _dims(operands.x, analysis)
    if operands is None or dims is None or len(dims) not in (3, 4) or dims[-1] is None:
        return None
    x, rank, width = operands.x, len(dims), dims[-1]
    heads = _heads(node, operands, width) if rank == 3 else 1
    if not heads:
        return None
    stem = f"{node.outputs[0].name}_rotary"
    head_size = width // heads
    if rank == 3:
        x = tape.op("Reshape", [x, tape.vector([0, 0, heads, head_size])], stem=stem)
    head_axis = 1 if rank == 4 else 2
    positions = _positions(operands, tape, 2 if rank == 4 else 1, stem)
    tables = [_table(tape, table, positions, head_axis, stem) for table in (operands.cosine, operands.sine)]
    rotated = int_attribute(node, "rotary_embedding_dim", 0) or head_size
    interleaved = bool(int_attribute(node, "interleaved", 0))
    result = rotate_heads(tape, x, (tables[0], tables[1]), (rotated, head_size), interleaved, stem)
    return result if rank == 4 else tape.op("Reshape", [result, tape.vector([0, 0, width])], stem=stem)


def _heads(node: ir.Node, operands: _Operands, width: int) -> int:
    """Heads of x [B, S, N*H]; the contrib op tells them by its tables where all of a head is rotated."""
    heads, table = int_attribute(node, "num_heads", 0), operands.cosine.shape
    whole = not int_attribute(node, "rotary_embedding_dim", 0)
    if node.domain == _CONTRIB and whole and table is not None and isinstance(table[-1], int):
        return width // (2 * table[-1])
    return heads


def _positions(operands: _Operands, tape: Tape, slot_axis: int, stem: str) -> ir.Value | None:
    """[B, S] or [1, S]."""
    given = operands.positions
    if given is None or given.shape is None or len(given.shape) != 1:
        return given
    bounds = {"start": slot_axis, "end": slot_axis + 1}
    length = tape.op("Shape", [operands.x], bounds, stem=f"{stem}_length", dtype=ir.DataType.INT64, shape=[1])
    count = tape.op("Squeeze", [length], stem=f"{stem}_length", shape=[])
    slots = tape.op("Range", [tape.scalar(0), count, tape.scalar(1)], stem=f"{stem}_slots")
    return tape.op("Unsqueeze", [tape.op("Add", [slots, given], stem=stem), tape.vector([0])], stem=stem)


def rotate_heads(
    tape: Tape, x: ir.Value, tables: tuple[ir.Value, ir.Value], sizes: tuple[int, int], interleaved: bool, stem: str
) -> ir.Value:
    """Rotate the last axis of x by cosines and sines that broadcast against half of what is rotated.

    Args:
        tape: where the nodes go.
        x: [..., head size].
        tables: cosines and sines [..., rotated / 2].
        sizes: how many features are rotated, and how many there are.
        interleaved: even and odd features are pairs, not the two halves.
        stem: begins the names of new values.
    """
    rotated, head_size = sizes
    parts = _rotate(tape, x, tables[0], tables[1], rotated, interleaved, stem)
    if rotated < head_size:
        parts.append(_cut(tape, x, rotated, _INT64_MAX, 1, stem))
    return tape.op("Concat", parts, {"axis": -1}, stem=stem) if len(parts) > 1 else parts[0]


def _table(tape: Tape, table: ir.Value, positions: ir.Value | None, head_axis: int, stem: str) -> ir.Value:
    """[B|1, S, R/2], looked up by position where positions are given, with an axis for the heads."""
    if positions is not None:
        table = tape.op("Gather", [table, positions], {"axis": 0}, stem=stem)
    return tape.op("Unsqueeze", [table, tape.vector([head_axis])], stem=stem)


def _rotate(
    tape: Tape, x: ir.Value, cosine: ir.Value, sine: ir.Value, rotated: int, interleaved: bool, stem: str
) -> list[ir.Value]:
    if interleaved:
        first, second = (_cut(tape, x, start, rotated, 2, stem) for start in (0, 1))
    else:
        first, second = (_cut(tape, x, start, start + rotated // 2, 1, stem) for start in (0, rotated // 2))
    real = _combined(tape, "Sub", (first, cosine), (second, sine), stem)
    imaginary = _combined(tape, "Add", (second, cosine), (first, sine), stem)
    if not interleaved:
        return [real, imaginary]
    last = tape.vector([-1])
    pairs = [tape.op("Unsqueeze", [part, last], stem=stem) for part in (real, imaginary)]
    merged = tape.op("Concat", pairs, {"axis": -1}, stem=stem)
    return [tape.op("Reshape", [merged, tape.vector([0, 0, 0, rotated])], stem=stem)]


def _combined(
    tape: Tape, op_type: str, left: tuple[ir.Value, ir.Value], right: tuple[ir.Value, ir.Value], stem: str
) -> ir.Value:
    products = [tape.op("Mul", list(pair), stem=stem) for pair in (left, right)]
    return tape.op(op_type, products, stem=stem)


def _cut(tape: Tape, x: ir.Value, start: int, end: int, step: int, stem: str) -> ir.Value:
    bounds = [tape.vector([number]) for number in (start, end, -1, step)]
    return tape.op("Slice", [x, *bounds], stem=stem)
