"""Spell `RotaryEmbedding` (opset 23 and later) out in standard ops, so that packing sees elementwise work only.

    rotate(x) = concat(x1 * cos - x2 * sin, x2 * cos + x1 * sin, rest)

x1 and x2 are the halves of the rotated features, or with `interleaved` the even and the odd ones. As a side effect a
known exporter defect is repaired: cos and sin of batch 1 beside a larger batch, which the op refuses, broadcast here.
"""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.graph_passes.respell import respell

_INT64_MAX = (1 << 63) - 1


def spell_out_rotary(graph: ir.Graph) -> int:
    """Replace every standard `RotaryEmbedding` of known rank and head size; returns how many."""
    return respell(graph, {("", "RotaryEmbedding"), ("ai.onnx", "RotaryEmbedding")}, _rotated)


def _rotated(node: ir.Node, tape: Tape) -> ir.Value | None:
    source, cosine, sine = node.inputs[:3]
    positions = node.inputs[3] if len(node.inputs) > 3 else None
    if source is None or cosine is None or sine is None or source.shape is None:
        return None
    rank, heads = len(source.shape), int_attribute(node, "num_heads", 0)
    width = source.shape[-1]
    if not isinstance(width, int) or rank not in (3, 4) or (rank == 3 and not heads):
        return None
    stem = f"{node.outputs[0].name}_rotary"
    head_size = width if rank == 4 else width // heads
    x = source
    if rank == 3:
        x = tape.op("Reshape", [x, tape.vector([0, 0, heads, head_size])], stem=stem)
    head_axis = 1 if rank == 4 else 2
    tables = [_table(tape, table, positions, head_axis, stem) for table in (cosine, sine)]
    rotated = int_attribute(node, "rotary_embedding_dim", 0) or head_size
    interleaved = bool(int_attribute(node, "interleaved", 0))
    result = rotate_heads(tape, x, (tables[0], tables[1]), (rotated, head_size), interleaved, stem)
    return result if rank == 4 else tape.op("Reshape", [result, tape.vector([0, 0, width])], stem=stem)


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
