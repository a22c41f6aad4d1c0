"""The packed region: packed forms of values, built on demand beside the original graph.

A value is *behind attention* when it depends on a lowered attention site (or, with ragged I/O, on a packed input): its
original is gone, only what is built here remains. Everything else still exists in its padded form, so both forms can
be had: look-ups and what follows them are repeated on packed tokens, the rest is gathered by `PackTokens`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import Axes, Axis, Kind, axis_of, axis_size, count, has
from raggedrt.graph_passes.axes.neutral import neutral_number
from raggedrt.graph_passes.axes.rule import (
    PackingRefused,
    describe_node,
    dropped_axis,
    packed_axes,
    packed_axis_number,
    require_axes,
)
from raggedrt.graph_passes.axes.rules import rule_for
from raggedrt.graph_passes.packing.plan import PlanValues
from raggedrt.graph_passes.packing.tape import TOKENS, Tape, packed_shape, padded_shape

_TWIN_DEPTH = 40
"""How far back a chain in front of the first attention is repeated on packed tokens."""


class PackedRegion:
    """See the module; implements the face that transfer rules build into (`axes.rule.Packed`)."""

    def __init__(self, tape: Tape, analysis: AxisAnalysis, plan: PlanValues, behind: set[ir.Value]) -> None:
        self.tape = tape
        self.analysis = analysis
        self.plan = plan
        self.behind = behind
        self.packed_forms: dict[ir.Value, ir.Value] = {}
        self.exact_forms: dict[ir.Value, ir.Value] = {}
        """Padded (or token-free) forms of values behind attention that equal the original's everywhere."""
        self.neutral_forms: dict[tuple[ir.Value, float], ir.Value] = {}
        """Padded forms whose padded slots hold a number that some readers take no notice of."""
        self.tiles: dict[Hashable, dict[str, ir.Value]] = {}
        """Tile tensors by form, shared by all sites with that mask."""
        self._depth = 0

    # --- forms of a value -------------------------------------------------------------------------------------------

    def packed(self, value: ir.Value) -> ir.Value:
        """The packed form; a value without slots is its own."""
        if value in self.packed_forms:
            return self.packed_forms[value]
        axes = self.analysis.axes_of(value)
        if value in self.behind and value in self.exact_forms:
            source = self.exact_forms[value]
        elif value in self.behind:
            raise PackingRefused(_reader(value), f"'{value.name}' has no packed form")
        else:
            source = value
        axes = require_axes(value.producer() or _reader(value), axes, f"'{value.name}'")
        form = self._pack(value, source, axes)
        self.packed_forms[value] = form
        return form

    def _pack(self, value: ir.Value, source: ir.Value, axes: Axes) -> ir.Value:
        tokens, rows = count(axes, Kind.TOKEN), count(axes, Kind.BATCH)
        if tokens > 1 or rows > 1:
            raise PackingRefused(_reader(value), f"'{value.name}' pairs slots with slots, so it has no packed form")
        if not tokens:
            return source
        if not rows:
            number = axis_of(axes, Kind.TOKEN)
            if number is None or not _pure(axes, number):
                raise PackingRefused(_reader(value), f"'{value.name}' merges slots with something else")
            stem = f"{value.name}_by_position"
            return self.tape.op(
                "Gather", [source, self.plan.position], {"axis": number}, stem=stem, shape=packed_shape(axes)
            )
        twin = self._twin(value) if source is value else None
        return twin if twin is not None else self.pack_tokens(value, source, axes)

    def _twin(self, value: ir.Value) -> ir.Value | None:
        """Repeat the producer on packed tokens, where that is cheaper than gathering its padded result."""
        node = value.producer()
        rule = None if node is None else rule_for(node)
        axes = self.analysis.axes_of(value)
        if node is None or rule is None or axes is None or not has(axes, Kind.FEATURE) or self._depth >= _TWIN_DEPTH:
            return None
        self._depth += 1
        try:
            outputs = rule.pack(node, self)
        except PackingRefused:
            return None  # what was built so far is dead, and dead nodes are removed at the end
        finally:
            self._depth -= 1
        return outputs[node.outputs.index(value)]

    def pack_tokens(self, value: ir.Value, source: ir.Value, axes: Axes) -> ir.Value:
        """`PackTokens` of `source`, a padded form of `value`, in the packed form's axis order."""
        row, slot = axis_of(axes, Kind.BATCH), axis_of(axes, Kind.TOKEN)
        if row is None or slot is None:
            raise PackingRefused(_reader(value), f"the axes of '{value.name}' are not understood")
        if row != slot and not _pure(axes, row, slot):
            raise PackingRefused(_reader(value), f"'{value.name}' merges slots with something else")
        if row == slot:  # [B*S, ...] is [1, B*S, ...] for PackTokens
            if row != 0 or [atom.kind for atom in axes[0]] != [Kind.BATCH, Kind.TOKEN]:
                raise PackingRefused(_reader(value), f"'{value.name}' merges batch and slots with something else")
            source = self.tape.op("Unsqueeze", [source, self.tape.vector([0])], stem=f"{value.name}_rows")
            return self._pack_node(source, f"{value.name}_packed", packed_shape(axes))
        order = [row, slot, *(number for number in range(len(axes)) if number not in (row, slot))]
        if order != list(range(len(axes))):
            shape = [padded_shape(axes)[number] for number in order]
            source = self.tape.op("Transpose", [source], {"perm": order}, stem=f"{value.name}_rows", shape=shape)
        packed = self._pack_node(
            source, f"{value.name}_packed", [TOKENS, *packed_shape(tuple(axes[n] for n in order[2:]))]
        )
        back = [number for number in order if number != row]
        if back == sorted(back):
            return packed
        perm = [back.index(number) for number in sorted(back)]
        return self.tape.op(
            "Transpose", [packed], {"perm": perm}, stem=f"{value.name}_packed", shape=packed_shape(axes)
        )

    def _pack_node(self, source: ir.Value, stem: str, shape: Sequence[int | str]) -> ir.Value:
        node = self.tape.custom("PackTokens", {"x": source, "token_index": self.plan.token_index}, stem=stem)
        node.outputs[0].shape = ir.Shape(shape)
        return node.outputs[0]

    def exact(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        """The value as the original graph has it, padded slots included.

        Raises:
            PackingRefused: It is behind attention and what its padded slots hold is not known.
        """
        if value not in self.behind:
            return value
        if value not in self.exact_forms:
            if self.analysis.padded_of(value) is None and (form := self._neutral(value, reader)) is not None:
                return form
            self.exact_forms[value] = self._unpacked(value, reader)
        return self.exact_forms[value]

    def _neutral(self, value: ir.Value, reader: ir.Node) -> ir.Value | None:
        """A padded form that equals the original's as far as `reader` can tell; None where there is none."""
        number = neutral_number(reader, value, self.analysis, alone=self.plan.ragged)
        axes = self.analysis.axes_of(value)
        if number is None or axes is None or value not in self.packed_forms:
            return None
        if (value, number) not in self.neutral_forms:
            result = self.padded(value, axes, reader)
            self.neutral_forms[value, number] = result if number == 0.0 else self._filled(result, axes, number, reader)
        return self.neutral_forms[value, number]

    def _unpacked(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        axes = require_axes(reader, self.analysis.axes_of(value), f"'{value.name}'")
        fill = self.analysis.padded_of(value)
        if fill is None or value not in self.packed_forms:
            if rule_for(reader) is None:
                raise PackingRefused(
                    reader,
                    f"no rule says along which axes {reader.op_type} works, so it may read padded slots of "
                    f"'{value.name}'; replace it or export without it",
                )
            raise PackingRefused(
                reader,
                f"{reader.op_type} reads padded slots of '{value.name}', which hold other values once padding is "
                "removed; multiply by attention_mask before it (as a masked mean does) or export without it",
            )
        result = self.padded(value, axes, reader)
        return result if fill == 0.0 else self._filled(result, axes, fill, reader)

    def _filled(self, result: ir.Value, axes: Axes, fill: float, reader: ir.Node) -> ir.Value:
        """Put the original's number back into padded slots (masked maxima use a large negative one)."""
        row, slot = axis_of(axes, Kind.BATCH), axis_of(axes, Kind.TOKEN)
        if (row, slot) != (0, 1) or result.dtype is None:
            raise PackingRefused(reader, f"padded slots hold {fill:g} in a layout that is not [batch, sequence, ...]")
        tape = self.tape
        valid = tape.op("Cast", [self.plan.mask], {"to": ir.DataType.BOOL}, stem="valid", dtype=ir.DataType.BOOL)
        further = list(range(2, len(axes)))
        if further:
            valid = tape.op("Unsqueeze", [valid, tape.vector(further)], stem="valid")
        number = tape.number(fill, result.dtype)
        shape = padded_shape(axes)
        return tape.op("Where", [valid, result, number], stem=f"{result.name}_filled", dtype=result.dtype, shape=shape)

    def padded(self, value: ir.Value, axes: Axes, reader: ir.Node | str) -> ir.Value:
        """`UnpackTokens` of a packed value, back in its own axis order; zero at padded slots."""
        row, slot = axis_of(axes, Kind.BATCH), axis_of(axes, Kind.TOKEN)
        if row is None or slot is None or row == slot or not _pure(axes, row, slot):
            raise PackingRefused(reader, f"'{value.name}' cannot be laid out as [batch, sequence, ...] again")
        packed = self.packed_forms[value]
        order = [row, slot, *(number for number in range(len(axes)) if number not in (row, slot))]
        without_row = sorted(number for number in order if number != row)
        perm = [without_row.index(number) for number in order[1:]]
        if perm != sorted(perm):
            packed = self.tape.op("Transpose", [packed], {"perm": perm}, stem=f"{value.name}_tokens")
            packed.shape = ir.Shape(packed_shape(tuple(axes[number] for number in order)))
        inputs = {"packed": packed, "token_index": self.plan.token_index, "like": self.plan.mask}
        if self.plan.valid_position is not None:
            inputs["key_position"] = self.plan.valid_position
        node = self.tape.custom("UnpackTokens", inputs, stem=f"{value.name}_padded")
        result = node.outputs[0]
        result.type = value.type
        result.shape = ir.Shape([padded_shape(axes)[number] for number in order])
        if order != list(range(len(axes))):
            perm = [order.index(number) for number in range(len(axes))]
            result = self.tape.op(
                "Transpose",
                [result],
                {"perm": perm},
                stem=f"{value.name}_padded",
                shape=padded_shape(axes),
            )
        return result

    # --- what transfer rules build with -----------------------------------------------------------------------------

    def constant(self, values: Sequence[int]) -> ir.Value:
        """An int64 vector."""
        return self.tape.vector(values)

    def aligned(self, value: ir.Value, output: Axes) -> ir.Value:
        """The packed form of an operand that broadcasts (aligned at the end) to the unpacked axes `output`."""
        axes = require_axes(value.producer() or _reader(value), self.analysis.axes_of(value), f"'{value.name}'")
        missing = len(output) - len(axes)
        own: Axes = ((),) * missing + axes
        if any(a and has((o,), Kind.TOKEN) and not has((a,), Kind.TOKEN) for a, o in zip(own, output, strict=True)):
            return self._slot_constant(value, own, output, missing)
        if has(axes, Kind.BATCH) and not has(axes, Kind.TOKEN) and has(output, Kind.TOKEN):
            return self._per_sequence(value, own, output)
        form = self.packed(value)
        gone = dropped_axis(output)
        if gone is None or has(axes, Kind.BATCH) or gone < missing:
            return form
        # The operand has an axis of size one where the batch axis was: it goes, too.
        return self._without_axis(value, form, axes, gone - missing)

    def _without_axis(self, value: ir.Value, form: ir.Value, axes: Axes, number: int) -> ir.Value:
        if axes[number]:
            raise PackingRefused(_reader(value), f"'{value.name}' differs from row to row of a fixed batch")
        kept = tuple(axis for n, axis in enumerate(axes) if n != number)
        stem = f"{form.name}_squeezed"
        return self.tape.op("Squeeze", [form, self.tape.vector([number])], stem=stem, shape=packed_shape(kept))

    def _slot_constant(self, value: ir.Value, own: Axes, output: Axes, missing: int) -> ir.Value:
        """A constant whose feature axis lines up with the slots (a folded position table): take it by position."""
        number = next(n for n, (a, o) in enumerate(zip(own, output, strict=True)) if a and has((o,), Kind.TOKEN))
        if not _pure(output, number):
            raise PackingRefused(_reader(value), f"'{value.name}' lines up with slots merged with something else")
        axes: list[Axis] = list(own[missing:])
        axes[number - missing] = output[number]
        stem = f"{value.name}_by_position"
        form = self.tape.op(
            "Gather",
            [value, self.plan.position],
            {"axis": number - missing},
            stem=stem,
            shape=packed_shape(tuple(axes)),
        )
        gone = dropped_axis(output)
        return form if gone is None or gone < missing else self._without_axis(value, form, tuple(axes), gone - missing)

    def _per_sequence(self, value: ir.Value, own: Axes, output: Axes) -> ir.Value:
        """One row per sequence, repeated for each of its tokens."""
        row, slot = axis_of(own, Kind.BATCH), axis_of(output, Kind.TOKEN)
        source = self.exact_forms.get(value, value)
        if row is None or slot is None or own[row] != (self.analysis.batch,) or output[slot] != (self.analysis.token,):
            raise PackingRefused(_reader(value), f"'{value.name}' cannot be repeated for every token of a sequence")
        offset = len(own) - len(self.analysis.axes_of(value) or ())
        form = self.tape.op("Gather", [source, self.plan.row], {"axis": row - offset}, stem=f"{value.name}_per_token")
        if row != 0 or offset or slot != 1:
            raise PackingRefused(_reader(value), f"'{value.name}' does not begin with [batch, sequence]")
        rest = tuple(own[2:])
        return self.tape.op(
            "Squeeze",
            [form, self.tape.vector([1])],
            stem=f"{value.name}_per_token",
            shape=[TOKENS, *packed_shape(rest)],
        )

    def neighbours(self, node: ir.Node, value: ir.Value, offsets: Iterable[int]) -> ir.Value:
        """`[T, C, K]` of a value [B, C, S], zero at padded slots: what stands `offsets` slots from each token."""
        axes = require_axes(node, self.analysis.axes_of(value))
        rows = self.plan.neighbour_rows(tuple(offsets))
        found = self._shifted(value, axes, rows, f"{value.name}_neighbours")  # [C, T, K]
        return self.tape.op("Transpose", [found], {"perm": [1, 0, 2]}, stem=f"{value.name}_neighbours")

    def shifted(self, node: ir.Node, value: ir.Value, offset: int) -> ir.Value:
        """The packed form of a value, zero at padded slots, moved: what stands `offset` slots from each token."""
        axes = require_axes(node, self.analysis.axes_of(value))
        rows = self.tape.op("Squeeze", [self.plan.neighbour_rows((offset,)), self.tape.vector([1])], stem="neighbour")
        result = self._shifted(value, axes, rows, f"{value.name}_shifted")
        result.shape = ir.Shape(packed_shape(axes))
        return result

    def _shifted(self, value: ir.Value, axes: Axes, rows: ir.Value, stem: str) -> ir.Value:
        slot = axis_of(axes, Kind.TOKEN)
        if slot is None or value.dtype is None or not _pure(axes, slot):
            raise PackingRefused(_reader(value), f"the slots of '{value.name}' do not have an axis of their own")
        form, number, tape = self.packed(value), packed_axis_number(axes, slot), self.tape
        rank = len(packed_axes(axes))
        ends = tape.vector([int(axis == number) for axis in range(rank)] + [0] * rank)
        zero = tape.number(0, value.dtype)
        longer = tape.op("Pad", [form, ends, zero], stem=stem)  # row 0 is zero: where there is no such slot
        return tape.op("Gather", [longer, rows], {"axis": number}, stem=stem)

    def tokens_last(self, node: ir.Node, form: ir.Value) -> ir.Value:
        """`[T, C, 1]` as the packed form `[C, T]` of the node's output [B, C, S]."""
        axes = require_axes(node, self.analysis.axes_of(node.outputs[0]))
        stem = f"{node.outputs[0].name}_packed"
        rows = self.tape.op("Squeeze", [form, self.tape.vector([2])], stem=stem)
        return self.tape.op("Transpose", [rows], {"perm": [1, 0]}, stem=stem, shape=packed_shape(axes))

    def emit(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], attributes: Mapping[str, object] | None = None
    ) -> list[ir.Value]:
        """A copy of `node` on other inputs (and with some attributes replaced)."""
        new = self.tape.copy(node, inputs, attributes or {})
        for old, output in zip(node.outputs, new.outputs, strict=True):
            axes = self.analysis.axes_of(old)
            if axes is not None:
                output.shape = ir.Shape(packed_shape(axes))
        return list(new.outputs)

    def full(self, value: ir.Value) -> ir.Value:
        """The packed form of a value with a row for every token, where it may have one for all of them."""
        form, axes = self.packed(value), self.analysis.axes_of(value) or ()
        sizes = []
        for axis in packed_axes(axes):
            static = axis_size(axis).static
            if not has((axis,), Kind.TOKEN) and static is None:
                raise PackingRefused(_reader(value), f"'{value.name}' has an axis whose size is known only at run time")
            sizes.append(self.plan.token_count if has((axis,), Kind.TOKEN) else self.tape.vector([static or 0]))
        shape = self.tape.op("Concat", sizes, {"axis": 0}, stem="full_shape", shape=[len(sizes)])
        return self.tape.op("Expand", [form, shape], stem=f"{value.name}_full", shape=packed_shape(axes))

    def gather(self, node: ir.Node, table: ir.Value, indices: ir.Value) -> ir.Value:
        """`table[indices]` along the first axis, with the packed shape of the node's output."""
        axes = require_axes(node, self.analysis.axes_of(node.outputs[0]), "the output")
        return self.tape.op(
            "Gather", [table, indices], {"axis": 0}, stem=f"{node.outputs[0].name}_lookup", shape=packed_shape(axes)
        )

    def reshaped(self, node: ir.Node, source: ir.Value, axes: Axes) -> ir.Value:
        """`source` (packed) viewed with the packed form of `axes`."""
        target = []
        for axis in packed_axes(axes):
            size = -1 if has((axis,), Kind.TOKEN) else axis_size(axis).static
            if size is None:
                raise PackingRefused(node, f"{node.op_type} to a size known only at run time")
            target.append(size)
        stem = f"{node.outputs[0].name}_view"
        return self.tape.op(
            "Reshape",
            [source, self.tape.vector(target)],
            stem=stem,
            dtype=node.outputs[0].dtype,
            shape=packed_shape(axes),
        )


def _pure(axes: Axes, *numbers: int) -> bool:
    """Whether each of these axes counts one thing: `[B, S*N]` has rows per slot and head, not per slot."""
    return all(len(axes[number]) == 1 for number in numbers)


def _reader(value: ir.Value) -> ir.Node | str:
    """A node to name in a refusal about a value: its producer, or its first user."""
    producer = value.producer()
    if producer is not None:
        return producer
    user = next(iter(value.uses()), None)
    return f"'{value.name}'" if user is None else describe_node(user.node)
