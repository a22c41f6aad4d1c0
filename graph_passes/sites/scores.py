"""What the walk from a Softmax back to the query-key product collects, and its steps."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from raggedrt.graph_passes.masks.inputs import Polarity
from raggedrt.graph_passes.sites.mask_terms import hidden_by_where, scalar
from raggedrt.graph_passes.sites.site import MaskTerm, NotThisForm

PASS_THROUGH = ("Cast", "Identity", "Dropout")
_SCORE_OPS = (
    *PASS_THROUGH,
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Where",
    "Tanh",
    "Reshape",
    "Max",
    "Clip",
    "Concat",
    "Transpose",
)
MAX_DEPTH = 12
SMALLEST_FACTOR = 1 / 32
"""Least factor on masked scores: the scale of heads of size 1024, with which -10000 still hides."""
LOWEST, LOWEST_FLOAT16 = -1e30, -65504.0
"""No score of a visible key is lower."""


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


def leads_to_product(value: ir.Value | None, depth: int = MAX_DEPTH) -> bool:
    """Whether scores, rather than a mask, are on the way back from a value."""
    node = None if value is None else value.producer()
    if node is None or depth == 0:
        return False
    if node.op_type == "MatMul":
        return node.inputs[0] is not None and all(v is not None and v.const_value is None for v in node.inputs)
    return node.op_type in _SCORE_OPS and any(leads_to_product(v, depth - 1) for v in node.inputs)


def step_back(node: ir.Node, scores: Scores, form: str) -> ir.Value | None:
    """The scores before `node`, which `scores` takes note of; None where it is not understood.

    Raises:
        NotThisForm: What follows the mask may undo it.
    """
    first, second = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    if node.op_type in PASS_THROUGH:
        return first
    if node.op_type == "Div" and (divisor := scalar(second)):
        scores.scale /= divisor
        return first
    if node.op_type == "Mul":
        for factor, other in ((first, second), (second, first)):
            number = scalar(factor)
            if number is not None:
                scores.scale *= number
                return other
    if node.op_type == "Add" and not scores.softcap:  # what is added before the cap is no mask
        for term, other in ((second, first), (first, second)):
            if term is not None and leads_to_product(other) and not (leads_to_product(term) and term is second):
                _require_hiding(scores.scale, form)
                scores.masks.append(MaskTerm(term, Polarity.ADDITIVE, factor=scores.scale))
                return other
    if node.op_type == "Where" and not scores.softcap:
        return _step_where(node, scores, form)
    if node.op_type == "Tanh":
        return _step_tanh(node, scores)
    if node.op_type in ("Max", "Clip") and not scores.softcap:
        return _step_floor(node, scores, form)
    return None


def _step_floor(node: ir.Node, scores: Scores, form: str) -> ir.Value | None:
    """`Max(s, lowest)`, as older exports keep masked scores finite."""
    operands = [value for value in node.inputs if value is not None]
    _require_hiding(scores.scale, form)
    if node.op_type == "Clip" and (len(node.inputs) < 2 or node.inputs[1] is None):  # an upper bound alone
        return None
    return next((a for a, b in (operands, operands[::-1]) if _is_floor(b)), None) if len(operands) == 2 else None


def _is_floor(value: ir.Value | None) -> bool:
    """A bound that only hidden scores fall below: they stay hidden, and those of visible keys are above it."""
    number = scalar(value)
    if number is None or value is None:
        return False
    return number <= (LOWEST_FLOAT16 if value.dtype == ir.DataType.FLOAT16 else LOWEST)


def _require_hiding(factor: float, form: str) -> None:
    """Scores multiplied after masking show hidden keys again where the factor is small (or negative)."""
    if factor < SMALLEST_FACTOR:
        raise NotThisForm(form, f"the scores are multiplied by {factor:g} after the mask, which may undo it")


def _step_where(node: ir.Node, scores: Scores, form: str) -> ir.Value | None:
    found = hidden_by_where(node)
    if found is None:
        return None
    _require_hiding(scores.scale, form)
    scores.masks.append(found[0])
    return found[1]


def _step_tanh(node: ir.Node, scores: Scores) -> ir.Value | None:
    """`c * tanh(s / c)`: what was met so far is c, what follows is 1 / c and the scale."""
    if scores.softcap or scores.scale <= 0.0:
        return None
    scores.softcap, scores.scale = scores.scale, scores.scale
    return node.inputs[0]
