"""Attention spelled in MatMul and Softmax: eager PyTorch, decomposed SDPA, TorchScript.

From the Softmax the walk goes back through scale and mask to the query-key product, and forward to the product with the
values. Forms are those of exported graphs: `Softmax(Add(Mul(MatMul(q, k^T), scale), mask))`, a scale split over both
operands, Div for Mul, Where for Add, and the guard `Where(IsNaN(p), 0, p)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import Kind, axis_size, has
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.masks.inputs import Polarity
from raggedrt.graph_passes.sites.mask_terms import hidden_by_where, scalar, split_terms
from raggedrt.graph_passes.sites.repeats import unrepeated
from raggedrt.graph_passes.sites.site import (
    BNSH,
    AttentionSite,
    HeadLayout,
    MaskTerm,
    NotThisForm,
    Operand,
    require_batch_first,
    static_size,
)

_PASS_THROUGH = ("Cast", "Identity", "Dropout")
_SCORE_OPS = (
    *_PASS_THROUGH,
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
_MAX_DEPTH = 12
SMALLEST_FACTOR = 1 / 32
"""Least factor on masked scores: the scale of heads of size 1024, with which -10000 still hides."""
EAGER, SDPA = "MatMul-Softmax-MatMul", "decomposed scaled_dot_product_attention"


def weights_product(softmax: ir.Node) -> tuple[ir.Node, bool] | None:
    """The MatMul or Einsum that multiplies values by the softmax's weights, and whether a NaN guard lies between.

    None where there is none: then the Softmax is no attention.

    Raises:
        NotThisForm: The weights are used for something else as well, or pass through an op in between.
    """
    current, guarded = softmax.outputs[0], False
    for _ in range(_MAX_DEPTH):
        users = [usage for usage in current.uses() if usage.node.op_type != "IsNaN"]
        products = [u for u in users if u.node.op_type in ("MatMul", "Einsum") and u.idx == 0]
        if products:
            if len(users) > 1 or current.is_graph_output():
                raise NotThisForm(EAGER, "the attention weights are used for something else as well")
            return products[0].node, guarded
        if len(users) != 1 or current.is_graph_output():
            _refuse_detour(users)
            return None
        node = users[0].node
        if node.op_type == "Where" and _is_nan_guard(node, current):
            guarded = True
        elif node.op_type not in _PASS_THROUGH:
            _refuse_detour(users)
            return None
        current = node.outputs[0]
    return None


def _refuse_detour(users: Sequence[Any]) -> None:
    """No plain product follows; where one is reached by a detour, the form is not known."""
    detour = next((usage.node for usage in users if _reaches_product(usage.node)), None)
    if detour is not None:
        raise NotThisForm(EAGER, f"the attention weights pass through {detour.op_type}")


def _is_nan_guard(where: ir.Node, weights: ir.Value) -> bool:
    condition = where.inputs[0]
    test = None if condition is None else condition.producer()
    tests_weights = test is not None and test.op_type == "IsNaN" and test.inputs[0] is weights
    return tests_weights and scalar(where.inputs[1]) == 0.0 and where.inputs[2] is weights


def _reaches_product(node: ir.Node, depth: int = 4) -> bool:
    """Whether a product with values follows shortly (the same question an outside observer would ask)."""
    if depth == 0 or not node.outputs:
        return False
    between = (*_PASS_THROUGH, "Where", "Slice", "Reshape", "Mul", "Squeeze", "Unsqueeze")
    if node.op_type not in between:
        return False
    return any(
        (u.node.op_type in ("MatMul", "Einsum") and u.idx == 0) or _reaches_product(u.node, depth - 1)
        for u in node.outputs[0].uses()
    )


@dataclasses.dataclass
class _Scores:
    """What the walk from Softmax back to the query-key product collects."""

    scale: float = 1.0
    softcap: float = 0.0
    masks: list[MaskTerm] = dataclasses.field(default_factory=list)
    unsupported: list[str] = dataclasses.field(default_factory=list)


def match(softmax: ir.Node, analysis: AxisAnalysis) -> AttentionSite | None:
    """Read the attention around a Softmax; None where it is not attention.

    Raises:
        NotThisForm: It is attention in a form that is not known.
    """
    found = weights_product(softmax)
    if found is None:
        return None
    product, guarded = found
    form = SDPA if guarded else EAGER
    axes = analysis.axes_of(softmax.inputs[0])
    default_axis = -1 if (softmax.version or _opset(softmax)) >= 13 else 1
    axis = int_attribute(softmax, "axis", default_axis)
    if product.op_type != "MatMul":
        raise NotThisForm(form, "values are gathered by Einsum, not by MatMul")
    if axes is not None and axis not in (-1, len(axes) - 1):
        raise NotThisForm(form, f"Softmax works along axis {axis}, not along the keys")
    scores = _Scores()
    source = softmax.inputs[0]
    if source is None:
        return None
    multiply = _walk_back(source, scores, form)
    query, key = (_unscaled(value, scores) for value in multiply.inputs[:2])
    if scores.scale == 0.0:
        raise NotThisForm(form, "the scores are multiplied by zero")  # zero would ask the op for its default
    value = product.inputs[1]
    if value is None:
        return None
    return _site(softmax, form, scores, (query, key, value), product.outputs[0], analysis)


def _opset(node: ir.Node) -> int:
    graph = node.graph
    return 13 if not isinstance(graph, ir.Graph) else graph.opset_imports.get("", 13)


def _leads_to_product(value: ir.Value | None, depth: int = _MAX_DEPTH) -> bool:
    node = None if value is None else value.producer()
    if node is None or depth == 0:
        return False
    if node.op_type == "MatMul":
        return node.inputs[0] is not None and all(v is not None and v.const_value is None for v in node.inputs)
    return node.op_type in _SCORE_OPS and any(_leads_to_product(v, depth - 1) for v in node.inputs)


def _walk_back(value: ir.Value, scores: _Scores, form: str) -> ir.Node:
    """Follow the scores back to the product of queries and keys."""
    for _ in range(_MAX_DEPTH):
        node = value.producer()
        if node is None:
            raise NotThisForm(form, "the scores come from outside the graph")
        if node.op_type == "MatMul":
            return node
        following = _step(node, scores, form)
        if following is None:
            raise NotThisForm(form, f"the scores pass through {node.op_type} ('{node.outputs[0].name}')")
        value = following
    raise NotThisForm(form, "no product of queries and keys within reach of the Softmax")


def _step(node: ir.Node, scores: _Scores, form: str) -> ir.Value | None:
    first, second = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    if node.op_type in _PASS_THROUGH:
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
            if term is not None and _leads_to_product(other) and not (_leads_to_product(term) and term is second):
                _require_hiding(scores.scale, form)
                scores.masks.append(MaskTerm(term, Polarity.ADDITIVE, factor=scores.scale))
                return other
    if node.op_type == "Where" and not scores.softcap:
        return _step_where(node, scores, form)
    if node.op_type == "Tanh":
        return _step_tanh(node, scores)
    return None


def _require_hiding(factor: float, form: str) -> None:
    """Scores multiplied after masking show hidden keys again where the factor is small (or negative)."""
    if factor < SMALLEST_FACTOR:
        raise NotThisForm(form, f"the scores are multiplied by {factor:g} after the mask, which may undo it")


def _step_where(node: ir.Node, scores: _Scores, form: str) -> ir.Value | None:
    found = hidden_by_where(node)
    if found is None:
        return None
    _require_hiding(scores.scale, form)
    scores.masks.append(found[0])
    return found[1]


def _step_tanh(node: ir.Node, scores: _Scores) -> ir.Value | None:
    """`c * tanh(s / c)`: what was met so far is c, what follows is 1 / c and the scale."""
    if scores.softcap or scores.scale <= 0.0:
        return None
    scores.softcap, scores.scale = scores.scale, scores.scale
    return node.inputs[0]


def _unscaled(value: ir.Value | None, scores: _Scores) -> ir.Value:
    """Move scalar factors on an operand into the scale."""
    if value is None:
        raise NotThisForm(EAGER, "an operand of the query-key product is missing")
    while (node := value.producer()) is not None and node.op_type in ("Mul", "Div", *_PASS_THROUGH[1:]):
        if node.op_type in _PASS_THROUGH and node.inputs[0] is not None:
            value = node.inputs[0]
            continue
        pairs = [(node.inputs[1], node.inputs[0])]
        if node.op_type == "Mul":
            pairs.append((node.inputs[0], node.inputs[1]))
        chosen = next(((scalar(f), rest) for f, rest in pairs if scalar(f) is not None), None)
        if chosen is None or chosen[0] is None or chosen[1] is None or chosen[0] == 0.0:
            break
        scores.scale *= chosen[0] if node.op_type == "Mul" else 1.0 / chosen[0]
        value = chosen[1]
    return value


def _site(
    softmax: ir.Node,
    form: str,
    scores: _Scores,
    operands: tuple[ir.Value, ir.Value, ir.Value],
    output: ir.Value,
    analysis: AxisAnalysis,
) -> AttentionSite:
    query, key, value = operands
    query_axes, key_axes, value_axes = (analysis.axes_of(v) for v in operands)
    if query_axes is None or key_axes is None or value_axes is None:
        raise NotThisForm(form, "what the axes of query, key or value mean is not known")
    if not len(query_axes) == len(key_axes) == len(value_axes) == 4:
        raise NotThisForm(
            form, f"query, key and value have ranks {len(query_axes)}, {len(key_axes)}, {len(value_axes)}, not 4"
        )
    expected = ((query_axes, 2), (key_axes, 3), (value_axes, 2))
    if not all(has((axes[number],), Kind.TOKEN) for axes, number in expected):
        raise NotThisForm(form, "query, key and value are not laid out as [batch, heads, slots, head size]")
    if any(has((axes[1], axes[-1 if number == 2 else 2]), Kind.TOKEN) for axes, number in expected):
        raise NotThisForm(form, "heads or features of query, key or value hold slots")
    require_batch_first(form, query_axes, key_axes, value_axes)
    heads = static_size(query_axes, 1, form, "number of heads")
    head_size = static_size(query_axes, 3, form, "head size")
    value_size = static_size(value_axes, 3, form, "value head size")
    key_operand, key_heads = unrepeated(Operand(key, HeadLayout((1,), 2)), analysis)
    value_operand, value_heads = unrepeated(Operand(value, BNSH), analysis)
    if key_heads != value_heads:
        key_operand, value_operand = Operand(key, HeadLayout((1,), 2)), Operand(value, BNSH)
        key_heads = axis_size(key_axes[1]).static or heads
    return AttentionSite(
        anchor=softmax,
        form=form,
        query=Operand(query, BNSH),
        key=key_operand,
        value=value_operand,
        output=output,
        output_layout=BNSH,
        num_heads=heads,
        kv_num_heads=key_heads,
        head_size=head_size,
        value_head_size=value_size,
        scale=scores.scale,
        softcap=scores.softcap,
        masks=split_terms(scores.masks),
        unsupported=scores.unsupported,
    )
