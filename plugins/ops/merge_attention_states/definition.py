"""MergeAttentionStates: combine attention over two disjoint key sets into attention over their union."""

from __future__ import annotations

from raggedrt.plugins.contract.op_definition import FLOAT32, FLOATS, OpDefinition, TensorSpec

OP = OpDefinition(
    name="MergeAttentionStates",
    doc="""lse = log(exp(lse1) + exp(lse2)); output = output1 * exp(lse1 - lse) + output2 * exp(lse2 - lse), per head.

Where both lse are -inf (no visible key at all) the output is 0 and lse is -inf.""",
    inputs=(
        TensorSpec("output1", "T", FLOATS, ("T", "N*H")),
        TensorSpec("lse1", "F", FLOAT32, ("N", "T")),
        TensorSpec("output2", "T", FLOATS, ("T", "N*H")),
        TensorSpec("lse2", "F", FLOAT32, ("N", "T")),
    ),
    outputs=(
        TensorSpec("output", "T", FLOATS, ("T", "N*H")),
        TensorSpec("lse", "F", FLOAT32, ("N", "T")),
    ),
)
