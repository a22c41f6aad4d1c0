"""What the operands of `RaggedAttention` are built in: packed tokens, or a padded batch as it is."""

from __future__ import annotations

import typing
from collections.abc import Hashable

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.packing.tape import Tape


class Lengths(typing.Protocol):
    """How long sequences are."""

    @property
    def max_seqlen(self) -> ir.Value:
        """A vector of the padded length."""

    @property
    def own_cu_seqlens(self) -> ir.Value:
        """Int32 [B+1]: ends of the rows' own tokens."""


class AttentionHost(typing.Protocol):
    """See the module."""

    tape: Tape
    analysis: AxisAnalysis
    tiles: dict[Hashable, dict[str, ir.Value]]
    """Tile tensors by form, shared by all sites with that mask."""

    @property
    def plan(self) -> Lengths:
        """How long sequences are."""

    def exact(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        """The value as the original graph has it."""
