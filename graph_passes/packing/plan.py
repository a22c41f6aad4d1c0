"""The packing plan of one forward pass, as graph values shared by everything packed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from raggedrt.graph_passes.packing.chosen import Reach
from raggedrt.graph_passes.packing.tape import TOKENS, Tape

_END = (1 << 31) - 1
_INT32, _INT64, _BOOL = ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL


@dataclasses.dataclass(frozen=True)
class KeptSlots:
    """Slots that are packed even where they are padding, because something reads them.

    Attributes:
        numbers: slots of every row; negative ones count from the end.
        chosen: values with one slot number per row, any shape with B elements.
        key_lengths: int [B] where attention counts tokens instead of looking where they stand: the first slots of a row
            are its keys, whatever the attention mask says, and the slots of the mask are kept for what they put out.
        guarded: those of `chosen` that may see no token of their row, and how far they look.
    """

    numbers: frozenset[int] = frozenset()
    chosen: tuple[ir.Value, ...] = ()
    key_lengths: ir.Value | None = None
    guarded: Mapping[ir.Value, Reach] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.numbers or self.chosen or self.key_lengths is not None)


class PlanValues:
    """Values that describe the packed batch.

    Attributes:
        mask: [B, S] (padded I/O: the graph's attention_mask; ragged I/O: rebuilt from cu_seqlens).
        token_index: int32 [T]; `cu_seqlens`: int32 [B+1]; `position`, `key_position`: int32 [T].
        kept: slots that are packed although they may be padding.
    """

    def __init__(
        self, tape: Tape, mask: ir.Value, max_seqlen: ir.Value | None, cu_seqlens: ir.Value | None, kept: KeptSlots
    ) -> None:
        self.tape = tape
        self.mask = mask
        self.ragged = cu_seqlens is not None
        self.kept = kept
        self._max_seqlen = max_seqlen
        self._row: ir.Value | None = None
        self._neighbours: dict[tuple[int, ...], ir.Value] = {}
        self._rows_by_slot: ir.Value | None = None
        self._length: ir.Value | None = None
        self._own: tuple[ir.Value, ir.Value] | None = None
        self._own_cu_seqlens: ir.Value | None = None
        self._valid_position: ir.Value | None = None
        inputs: dict[str, ir.Value | None] = {"attention_mask": self._keys(), "keep_mask": self._keep_mask()}
        attributes = {"keep_slots": sorted(kept.numbers)} if kept.numbers else {}
        node = tape.custom("PackingPlan", inputs, attributes, stem="plan")
        self.token_index, planned, self.position, self.key_position = node.outputs
        self.cu_seqlens = planned if cu_seqlens is None else cu_seqlens

    @property
    def length(self) -> ir.Value:
        """Int64 [1]: the padded length S."""
        if self._length is None:
            bounds = {"start": 1, "end": 2}
            self._length = self.tape.op("Shape", [self.mask], bounds, stem="length", dtype=_INT64, shape=[1])
        return self._length

    @functools.cached_property
    def token_count(self) -> ir.Value:
        """Int64 [1]: the number of packed tokens T."""
        return self.tape.op("Shape", [self.token_index], stem="count", dtype=_INT64, shape=[1])

    @property
    def max_seqlen(self) -> ir.Value:
        """A vector of length S: any per-slot vector serves, only its length is read."""
        if self._max_seqlen is None:
            zero = {"value": ir.tensor([0.0], dtype=ir.DataType.FLOAT)}
            self._max_seqlen = self.tape.op(
                "ConstantOfShape", [self.length], zero, stem="max_seqlen", dtype=ir.DataType.FLOAT, shape=["sequence"]
            )
        return self._max_seqlen

    @property
    def valid_position(self) -> ir.Value | None:
        """Int32 [T], negative where a packed slot is padding; None where none is."""
        if self.kept.key_lengths is None:
            return self.key_position if self.kept else None
        if self._valid_position is None:
            tape = self.tape
            flat = tape.op("Reshape", [self._valid(), tape.vector([-1])], stem="valid_slot", shape=["slots"])
            chosen = tape.op("Gather", [flat, self.token_index], {"axis": 0}, stem="valid_token", shape=[TOKENS])
            below = tape.op("Sub", [chosen, tape.scalar(1)], stem="valid_token", shape=[TOKENS])
            self._valid_position = self._cast(below, _INT32, [TOKENS])
        return self._valid_position

    @property
    def own_positions(self) -> tuple[ir.Value, ir.Value]:
        """Int32 [T] of queries and of keys: how many valid tokens of the row stand before.

        A kept slot that is padding has that of the token before it (0 where there is none), and is no key.
        """
        if self._own is None:
            tape = self.tape
            counted = tape.op("CumSum", [self._valid(), tape.scalar(1)], stem="counted", shape=["batch", "sequence"])
            before = tape.op("Sub", [counted, tape.scalar(1)], stem="own_slot", shape=["batch", "sequence"])
            before = tape.op("Max", [before, tape.scalar(0)], stem="own_slot", shape=["batch", "sequence"])
            flat = tape.op("Reshape", [before, tape.vector([-1])], stem="own_slot", shape=["slots"])
            chosen = tape.op("Gather", [flat, self.token_index], {"axis": 0}, stem="own_position", shape=[TOKENS])
            query = self._cast(chosen, _INT32, [TOKENS])
            zero, none = (self._cast(tape.scalar(number), _INT32, []) for number in (0, -1))
            hidden = tape.op("Less", [self.key_position, zero], stem="is_no_key", dtype=_BOOL, shape=[TOKENS])
            key = tape.op("Where", [hidden, none, query], stem="own_key_position", dtype=_INT32, shape=[TOKENS])
            self._own = query, key
        return self._own

    @property
    def own_cu_seqlens(self) -> ir.Value:
        """Int32 [B+1]: ends of the rows' valid tokens, kept slots that are padding not counted."""
        if not self.kept:
            return self.cu_seqlens
        if self._own_cu_seqlens is None:
            tape = self.tape
            totals = [self._valid(), tape.vector([1])]
            count = tape.op("ReduceSum", totals, {"keepdims": 0}, stem="own_length", shape=["batch"])
            ends = tape.op("CumSum", [count, tape.scalar(0)], stem="own_end", shape=["batch"])
            ends = tape.op("Concat", [tape.vector([0]), ends], {"axis": 0}, stem="own_ends", shape=["batch+1"])
            self._own_cu_seqlens = self._cast(ends, _INT32, ["batch+1"])
        return self._own_cu_seqlens

    def _valid(self) -> ir.Value:
        """Int64 [B, S]: 1 where a slot holds a token."""
        valid = self._cast(self.mask, _BOOL, ["batch", "sequence"])
        return self._cast(valid, _INT64, ["batch", "sequence"])

    @property
    def row(self) -> ir.Value:
        """Int64 [T]: the batch row of each token."""
        if self._row is None:
            index = self._cast(self.token_index, _INT64, [TOKENS])
            self._row = self.tape.op("Div", [index, self.length], stem="row", shape=[TOKENS])
        return self._row

    def rows_of_slot(self, slot: int | ir.Value) -> ir.Value:
        """Int32 [B]: the packed row that holds a slot of each sequence; with ragged I/O -1 where there is none."""
        if isinstance(slot, ir.Value):
            return self._rows_of_chosen(self._per_row(slot))
        if self.ragged or slot in (0, -1):
            return self._rows_from_edge(slot)
        number = self.tape.op("Expand", [self.tape.scalar(slot), self._batch()], stem="slot", shape=["batch"])
        return self._rows_of_chosen(number)

    def blind_rows(self, slot: ir.Value, reach: Reach) -> ir.Value:
        """Bool [B]: the row has tokens, but the chosen slot sees none of them."""
        tape = self.tape
        column = tape.op("Unsqueeze", [self._from_the_start(slot), tape.vector([1])], stem="slot", shape=["batch", 1])
        ahead = tape.op("Sub", [self._slots(), column], stem="ahead", shape=["batch", "sequence"])
        seen = valid = self._cast(self.mask, _BOOL, ["batch", "sequence"])
        bounds = (("LessOrEqual", reach.right), ("GreaterOrEqual", None if reach.left is None else -reach.left))
        for op_type, bound in bounds:
            if bound is not None:
                near = tape.op(op_type, [ahead, tape.scalar(bound)], stem="in_reach", dtype=_BOOL)
                seen = tape.op("And", [seen, near], stem="in_reach", dtype=_BOOL, shape=["batch", "sequence"])
        tokens, found = (self._count(flags) for flags in (valid, seen))
        nothing = tape.op("Equal", [found, tape.scalar(0)], stem="blind", dtype=_BOOL, shape=["batch"])
        something = tape.op("Greater", [tokens, tape.scalar(0)], stem="has_tokens", dtype=_BOOL, shape=["batch"])
        return tape.op("And", [nothing, something], stem="blind", dtype=_BOOL, shape=["batch"])

    def _count(self, flags: ir.Value) -> ir.Value:
        numbers = [self._cast(flags, _INT64, ["batch", "sequence"]), self.tape.vector([1])]
        return self.tape.op("ReduceSum", numbers, {"keepdims": 0}, stem="count", shape=["batch"])

    # --- kept slots ---------------------------------------------------------------------------------------------------

    def _keys(self) -> ir.Value:
        """[B, S]: slots whose keys are visible."""
        if self.kept.key_lengths is None:
            return self.mask
        tape = self.tape
        lengths = tape.op("Unsqueeze", [self._per_row(self.kept.key_lengths), tape.vector([1])], stem="key_lengths")
        return tape.op("Less", [self._slots(), lengths], stem="keys", dtype=_BOOL, shape=["batch", "sequence"])

    def _keep_mask(self) -> ir.Value | None:
        """Bool [B, S]: slots chosen at run time; None where there are none."""
        tape, found = self.tape, None
        if self.kept.key_lengths is not None:
            found = self._cast(self.mask, _BOOL, ["batch", "sequence"])
        for chosen in self.kept.chosen:
            slots = tape.op(
                "Unsqueeze", [self._from_the_start(chosen), tape.vector([1])], stem="kept", shape=["batch", 1]
            )
            kept = tape.op("Equal", [self._slots(), slots], stem="keep", dtype=_BOOL, shape=["batch", "sequence"])
            found = kept if found is None else tape.op("Or", [found, kept], stem="keep", shape=["batch", "sequence"])
        return found

    def _from_the_start(self, chosen: ir.Value) -> ir.Value:
        """Int64 [B]: slot numbers, those counted from the end made positive."""
        tape, slots = self.tape, self._per_row(chosen)
        shifted = tape.op("Add", [slots, self.length], stem="slot_from_end", shape=["batch"])
        return tape.op("Where", [self._is_negative(slots), shifted, slots], stem="slot", dtype=_INT64, shape=["batch"])

    def _is_negative(self, slots: ir.Value) -> ir.Value:
        return self.tape.op("Less", [slots, self.tape.scalar(0)], stem="is_negative", dtype=_BOOL, shape=["batch"])

    def _per_row(self, chosen: ir.Value) -> ir.Value:
        flat = self.tape.op("Reshape", [chosen, self.tape.vector([-1])], stem="chosen", shape=["batch"])
        return flat if chosen.dtype is _INT64 else self._cast(flat, _INT64, ["batch"])

    def _slots(self) -> ir.Value:
        """Int64 [S]: every slot number."""
        tape = self.tape
        count = tape.op("Squeeze", [self.length], stem="slots", shape=[])
        return tape.op("Range", [tape.scalar(0), count, tape.scalar(1)], stem="slots", shape=["sequence"])

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _rows_of_chosen(self, slots: ir.Value) -> ir.Value:
        if self.ragged:
            begin = self._cast(self._cut(0, -1, "begin"), _INT64, ["batch"])
            end = self._cast(self._cut(1, _END, "end"), _INT64, ["batch"])
            negative = self.tape.op(
                "Less", [slots, self.tape.scalar(0)], stem="is_negative", dtype=_BOOL, shape=["batch"]
            )
            edge = self.tape.op("Where", [negative, end, begin], stem="edge", dtype=_INT64, shape=["batch"])
            rows = self.tape.op("Add", [edge, slots], stem="slot_row", shape=["batch"])
            return self._inside(self._cast(rows, _INT32, ["batch"]))
        tape = self.tape
        column = tape.op("Unsqueeze", [slots, tape.vector([1])], stem="slot", shape=["batch", 1])
        found = tape.op("GatherElements", [self._row_table(), column], {"axis": 1}, stem="slot_row", shape=["batch", 1])
        found = tape.op("Squeeze", [found, tape.vector([1])], stem="slot_row", shape=["batch"])
        rows = tape.op("Sub", [found, tape.scalar(1)], stem="slot_row", shape=["batch"])
        return self._cast(rows, _INT32, ["batch"])

    def _row_table(self) -> ir.Value:
        """Int64 [B, S]: one more than the packed row of each slot, 0 where the slot is not packed."""
        if self._rows_by_slot is None:
            tape = self.tape
            count = tape.op("Squeeze", [self.token_count], stem="count", shape=[])
            after = tape.op("Add", [count, tape.scalar(1)], stem="count", shape=[])
            rows = tape.op("Range", [tape.scalar(1), after, tape.scalar(1)], stem="rows", shape=[TOKENS])
            inputs = {"packed": rows, "token_index": self.token_index, "like": self.mask}
            self._rows_by_slot = tape.custom("UnpackTokens", inputs, stem="row_table").outputs[0]
        return self._rows_by_slot

    def neighbour_rows(self, offsets: Sequence[int]) -> ir.Value:
        """Int64 [T, K]: one more than the packed row of the slot `offset` after each token's, 0 where there is none."""
        key = tuple(offsets)
        if key not in self._neighbours:
            tape = self.tape
            index = self._cast(self.position, _INT64, [TOKENS])
            slots = tape.op("Unsqueeze", [index, tape.vector([1])], stem="neighbour", shape=[TOKENS, 1])
            slots = tape.op("Add", [slots, tape.vector(offsets)], stem="neighbour", shape=[TOKENS, len(key)])
            first = tape.op("GreaterOrEqual", [slots, tape.scalar(0)], stem="in_row", dtype=_BOOL)
            last = tape.op("Less", [slots, self.length], stem="in_row", dtype=_BOOL)
            inside = tape.op("And", [first, last], stem="in_row", dtype=_BOOL, shape=[TOKENS, len(key)])
            begins = tape.op("Mul", [self.row, self.length], stem="row_begin", shape=[TOKENS])
            begins = tape.op("Unsqueeze", [begins, tape.vector([1])], stem="row_begin", shape=[TOKENS, 1])
            places = tape.op("Add", [slots, begins], stem="neighbour", shape=[TOKENS, len(key)])
            places = tape.op("Where", [inside, places, tape.scalar(0)], stem="neighbour", dtype=_INT64)
            rows = tape.op(
                "Gather", [self._flat_rows(), places], {"axis": 0}, stem="neighbour_row", shape=[TOKENS, len(key)]
            )
            none = tape.scalar(0)
            self._neighbours[key] = tape.op(
                "Where", [inside, rows, none], stem="neighbour_row", dtype=_INT64, shape=[TOKENS, len(key)]
            )
        return self._neighbours[key]

    def _flat_rows(self) -> ir.Value:
        """`_row_table` as int64 [B*S]; where nothing but tokens is packed, counting them gives their rows."""
        tape = self.tape
        if self.kept:
            return tape.op("Reshape", [self._row_table(), tape.vector([-1])], stem="row_table", shape=["slots"])
        flat = tape.op("Reshape", [self._valid(), tape.vector([-1])], stem="valid_slot", shape=["slots"])
        counted = tape.op("CumSum", [flat, tape.scalar(0)], stem="row_table", shape=["slots"])
        return tape.op("Mul", [counted, flat], stem="row_table", shape=["slots"])

    def _rows_from_edge(self, slot: int) -> ir.Value:
        """The row `slot` places after the first (negative: before the end) of each sequence."""
        edge = self._cut(0, -1, "begin") if slot >= 0 else self._cut(1, _END, "end")
        shift = self._cast(self.tape.scalar(slot), _INT32, [])
        rows = self.tape.op("Add", [edge, shift], stem="edge_row", shape=["batch"])
        return self._inside(rows) if self.ragged else rows  # with padded I/O the slot is kept, so there is a row

    def _inside(self, rows: ir.Value) -> ir.Value:
        """Rows that leave their sequence become -1."""
        tape = self.tape
        after = tape.op(
            "GreaterOrEqual", [rows, self._cut(0, -1, "begin")], stem="inside", dtype=_BOOL, shape=["batch"]
        )
        before = tape.op("Less", [rows, self._cut(1, _END, "end")], stem="inside", dtype=_BOOL, shape=["batch"])
        inside = tape.op("And", [after, before], stem="inside", shape=["batch"])
        none = self._cast(tape.scalar(-1), _INT32, [])
        return tape.op("Where", [inside, rows, none], stem="edge_row", dtype=_INT32, shape=["batch"])

    def _cut(self, start: int, end: int, stem: str) -> ir.Value:
        tape = self.tape
        inputs = [self.cu_seqlens, tape.vector([start]), tape.vector([end]), tape.vector([0])]
        return tape.op("Slice", inputs, stem=stem, dtype=_INT32, shape=["batch"])

    def _batch(self) -> ir.Value:
        return self.tape.op("Shape", [self.mask], {"start": 0, "end": 1}, stem="batch", dtype=_INT64, shape=[1])

    def _cast(self, value: ir.Value, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
        return self.tape.op("Cast", [value], {"to": dtype}, stem=f"{value.name}_cast", dtype=dtype, shape=shape)
