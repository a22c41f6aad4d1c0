"""All ops, as one explicit tuple."""

from __future__ import annotations

from raggedrt.plugins.contract.op_definition import OpDefinition
from raggedrt.plugins.ops.attention_plan.definition import OP as ATTENTION_PLAN
from raggedrt.plugins.ops.block_mask.definition import OP as BLOCK_MASK
from raggedrt.plugins.ops.merge_attention_states.definition import OP as MERGE_ATTENTION_STATES
from raggedrt.plugins.ops.pack_tokens.definition import OP as PACK_TOKENS
from raggedrt.plugins.ops.packing_plan.definition import OP as PACKING_PLAN
from raggedrt.plugins.ops.ragged_attention.definition import OP as RAGGED_ATTENTION
from raggedrt.plugins.ops.unpack_tokens.definition import OP as UNPACK_TOKENS

OPS: tuple[OpDefinition, ...] = (
    PACKING_PLAN,
    PACK_TOKENS,
    UNPACK_TOKENS,
    RAGGED_ATTENTION,
    BLOCK_MASK,
    MERGE_ATTENTION_STATES,
    ATTENTION_PLAN,
)
BY_NAME = {op.name: op for op in OPS}
