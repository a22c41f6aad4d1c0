"""UnpackTokens: scatter packed tokens back to padded slots, zero elsewhere."""

from __future__ import annotations

from raggedrt.plugins.contract.op_definition import DATA, INT32, OpDefinition, TensorSpec

OP = OpDefinition(
    name="UnpackTokens",
    doc="""x[token_index[t] // S, token_index[t] % S] = packed[t]; every other slot is zero.

Of `like` only the shape [B, S] is read. Where `key_position` is given and negative, the slot stays zero
(a slot that was kept for another reader is padding in this output); a plan with `capacity` needs it, as the rows past
`cu_seqlens[B]` name slot 0. Rows with a negative token_index are dropped.""",
    inputs=(
        TensorSpec("packed", "T", DATA, ("T", "...")),
        TensorSpec("token_index", "I", INT32, ("T",)),
        TensorSpec("like", "L", DATA, ("B", "S")),
        TensorSpec("key_position", "I", INT32, ("T",), optional=True),
    ),
    outputs=(TensorSpec("x", "T", DATA, ("B", "S", "...")),),
)
