"""A mask as the graph computes it, handed to `RaggedAttention` as its bias by (query, key)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from raggedrt.graph_passes.axes.rule import PackingRefused
from raggedrt.graph_passes.direct.rows import MINUS_INFINITY, Rows
from raggedrt.graph_passes.packing.tape import Tape

_BOOL, _INT64, _FLOAT = ir.DataType.BOOL, ir.DataType.INT64, ir.DataType.FLOAT


@dataclasses.dataclass
class Sides:
    """Queries and keys of a node that is being lowered."""

    tape: Tape
    node: ir.Node
    queries: Rows
    keys: Rows


def known_rank(node: ir.Node, value: ir.Value) -> int:
    """The rank of an operand.

    Raises:
        PackingRefused: It is not known.
    """
    if value.shape is None:
        raise PackingRefused(node, f"the rank of '{value.name}' is not known")
    return len(value.shape)


def covering_bias(sides: Sides, mask: ir.Value) -> ir.Value:
    """The mask of ONNX `Attention` as float32 [1|B, 1|N, Sq, Sk]; what it does not cover is hidden."""
    tape, rank = sides.tape, known_rank(sides.node, mask)
    if rank < 4:
        mask = tape.op("Unsqueeze", [mask, tape.vector(list(range(4 - rank)))], stem="mask", dtype=mask.dtype)
    if mask.dtype is _BOOL:
        marks = [tape.number(0.0, _FLOAT), tape.number(MINUS_INFINITY, _FLOAT)]
        bias = tape.op("Where", [mask, *marks], stem="mask_bias", dtype=_FLOAT)
    else:
        bias = tape.op("Cast", [mask], {"to": _FLOAT}, stem="mask_bias", dtype=_FLOAT)
    covered = tape.op("Shape", [bias], {"start": 3, "end": 4}, stem="covered", dtype=_INT64, shape=[1])
    one_key = tape.op("Equal", [covered, tape.vector([1])], stem="one_key", dtype=_BOOL, shape=[1])
    short = tape.op("Sub", [sides.keys.length, covered], stem="uncovered", shape=[1])
    short = tape.op("Where", [one_key, tape.vector([0]), short], stem="uncovered", dtype=_INT64, shape=[1])
    return _expanded(sides, _extended(tape, bias, tape.vector([0]), short))


def added_bias(sides: Sides, values: Sequence[ir.Value], *, head_axis: bool) -> ir.Value:
    """What is added to scores [B, N, Sq, Sk] (`head_axis`) or [B, Sq, Sk] as float32 [1|B, 1|N, Sq, Sk].

    Raises:
        PackingRefused: Its rank is not known, or above that of the scores.
    """
    tape, total = sides.tape, None
    for value in values:
        rank = known_rank(sides.node, value)
        if rank > (4 if head_axis else 3):
            raise PackingRefused(sides.node, f"'{value.name}' has more axes than the scores to which it is added")
        axes = [1] if rank == 3 and not head_axis else list(range(4 - rank))  # ranks are aligned at the end
        bias = tape.op("Cast", [value], {"to": _FLOAT}, stem="mask_bias", dtype=_FLOAT)
        if axes:
            bias = tape.op("Unsqueeze", [bias, tape.vector(axes)], stem="mask_bias", dtype=_FLOAT)
        total = bias if total is None else tape.op("Add", [total, bias], stem="mask_bias", dtype=_FLOAT)
    if total is None:
        raise PackingRefused(sides.node, "nothing is added to the scores")
    return _expanded(sides, total)


def square(sides: Sides, bias: ir.Value, dtype: ir.DataType | None) -> ir.Value:
    """The op's bias is [S, S] over all positions, in the query's element type: the shorter side is filled up."""
    tape = sides.tape
    if dtype is None:
        raise PackingRefused(sides.node, "the element type of the query is not known")
    if sides.queries is not sides.keys:
        lengths = [sides.queries.length, sides.keys.length]
        longest = tape.op("Max", lengths, stem="positions", shape=[1])
        bias = _extended(
            tape, bias, *(tape.op("Sub", [longest, length], stem="missing", shape=[1]) for length in lengths)
        )
    return bias if dtype is bias.dtype else tape.op("Cast", [bias], {"to": dtype}, stem="mask_bias", dtype=dtype)


def _expanded(sides: Sides, bias: ir.Value) -> ir.Value:
    """Every query and key has an element of its own."""
    tape, lengths = sides.tape, [sides.queries.length, sides.keys.length]
    shape = tape.op("Concat", [tape.vector([1, 1]), *lengths], {"axis": 0}, stem="full", shape=[4])
    return tape.op("Expand", [bias, shape], stem="mask_bias", dtype=_FLOAT)


def _extended(tape: Tape, bias: ir.Value, queries: ir.Value, keys: ir.Value) -> ir.Value:
    """More rows and columns, all hidden (float32; int64 [1] each)."""
    none = tape.vector([0, 0, 0, 0, 0, 0])
    more = tape.op("Concat", [none, queries, keys], {"axis": 0}, stem="more", shape=[8])
    return tape.op("Pad", [bias, more, tape.number(MINUS_INFINITY, _FLOAT)], stem="mask_bias")
