"""With ragged inputs, where each token stands follows from cu_seqlens: no mask is read on the host.

PackingPlan tells how many tokens a mask has, so a GPU's provider reads the mask in CPU memory. With ragged inputs the
number is known from the shapes, and waiting for a mask that was computed on the device would stop every forward pass
and keep it out of CUDA graphs. Targets that plan on the device get these nodes instead:

    row of token t = how many sequences end at or before t,  position = t - cu_seqlens[row]

How many is a running sum over the tokens of how many end there, or where sums cannot be scattered, one comparison of
each token with each end.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from raggedrt.graph_passes.packing.tape import TOKENS, Tape
from raggedrt.plugins.contract.io_roles import Role, TensorRole
from raggedrt.plugins.contract.op_definition import DOMAIN

_FLOAT, _INT32, _INT64 = ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64
_END = (1 << 31) - 1


def plan_from_offsets(graph: ir.Graph, inputs: Sequence[TensorRole], *, scatters_sums: bool = True) -> int:
    """Replace the PackingPlan of a graph with ragged inputs; returns how many were replaced.

    `scatters_sums`: the target has ScatterElements that adds.
    """
    named = {value.name: value for value in graph.inputs}
    by_role = {role.role: named[role.name] for role in reversed(inputs)}
    plans = [node for node in graph if node.domain == DOMAIN and node.op_type == "PackingPlan"]
    replaced = 0
    for node in plans:
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            continue  # slots that are kept beside the tokens are known from masks alone
        if "keep_slots" in node.attributes or "capacity" in node.attributes:
            continue
        tape = Tape(graph)
        lengths = by_role[Role.CU_SEQLENS], by_role[Role.MAX_SEQLEN]
        values = _values(tape, *lengths, by_role[Role.PER_TOKEN], scatters_sums=scatters_sums)
        tape.join(node)
        for old, new in zip(node.outputs, values, strict=True):
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        replaced += 1
    return replaced


def _values(
    tape: Tape, offsets: ir.Value, longest: ir.Value, tokens: ir.Value, *, scatters_sums: bool
) -> tuple[ir.Value, ...]:
    """token_index, cu_seqlens, position and key_position of PackingPlan."""
    size = tape.op("Shape", [tokens], {"start": 0, "end": 1}, stem="tokens", dtype=_INT64, shape=[1])
    count = tape.op("Squeeze", [size], stem="tokens", dtype=_INT64, shape=[])
    last = tape.op(
        "Slice", [offsets, tape.vector([1]), tape.vector([_END]), tape.vector([0])], stem="end", dtype=_INT32,
        shape=["batch"],
    )  # fmt: skip
    number = tape.op("Range", [tape.scalar(0), count, tape.scalar(1)], stem="token", dtype=_INT64, shape=[TOKENS])
    number = tape.op("Cast", [number], {"to": _INT32}, stem="token", dtype=_INT32, shape=[TOKENS])
    row = _running_sum(tape, size, last) if scatters_sums else _comparisons(tape, number, last)
    start = tape.op("Gather", [offsets, row], {"axis": 0}, stem="start", dtype=_INT32, shape=[TOKENS])
    position = tape.op("Sub", [number, start], stem="position", dtype=_INT32, shape=[TOKENS])
    slots = tape.op("Shape", [longest], stem="slots", dtype=_INT64, shape=[1])
    slots = tape.op("Cast", [slots], {"to": _INT32}, stem="slots", dtype=_INT32, shape=[1])
    above = tape.op("Mul", [row, slots], stem="row_start", dtype=_INT32, shape=[TOKENS])
    index = tape.op("Add", [above, position], stem="token_index", dtype=_INT32, shape=[TOKENS])
    return index, offsets, position, position


def _running_sum(tape: Tape, size: ir.Value, last: ir.Value) -> ir.Value:
    """Row of each token; sums of ones are exact as floats, whose atomic additions every GPU has."""
    zero = {"value": ir.tensor([0.0], dtype=_FLOAT)}
    one = {"value": ir.tensor([1.0], dtype=_FLOAT)}
    more = tape.op("Add", [size, tape.vector([1])], stem="tokens", dtype=_INT64, shape=[1])
    none = tape.op("ConstantOfShape", [more], zero, stem="ends", dtype=_FLOAT, shape=["tokens+1"])
    rows = tape.op("Shape", [last], stem="rows", dtype=_INT64, shape=[1])
    ones = tape.op("ConstantOfShape", [rows], one, stem="end", dtype=_FLOAT, shape=["batch"])
    ends = tape.op(
        "ScatterElements", [none, last, ones], {"axis": 0, "reduction": "add"}, stem="ends", dtype=_FLOAT,
        shape=["tokens+1"],
    )  # fmt: skip
    passed = tape.op("CumSum", [ends, tape.scalar(0)], stem="ends_passed", dtype=_FLOAT, shape=["tokens+1"])
    first, begin = tape.vector([0]), tape.vector([-1])
    passed = tape.op("Slice", [passed, first, begin, first], stem="ends_passed", dtype=_FLOAT, shape=[TOKENS])
    return tape.op("Cast", [passed], {"to": _INT32}, stem="row", dtype=_INT32, shape=[TOKENS])


def _comparisons(tape: Tape, number: ir.Value, last: ir.Value) -> ir.Value:
    """Row of each token from [tokens, batch] comparisons, which an engine's builder fuses with their sum."""
    axis = tape.vector([1])
    column = tape.op("Unsqueeze", [number, axis], stem="token", dtype=_INT32, shape=[TOKENS, 1])
    passed = tape.op(
        "GreaterOrEqual", [column, last], stem="ends_passed", dtype=ir.DataType.BOOL, shape=[TOKENS, "batch"]
    )
    passed = tape.op("Cast", [passed], {"to": _INT32}, stem="ends_passed", dtype=_INT32, shape=[TOKENS, "batch"])
    return tape.op("ReduceSum", [passed, axis], {"keepdims": 0}, stem="row", dtype=_INT32, shape=[TOKENS])
