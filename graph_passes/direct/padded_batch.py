"""A padded batch as `RaggedAttention` takes it: every sequence has the same rows, padded slots among them."""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import axis_size
from raggedrt.graph_passes.axes.rule import PackingRefused
from raggedrt.graph_passes.direct.operands import RowSource, row_source
from raggedrt.graph_passes.direct.rows import Rows, to_rows
from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.graph_passes.sites.site import Operand

_BOOL, _INT32, _INT64 = ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64


class PaddedBatch:
    """See the module; implements `attention_host.AttentionHost`. Equal lengths are described once for all sites."""

    def __init__(self, tape: Tape, analysis: AxisAnalysis) -> None:
        self.tape = tape
        self.analysis = analysis
        self.tiles: dict[Hashable, dict[str, ir.Value]] = {}
        self._rows: dict[Hashable, Rows] = {}
        self._key_positions: dict[Hashable, ir.Value] = {}
        self.rows: Rows | None = None
        """Of the site that is being lowered."""

    @property
    def plan(self) -> PaddedBatch:
        """How long sequences are: this says it."""
        return self

    @property
    def max_seqlen(self) -> ir.Value:
        """A vector of length S."""
        return self._current().carrier()

    @property
    def own_cu_seqlens(self) -> ir.Value:
        """Int32 [B+1]: without padding all rows are the sequence's own."""
        return self._current().cu_seqlens()

    def _current(self) -> Rows:
        if self.rows is None:
            raise PackingRefused("attention", "the lengths of its sequences are not known")
        return self.rows

    def exact(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        """The value itself: nothing is packed."""
        return value

    def source(self, operand: Operand, reader: ir.Node) -> RowSource:
        """Where the rows of an operand lie.

        Raises:
            PackingRefused: It is not known which axis holds slots.
        """
        found = row_source(operand, self.analysis)
        if found is None:
            raise PackingRefused(reader, f"'{operand.value.name}' is not laid out as [batch, heads, slots, head size]")
        return found

    def rows_of(self, source: RowSource) -> Rows:
        """Batch and length of an operand's sequences."""
        key = self._key(source)
        if key not in self._rows:
            self._rows[key] = Rows.of(self.tape, source.sized, source.slots)
        return self._rows[key]

    def _key(self, source: RowSource) -> Hashable:
        axes = self.analysis.axes_of(source.sized)
        if axes is None:
            return source.sized
        return axis_size(axes[0]), axis_size(axes[source.slots])

    def packed(self, source: RowSource, width: int) -> ir.Value:
        """[B*S, width]."""
        if source.order is None:
            return to_rows(self.tape, source.value, [0, 1], width)
        return to_rows(self.tape, source.value, list(source.order), width)

    def positions(self, valid: ir.Value | None, key_lengths: ir.Value | None) -> tuple[ir.Value, ir.Value]:
        """Int32 [B*S] of queries and of keys: slots; -1 where a key is padding.

        Args:
            valid: the padding mask [B, S], non-zero = token.
            key_lengths: int [B], in its place: that many keys from the start are visible.
        """
        tape, rows = self.tape, self._current()
        by = key_lengths if key_lengths is not None else valid
        slots = rows.slots()
        if (rows, by) not in self._key_positions:
            if key_lengths is not None:
                lengths = tape.op("Cast", [key_lengths], {"to": _INT64}, stem="key_lengths", dtype=_INT64)
                column = tape.op("Reshape", [lengths, tape.vector([-1, 1])], stem="key_lengths", shape=["batch", 1])
                visible = tape.op("Less", [slots, column], stem="valid_keys", dtype=_BOOL)
            else:
                visible = tape.op("Cast", [valid], {"to": _BOOL}, stem="valid_keys", dtype=_BOOL)
            numbers = tape.op("Where", [visible, slots, tape.scalar(-1)], stem="key_positions", dtype=_INT64)
            self._key_positions[rows, by] = rows.per_row(numbers)
        return rows.slot_positions(), self._key_positions[rows, by]
