"""Where padded slots lie among the packed tokens, as standard ops (part of RaggedAttention's body)."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from raggedrt.plugins.body_builder import BodyBuilder

_INT64 = ir.DataType.INT64


@dataclasses.dataclass(frozen=True)
class Slots:
    """Padded slots of the queries (`"q"`) or the keys (`"k"`)."""

    side: str
    batch: ir.Value
    """int64 [1]: B."""
    width: ir.Value
    """int64 [1]: M."""
    count: ir.Value
    """int64 [1]: B * M."""
    tokens: ir.Value
    """int64 [1]: T."""
    lengths: ir.Value
    """int64 [B]."""
    slot: ir.Value
    """int64 [M]: 0, 1, … M - 1."""
    used: ir.Value
    """bool [B, M]: the slot lies within its sequence."""
    token: ir.Value
    """int64 [B, M]: packed row of the slot; of an unused one, T (`zero_row`) or another row of the same sequence."""
    zero_row: bool
    """Row T exists and is zero. Needed where a side may have no token at all while the other one has."""

    def slot_of_token(self, b: BodyBuilder) -> ir.Value:
        """The padded slot row * M + i of each token: int64 [T]; B * M for a token of no sequence."""
        target = b.op("Where", self.used, self.token, self.tokens)
        nowhere = b.op("Expand", self.count, b.op("Add", self.tokens, b.constant([1])))  # [T + 1]
        slots = b.op("ScatterElements", nowhere, b.reshape(target, self.count), b.range(self.count), axis=0)
        return b.slice(slots, 0, self.tokens)


def slots_of(b: BodyBuilder, side: str) -> Slots:
    """The slots of one side of the node."""
    cu_seqlens = b.cast(b.input(f"cu_seqlens_{side}"), _INT64)  # [B + 1]
    batch = b.op("Sub", b.dim(cu_seqlens, 0), b.constant([1]))
    starts = b.slice(cu_seqlens, 0, batch)  # [B]
    lengths = b.op("Sub", b.slice(cu_seqlens, 1, b.dim(cu_seqlens, 0)), starts)
    tokens = b.dim(b.input("query" if side == "q" else "key"), 0)
    carrier = b.dim(b.input(f"max_seqlen_{side}"), 0)
    width = carrier if b.form.cross else b.op("Min", carrier, tokens)  # without tokens there are no slots to fill
    slot = b.range(width)  # [M]
    used = b.op("Less", slot, b.unsqueeze(lengths, 1))  # [B, M]
    token = b.op("Add", slot, b.unsqueeze(starts, 1))
    if b.form.cross:
        token = b.op("Where", used, token, tokens)
    else:
        last = b.op("Sub", b.op("Add", starts, lengths), b.constant(1))  # [B]; an empty row may read any token
        token = b.op("Max", b.op("Min", token, b.unsqueeze(last, 1)), b.constant(0))
    count = b.product(batch, width)
    return Slots(side, batch, width, count, tokens, lengths, slot, used, token, zero_row=b.form.cross)
