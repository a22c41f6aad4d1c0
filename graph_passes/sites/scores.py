"""What the walk from a Softmax back to the query-key product collects."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from raggedrt.graph_passes.sites.site import MaskTerm


@dataclasses.dataclass
class Scores:
    """Scale, cap and terms of the scores, as far as they were met.

    Attributes:
        scale: factor on the product.
        softcap: see `AttentionSite`.
        masks: terms added where scores are [batch, heads, queries, keys], or as they come.
        merged: terms added where batch and heads share an axis.
        sink: a logit per head that only the denominator counts.
        split: the walk has come from scores [B, N, ...] to scores [B*N, ...].
    """

    scale: float = 1.0
    softcap: float = 0.0
    masks: list[MaskTerm] = dataclasses.field(default_factory=list)
    merged: list[MaskTerm] = dataclasses.field(default_factory=list)
    sink: ir.Value | None = None
    split: bool = False
