"""residual + x (+ bias) -> LayerNormalization becomes com.microsoft SkipLayerNormalization, of any rank ORT takes.

    LayerNormalization(Add(Add(x, bias), skip), gamma, beta)  ->  SkipLayerNormalization(x, skip, gamma, beta, bias)

onnxscript's own rule asks for [batch, sequence, hidden]; packed tokens are [tokens, hidden].
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter import pattern

RANKS = (2, 3)
"""Ranks that the ORT kernel takes."""


def _shape(value: ir.Value) -> tuple[int | str | None, ...] | None:
    if value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


class SkipLayerNormalizationFusion(pattern.RewriteRuleClassBase):
    """One rule; `bias` says whether a bias is added to x first."""

    def __init__(self, name: str, *, bias: bool, skip_first: bool) -> None:
        super().__init__(name)
        self._bias = bias
        self._skip_first = skip_first

    def pattern(self, op, x, skip, gamma, beta, bias):  # type: ignore[no-untyped-def]  # noqa: D102
        value = op.Add(x, bias) if self._bias else x
        total = op.Add(skip, value) if self._skip_first else op.Add(value, skip)
        normalized = op.LayerNormalization(total, gamma, beta, _allow_other_attributes=True, _outputs=["normalized"])
        return normalized, total

    def check(  # type: ignore[no-untyped-def,override]  # noqa: D102
        self,
        context,
        x: ir.Value,
        skip: ir.Value,
        gamma: ir.Value,
        beta: ir.Value,
        bias: ir.Value | None,
        normalized: ir.Value,
        **_: object,
    ) -> pattern.MatchResult:  # type: ignore[name-defined]
        result = pattern.MatchResult()
        shape = _shape(x)
        if x.dtype is not ir.DataType.FLOAT:
            return result.fail("the ORT CPU kernel is fp32 only", x)
        if shape is None or len(shape) not in RANKS or None in shape or shape != _shape(skip):
            return result.fail("x and skip are not two tensors [tokens, hidden] of one shape", x)
        # An axis of one is allowed by broadcasting, not by the kernel.
        if any(vector is not None and _shape(vector) != shape[-1:] for vector in (gamma, beta, bias)):
            return result.fail("gamma, beta or bias is not a vector of the hidden size", gamma)
        # One that is computed may be computed from the sum, which the fused node gives.
        if any(vector is not None and vector.producer() is not None for vector in (gamma, beta, bias)):
            return result.fail("gamma, beta or bias is computed", gamma)
        node = normalized.producer()
        if node is None or node.attributes.get_int("axis", -1) not in (-1, len(shape) - 1):
            return result.fail("normalises more than the last axis", normalized)
        return result

    def rewrite(  # type: ignore[no-untyped-def]  # noqa: D102
        self,
        op,
        x: ir.Value,
        skip: ir.Value,
        gamma: ir.Value,
        beta: ir.Value,
        bias: ir.Value | None,
        normalized: ir.Value,
        **_: object,
    ):
        node = normalized.producer()
        epsilon = node.attributes.get_float("epsilon", 1e-5) if node is not None else 1e-5
        operands = [x, skip, gamma, beta] + ([bias] if self._bias else [])
        output, _mean, _deviation, total = op.SkipLayerNormalization(
            *operands, epsilon=epsilon, _outputs=4, _domain="com.microsoft"
        )
        return output, total


RULES = pattern.RewriteRuleSet(
    [
        SkipLayerNormalizationFusion.rule(  # type: ignore[no-untyped-call]
            f"SkipLayerNormalization{suffix}", bias=bias, skip_first=first
        )
        for bias, suffix in ((True, "Bias"), (False, ""))
        for first in (False, True)
    ]
)
