"""Padded `[B, N, S, H]` or `[B, S, N*H]` operands as the rows that `RaggedAttention` takes, and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import onnx_ir as ir

from raggedrt.graph_passes.packing.tape import Tape

_INT32, _INT64 = ir.DataType.INT32, ir.DataType.INT64
MINUS_INFINITY = -math.inf


@dataclasses.dataclass(eq=False)
class Rows:
    """One side (queries, or keys and values) of an unpacked batch: every sequence has the same length.

    What is built once serves every site.

    Attributes:
        batch: int64 [1]; `length`: int64 [1], rows per sequence.
    """

    tape: Tape
    batch: ir.Value
    length: ir.Value
    _built: dict[str, ir.Value] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, tape: Tape, value: ir.Value, slot_axis: int) -> Rows:
        """Read the sizes off a tensor [batch, ...] whose axis `slot_axis` enumerates slots."""
        batch = tape.op("Shape", [value], {"start": 0, "end": 1}, stem="batch", dtype=_INT64, shape=[1])
        bounds = {"start": slot_axis, "end": slot_axis + 1}
        return cls(tape, batch, tape.op("Shape", [value], bounds, stem="length", dtype=_INT64, shape=[1]))

    def cu_seqlens(self) -> ir.Value:
        """Int32 [B+1], the multiples of S."""
        return self._once("cu_seqlens", self._multiples)

    def carrier(self) -> ir.Value:
        """A vector of length S."""
        return self._once("carrier", self._zeros)

    def slots(self) -> ir.Value:
        """Int64 [S], counted up from 0."""
        return self._once("slots", lambda: self._count_up(self.length, self.tape.fresh_name("slots")))

    def slot_positions(self) -> ir.Value:
        """Int32 [B*S]: the slot of each row."""
        return self._once("positions", lambda: self.per_row(self.slots()))

    def _once(self, name: str, build: Callable[[], ir.Value]) -> ir.Value:
        if name not in self._built:
            self._built[name] = build()
        return self._built[name]

    def _multiples(self) -> ir.Value:
        tape, count = self.tape, self.tape.fresh_name("ends")
        after = tape.op("Add", [self.batch, tape.vector([1])], stem="rows", shape=[1])
        numbers = tape.op("Mul", [self._count_up(after, count), self.length], stem="offsets", shape=[count])
        return tape.op("Cast", [numbers], {"to": _INT32}, stem="cu_seqlens", dtype=_INT32, shape=[count])

    def _zeros(self) -> ir.Value:
        zero = {"value": ir.tensor([0.0], dtype=ir.DataType.FLOAT)}
        return self.tape.op("ConstantOfShape", [self.length], zero, stem="max_seqlen", dtype=ir.DataType.FLOAT)

    def per_row(self, slots: ir.Value) -> ir.Value:
        """Int32 [B*S] from int64 [S], [1, S] or [B, S]."""
        tape = self.tape
        shape = tape.op("Concat", [self.batch, self.length], {"axis": 0}, stem="grid", shape=[2])
        grid = tape.op("Expand", [slots, shape], stem="grid")
        count = tape.fresh_name("rows")  # ONNX Runtime reuses buffers where symbols agree
        flat = tape.op("Reshape", [grid, tape.vector([-1])], stem="positions", shape=[count])
        return tape.op("Cast", [flat], {"to": _INT32}, stem="positions", dtype=_INT32, shape=[count])

    def _count_up(self, count: ir.Value, dim: str) -> ir.Value:
        tape = self.tape
        limit = tape.op("Squeeze", [count], stem="count", shape=[])
        return tape.op("Range", [tape.scalar(0), limit, tape.scalar(1)], stem="numbers", shape=[dim])


def to_rows(tape: Tape, value: ir.Value, order: list[int], width: int) -> ir.Value:
    """[B*S, width]: axes in the order batch, slots, heads, features, then merged."""
    stem = f"{value.name}_rows"
    if order != sorted(order):
        value = tape.op("Transpose", [value], {"perm": order}, stem=stem)
    return tape.op("Reshape", [value, tape.vector([-1, width])], stem=stem, shape=[tape.fresh_name("rows"), width])


def from_rows(tape: Tape, value: ir.Value, rows: Rows, heads: int, width: int, *, split_heads: bool) -> ir.Value:
    """[B*S, width] as [B, S, width], or as [B, N, S, Hv]."""
    stem = f"{value.name}_unpacked"
    tail = [heads, width // heads] if split_heads else [width]
    shape = tape.op(
        "Concat", [rows.batch, rows.length, tape.vector(tail)], {"axis": 0}, stem=stem, shape=[len(tail) + 2]
    )
    result = tape.op("Reshape", [value, shape], stem=stem, dtype=value.dtype)
    return tape.op("Transpose", [result], {"perm": [0, 2, 1, 3]}, stem=stem) if split_heads else result
