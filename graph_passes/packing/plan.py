"""The packing plan of one forward pass, as graph values shared by everything packed."""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.graph_passes.packing.tape import TOKENS, Tape


class PlanValues:
    """Values that describe the packed batch.

    Attributes:
        mask: [B, S] (padded I/O: the graph's attention_mask; ragged I/O: rebuilt from cu_seqlens).
        token_index: int32 [T]; `cu_seqlens`: int32 [B+1]; `position`, `key_position`: int32 [T].
        max_seqlen: a vector whose length is S.
        keep_slots: slots of every row that are packed even where they are padding, because something reads them.
    """

    def __init__(
        self,
        tape: Tape,
        mask: ir.Value,
        max_seqlen: ir.Value | None,
        cu_seqlens: ir.Value | None,
        keep_slots: set[int],
    ) -> None:
        self.tape = tape
        self.mask = mask
        self.ragged = cu_seqlens is not None
        self.keep_slots = keep_slots
        attributes = {"keep_slots": sorted(keep_slots)} if keep_slots else {}
        node = tape.custom("PackingPlan", {"attention_mask": mask}, attributes, stem="plan")
        self.token_index, planned, self.position, self.key_position = node.outputs
        self.cu_seqlens = planned if cu_seqlens is None else cu_seqlens
        self._max_seqlen = max_seqlen
        self._row: ir.Value | None = None
        self._slot_rows: ir.Value | None = None

    @property
    def max_seqlen(self) -> ir.Value:
        """A vector of the batch's padded length: any per-slot vector serves, only its length is read."""
        if self._max_seqlen is None:
            tape = self.tape
            shape = tape.op(
                "Shape", [self.mask], {"start": 1, "end": 2}, stem="length", dtype=ir.DataType.INT64, shape=[1]
            )
            self._max_seqlen = tape.op(
                "ConstantOfShape", [shape], {"value": ir.tensor([0.0], dtype=ir.DataType.FLOAT)},
                stem="max_seqlen", dtype=ir.DataType.FLOAT, shape=["sequence"],
            )  # fmt: skip
        return self._max_seqlen

    @property
    def row(self) -> ir.Value:
        """Int64 [T]: the batch row of each token."""
        if self._row is None:
            tape = self.tape
            length = tape.op(
                "Shape", [self.mask], {"start": 1, "end": 2}, stem="length", dtype=ir.DataType.INT64, shape=[1]
            )
            index = tape.op(
                "Cast",
                [self.token_index],
                {"to": ir.DataType.INT64},
                stem="index64",
                dtype=ir.DataType.INT64,
                shape=[TOKENS],
            )
            self._row = tape.op("Div", [index, length], stem="row", shape=[TOKENS])
        return self._row

    def rows_of_slot(self, slot: int) -> ir.Value:
        """Int32 [B]: the packed row that holds slot `slot` of each sequence, -1 where there is none (ragged I/O)."""
        if slot in (0, -1):
            return self._edge_rows(first=slot == 0)
        if self.ragged:
            return self._edge_rows(first=slot >= 0, offset=slot if slot >= 0 else slot + 1)
        one = self.tape.scalar(1)
        less = self.tape.op(
            "Gather", [self._rows_by_slot(), self.tape.scalar(slot)], {"axis": 1}, stem="slot_row1", shape=["batch"]
        )
        rows = self.tape.op("Sub", [less, one], stem="slot_row", shape=["batch"])
        return self.tape.op("Cast", [rows], {"to": ir.DataType.INT32}, stem="slot_row32", dtype=ir.DataType.INT32)

    def _rows_by_slot(self) -> ir.Value:
        """Int64 [B, S]: one more than the packed row of each slot, 0 where the slot is not kept."""
        if self._slot_rows is None:
            tape = self.tape
            count = tape.op("Shape", [self.token_index], stem="count", dtype=ir.DataType.INT64, shape=[1])
            total = tape.op("Squeeze", [count], stem="count0", shape=[])
            rows = tape.op("Range", [tape.scalar(0), total, tape.scalar(1)], stem="rows", shape=[TOKENS])
            rows = tape.op("Add", [rows, tape.scalar(1)], stem="rows1", shape=[TOKENS])
            inputs = {"packed": rows, "token_index": self.token_index, "like": self.mask}
            self._slot_rows = tape.custom("UnpackTokens", inputs, stem="slot_rows").outputs[0]
        return self._slot_rows

    def _edge_rows(self, *, first: bool, offset: int = 0) -> ir.Value:
        """The first (or last) row of each sequence, moved by `offset`; -1 where that leaves the sequence."""
        tape = self.tape
        begin = self._slice(0, -1, "begin")
        end = self._slice(1, (1 << 31) - 1, "end")
        shift = tape.op(
            "Cast",
            [tape.scalar(offset if first else offset - 1)],
            {"to": ir.DataType.INT32},
            stem="shift",
            dtype=ir.DataType.INT32,
            shape=[],
        )
        rows = tape.op("Add", [begin if first else end, shift], stem="edge_row", shape=["batch"])
        if not self.ragged:
            return rows  # the slot is kept, so there is always a row
        inside = tape.op("And", [
            tape.op("GreaterOrEqual", [rows, begin], stem="after_begin", dtype=ir.DataType.BOOL, shape=["batch"]),
            tape.op("Less", [rows, end], stem="before_end", dtype=ir.DataType.BOOL, shape=["batch"]),
        ], stem="inside", dtype=ir.DataType.BOOL, shape=["batch"])  # fmt: skip
        none = tape.op(
            "Cast", [tape.scalar(-1)], {"to": ir.DataType.INT32}, stem="none", dtype=ir.DataType.INT32, shape=[]
        )
        return tape.op("Where", [inside, rows, none], stem="edge_row", dtype=ir.DataType.INT32, shape=["batch"])

    def _slice(self, start: int, end: int, stem: str) -> ir.Value:
        tape = self.tape
        inputs = [self.cu_seqlens, tape.vector([start]), tape.vector([end]), tape.vector([0])]
        return tape.op("Slice", inputs, stem=stem, dtype=ir.DataType.INT32, shape=["batch"])
