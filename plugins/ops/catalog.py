"""Reference and test cases of every op, by name. Not imported where models are converted or run."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from raggedrt.plugins.ops.arrays import Array, Attributes, Inputs
from raggedrt.plugins.ops.attention_plan import cases as attention_plan_cases
from raggedrt.plugins.ops.attention_plan.reference import reference as attention_plan
from raggedrt.plugins.ops.block_mask import cases as block_mask_cases
from raggedrt.plugins.ops.block_mask.reference import reference as block_mask
from raggedrt.plugins.ops.case import Case
from raggedrt.plugins.ops.merge_attention_states import cases as merge_cases
from raggedrt.plugins.ops.merge_attention_states.reference import reference as merge_attention_states
from raggedrt.plugins.ops.pack_tokens import cases as pack_cases
from raggedrt.plugins.ops.pack_tokens.reference import reference as pack_tokens
from raggedrt.plugins.ops.packing_plan import cases as plan_cases
from raggedrt.plugins.ops.packing_plan.reference import reference as packing_plan
from raggedrt.plugins.ops.ragged_attention import cases as attention_cases
from raggedrt.plugins.ops.ragged_attention.reference import reference as ragged_attention
from raggedrt.plugins.ops.unpack_tokens import cases as unpack_cases
from raggedrt.plugins.ops.unpack_tokens.reference import reference as unpack_tokens


class Reference(Protocol):
    """Computes an op's outputs by name."""

    def __call__(
        self, inputs: Inputs, attributes: Attributes, *, compute: npt.DTypeLike = np.float32
    ) -> dict[str, Array]:
        """Outputs by name; arithmetic in `compute`."""


REFERENCES: dict[str, Reference] = {
    "PackingPlan": packing_plan,
    "PackTokens": pack_tokens,
    "UnpackTokens": unpack_tokens,
    "RaggedAttention": ragged_attention,
    "BlockMask": block_mask,
    "MergeAttentionStates": merge_attention_states,
    "AttentionPlan": attention_plan,
}
CASES: dict[str, tuple[Case, ...]] = {
    "PackingPlan": plan_cases.CASES,
    "PackTokens": pack_cases.CASES,
    "UnpackTokens": unpack_cases.CASES,
    "RaggedAttention": attention_cases.CASES,
    "BlockMask": block_mask_cases.CASES,
    "MergeAttentionStates": merge_cases.CASES,
    "AttentionPlan": attention_plan_cases.CASES,
}
