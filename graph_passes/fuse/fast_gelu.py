"""Gelu by tanh becomes com.microsoft FastGelu, with the bias before it where that is a whole row.

Exporters write the op (`Gelu(approximate="tanh")`) or its formula, 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
"""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern

_ROOT = math.sqrt(2.0 / math.pi)


class _Float32(pattern.RewriteRuleClassBase):
    """The CPU kernel is fp32 only."""

    def check(self, context, x: ir.Value, **_: object) -> pattern.MatchResult:  # type: ignore[no-untyped-def,override]
        result = pattern.MatchResult()
        return result if x.dtype is ir.DataType.FLOAT else result.fail("the kernel is fp32 only", x)

    def rewrite(self, op: Any, x: ir.Value, **_: object) -> Any:
        return op.FastGelu(x, _domain="com.microsoft")


class TanhGelu(_Float32):
    """The op of opset 20."""

    def pattern(self, op: Any, x: Any) -> Any:  # noqa: D102
        return op.Gelu(x, approximate="tanh")


class TanhFormula(_Float32):
    """The formula, as transformers writes it, or with the halves elsewhere."""

    def __init__(self, name: str, *, half_first: bool) -> None:
        super().__init__(name)
        self._half_first = half_first

    def pattern(self, op: Any, x: Any) -> Any:  # noqa: D102
        inner = op.Mul(op.Add(x, op.Mul(op.Pow(x, 3), 0.044715)), _ROOT)
        sides = op.Add(op.Tanh(inner), 1)
        return op.Mul(op.Mul(x, 0.5), sides) if self._half_first else op.Mul(x, op.Mul(0.5, sides))


class BiasFastGelu(pattern.RewriteRuleClassBase):
    """The bias joins the node."""

    def pattern(self, op: Any, x: Any, bias: Any) -> Any:  # noqa: D102
        return op.FastGelu(op.Add(x, bias), _domain="com.microsoft", _outputs=["result"])

    def check(  # type: ignore[no-untyped-def,override]  # noqa: D102
        self, context, x: ir.Value, bias: ir.Value, result: ir.Value, **_: object
    ) -> pattern.MatchResult:  # type: ignore[name-defined]
        found = pattern.MatchResult()
        node = result.producer()
        if bias.const_value is None or len(bias.const_value.shape) != 1 or x.shape is None or len(x.shape) < 1:
            return found.fail("the bias is no constant vector", bias)
        if x.shape[-1] != bias.const_value.shape[0]:
            return found.fail("the bias is not one number per feature", bias)
        if node is None or len(node.inputs) != 1:
            return found.fail("it has a bias", result)
        return found

    def rewrite(self, op: Any, x: ir.Value, bias: ir.Value, **_: object) -> Any:  # noqa: D102
        return op.FastGelu(x, bias, _domain="com.microsoft")


_MADE = [
    TanhGelu.rule("TanhGelu"),  # type: ignore[no-untyped-call]
    *(
        rule
        for first in (True, False)
        for rule in TanhFormula.rule(f"TanhFormula{first}", half_first=first).commute()  # type: ignore[no-untyped-call]
    ),
]
RULES = pattern.RewriteRuleSet(
    [*_MADE, *BiasFastGelu.rule("BiasFastGelu").commute()]  # type: ignore[no-untyped-call]
)
