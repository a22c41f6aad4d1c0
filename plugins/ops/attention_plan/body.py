"""Function body of AttentionPlan."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from raggedrt.plugins.body_builder import BodyBuilder
from raggedrt.plugins.ops.attention_plan.definition import NOTHING_LISTED


def build(b: BodyBuilder) -> Sequence[ir.Value]:
    """A list of nothing: the body of RaggedAttention needs none."""
    return (b.constant([0] * NOTHING_LISTED, ir.DataType.INT32),)
