"""PackTokens: gather the kept slots of a padded tensor."""

from __future__ import annotations

from raggedrt.plugins.contract.op_definition import DATA, INT32, OpDefinition, TensorSpec

OP = OpDefinition(
    name="PackTokens",
    doc="""packed[t] = x.reshape(B*S, ...)[token_index[t]]; a negative index gives a row of zeros.""",
    inputs=(
        TensorSpec("x", "T", DATA, ("B", "S", "...")),
        TensorSpec("token_index", "I", INT32, ("T",)),
    ),
    outputs=(TensorSpec("packed", "T", DATA, ("T", "...")),),
)
