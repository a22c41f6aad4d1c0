"""What a transfer rule is, and the face of the packed region that rules build into."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from raggedrt.errors import RaggedRTError
from raggedrt.graph_passes.axes.atoms import Axes, Kind

if typing.TYPE_CHECKING:
    from raggedrt.graph_passes.axes.analysis import AxisAnalysis


class PackingRefused(RaggedRTError):  # noqa: N818 - a refusal is a result, reported; not a failure
    """A node cannot run on packed tokens; carries the node's name and the reason."""

    def __init__(self, node: ir.Node | str, reason: str) -> None:
        self.node = node if isinstance(node, str) else describe_node(node)
        self.reason = reason
        super().__init__(f"{self.node}: {reason}")


def describe_node(node: ir.Node) -> str:
    """A name a user can find in the graph: the node's own, or its op and first output."""
    output = node.outputs[0].name if node.outputs else "?"
    return f"{node.name or output} ({node.op_type})"


class Packed(typing.Protocol):
    """What rules ask of the packed region (`packing/region.py` builds it)."""

    analysis: AxisAnalysis

    def packed(self, value: ir.Value) -> ir.Value:
        """The packed form of a value: no batch axis, tokens in place of slots."""

    def full(self, value: ir.Value) -> ir.Value:
        """The packed form of a value with a row for every token, where it may have one for all of them."""

    def exact(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        """The value as the original graph has it, padded slots included; refuses where that is lost."""

    def aligned(self, value: ir.Value, output: Axes) -> ir.Value:
        """The packed form of an operand that broadcasts (aligned at the end) to the unpacked axes `output`."""

    def emit(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], attributes: Mapping[str, object] | None = None
    ) -> list[ir.Value]:
        """A copy of `node` on other inputs (and with some attributes replaced); outputs get packed types and shapes."""

    def gather(self, node: ir.Node, table: ir.Value, indices: ir.Value) -> ir.Value:
        """`table[indices]` along the first axis, with the packed shape of the node's output."""

    def reshaped(self, node: ir.Node, source: ir.Value, axes: Axes) -> ir.Value:
        """`source` (packed) viewed with the packed form of `axes`."""

    def neighbours(self, node: ir.Node, value: ir.Value, offsets: Iterable[int]) -> ir.Value:
        """`[T, C, K]` of a value [B, C, S], zero at padded slots: what stands `offsets` slots from each token."""

    def shifted(self, node: ir.Node, value: ir.Value, offset: int) -> ir.Value:
        """The packed form of a value, zero at padded slots, moved: what stands `offset` slots from each token."""

    def tokens_last(self, node: ir.Node, form: ir.Value) -> ir.Value:
        """`[T, C, 1]` as the packed form `[C, T]` of the node's output [B, C, S]."""

    def constant(self, values: Sequence[int]) -> ir.Value:
        """An int64 vector."""


class Rule(typing.Protocol):
    """One row: how axes pass through an op, and how it runs on packed tokens."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        """Axes of the outputs; None where they are not understood."""

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        """Build the op on packed tokens.

        Raises:
            PackingRefused: The op mixes tokens, or its form is not covered.
        """


def packed_axis_number(axes: Axes, number: int) -> int:
    """Where axis `number` is once the batch axis is gone."""
    dropped = dropped_axis(axes)
    return number - (dropped is not None and dropped < number)


def dropped_axis(axes: Axes) -> int | None:
    """The axis that packing removes: the one that holds nothing but the batch, beside a token axis elsewhere."""
    for number, axis in enumerate(axes):
        if len(axis) == 1 and axis[0].kind is Kind.BATCH:
            return number
    return None


def packed_axes(axes: Axes) -> Axes:
    """Axes of the packed form: no batch atoms, tokens in place of slots."""
    dropped = dropped_axis(axes)
    kept = (axis for number, axis in enumerate(axes) if number != dropped)
    return tuple(tuple(atom for atom in axis if atom.kind is not Kind.BATCH) for axis in kept)


def require_axes(node: ir.Node | str, axes: Axes | None, what: str = "an operand") -> Axes:
    """The axes, or a refusal that names the node."""
    if axes is None:
        raise PackingRefused(node, f"what the axes of {what} mean is not known")
    return axes


def refuse_mixing(node: ir.Node, axes: Axes, number: int) -> None:
    """Refuse an op that works along the batch or token axis."""
    for atom in axes[number]:
        if atom.kind is not Kind.FEATURE:
            mixed = {Kind.BATCH: "sequences", Kind.TOKEN: "tokens"}[atom.kind]
            raise PackingRefused(node, f"{node.op_type} works along the {atom.kind.value} axis, so it mixes {mixed}")
