"""Gelu(x + bias) becomes com.microsoft BiasGelu where the bias is a whole row.

onnxscript's rule takes any vector; the kernel refuses a bias of one number when it runs.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter import pattern
from onnxscript.rewriter.ort_fusions.bias_gelu import BiasGeluFusion


class RowBiasGeluFusion(BiasGeluFusion):
    """onnxscript's fusion, checked for the length of the bias."""

    def check(  # type: ignore[no-untyped-def]  # noqa: D102
        self,
        op,
        gelu: ir.Value,
        input: ir.Value,  # noqa: A002 - the pattern's name
        bias: ir.Value,
        **_: object,
    ) -> pattern.MatchResult:
        result: pattern.MatchResult = super().check(op, gelu, input, bias)
        if not result:
            return result
        if input.shape is None or bias.shape is None or len(input.shape) < 1 or input.shape[-1] != bias.shape[0]:
            return result.fail("the bias is not one number per feature", bias)
        return result


RULES = pattern.RewriteRuleSet(
    [
        rule
        for name, contrib in (("gelu_onnx_op", False), ("gelu_contrib_op", True))
        for rule in RowBiasGeluFusion.rule(name, contrib_op=contrib).commute()  # type: ignore[no-untyped-call]
    ]
)
