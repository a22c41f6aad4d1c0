"""Attention spelled in MatMul and Softmax: eager PyTorch, decomposed SDPA, TorchScript.

From the Softmax the walk goes back through scale and mask to the query-key product, and forward to the product with the
values. Forms are those of exported graphs: `Softmax(Add(Mul(MatMul(q, k^T), scale), mask))`, a scale split over both
operands, Div for Mul, Where for Add, and the guards of `guards.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import Axes, Kind, axis_size, has
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.sites.by_shape import site_by_shape
from raggedrt.graph_passes.sites.guards import is_guard, only_looks
from raggedrt.graph_passes.sites.lost import other_rows
from raggedrt.graph_passes.sites.mask_terms import scalar, split_terms
from raggedrt.graph_passes.sites.merged import disentangled, only_regroups, unmerged
from raggedrt.graph_passes.sites.repeats import unrepeated
from raggedrt.graph_passes.sites.scores import MAX_DEPTH, PASS_THROUGH, Scores, step_back
from raggedrt.graph_passes.sites.sinks import drops_last_column, joined_sink, without_largest
from raggedrt.graph_passes.sites.site import (
    BNSH,
    MERGED,
    AttentionSite,
    DisentangledTerm,
    HeadLayout,
    MaskTerm,
    NotThisForm,
    Operand,
    require_batch_first,
    static_size,
)

_QUANTISED = ("QuantizeLinear", "DequantizeLinear")
IN_FLOATS = "quantise without the products of attention (nodes_to_exclude)"
EAGER, SDPA = "MatMul-Softmax-MatMul", "decomposed scaled_dot_product_attention"


def weights_product(softmax: ir.Node) -> tuple[ir.Node, bool, ir.Node | None] | None:
    """The MatMul or Einsum that multiplies values by the softmax's weights, and what lies between.

    That is, whether there is a NaN guard, and the Slice that cuts a sink off.

    None where there is none: then the Softmax is no attention.

    Raises:
        NotThisForm: The weights are used for something else as well, or pass through an op in between.
    """
    current, guarded = softmax.outputs[0], False
    cut: ir.Node | None = None
    for _ in range(MAX_DEPTH):
        users = [usage for usage in current.uses() if not only_looks(usage.node)]
        products = [u for u in users if u.node.op_type in ("MatMul", "Einsum") and u.idx == 0]
        if products and _is_constant(products[0].node.inputs[1]):
            return None  # a mixture of constant rows (a router's choice), not of values
        if products:
            if len(users) > 1 or current.is_graph_output():
                raise NotThisForm(EAGER, "the attention weights are used for something else as well")
            return products[0].node, guarded, cut
        if len(users) != 1 or current.is_graph_output():
            _refuse_detour(users)
            return None
        node = users[0].node
        if is_guard(node, current, softmax):
            guarded = True
        elif node.op_type == "Slice" and cut is None:
            cut = node
        elif node.op_type not in (*PASS_THROUGH, "Reshape"):  # what a Reshape does is checked when axes are known
            _refuse_detour(users)
            return None
        current = node.outputs[0]
    return None


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


def _refuse_detour(users: Sequence[Any]) -> None:
    """No plain product follows; where one is reached by a detour, the form is not known."""
    detour = next((usage.node for usage in users if _reaches_product(usage.node)), None)
    if detour is not None:
        advice = f", which fused attention has no place for; {IN_FLOATS}" if detour.op_type in _QUANTISED else ""
        raise NotThisForm(EAGER, f"the attention weights pass through {detour.op_type}{advice}")


def _reaches_product(node: ir.Node, depth: int = 6) -> bool:
    """Whether a product with values follows shortly (the same question an outside observer would ask)."""
    if depth == 0 or not node.outputs:
        return False
    between = (*PASS_THROUGH, "Where", "Slice", "Reshape", "Mul", "Squeeze", "Unsqueeze", *_QUANTISED)
    if node.op_type not in between:
        return False
    return any(
        (u.node.op_type in ("MatMul", "Einsum") and u.idx == 0) or _reaches_product(u.node, depth - 1)
        for u in node.outputs[0].uses()
    )


def match(softmax: ir.Node, analysis: AxisAnalysis) -> AttentionSite | None:
    """Read the attention around a Softmax; None where it is not attention.

    Raises:
        NotThisForm: It is attention in a form that is not known.
    """
    found = weights_product(softmax)
    if found is None:
        return None
    product, guarded, cut = found
    form = SDPA if guarded else EAGER
    axes = analysis.axes_of(softmax.inputs[0])
    default_axis = -1 if (softmax.version or _opset(softmax)) >= 13 else 1
    axis = int_attribute(softmax, "axis", default_axis)
    if product.op_type != "MatMul":
        raise NotThisForm(form, "values are gathered by Einsum, not by MatMul")
    if axes is not None and axis not in (-1, len(axes) - 1):
        raise NotThisForm(form, f"Softmax works along axis {axis}, not along the keys")
    scores = Scores()
    source = softmax.inputs[0]
    if source is None:
        return None
    if cut is not None:
        source, scores.sink = _with_sink(source, cut, form, analysis)
    _check_reshapes(softmax, product, analysis, form)
    multiply = _walk_back(source, scores, form, analysis)
    query, key = (_unscaled(value, scores) for value in multiply.inputs[:2])
    if scores.scale == 0.0:
        raise NotThisForm(form, "the scores are multiplied by zero")  # zero would ask the op for its default
    value = product.inputs[1]
    if value is None:
        return None
    operands = query, key, value
    before = list(scores.masks), list(scores.merged)
    try:
        return _site(softmax, form, scores, operands, product.outputs[0], analysis)
    except NotThisForm as miss:
        scores.masks, scores.merged = before
        site = site_by_shape(softmax, form, scores, operands, product.outputs[0], analysis, miss.reason)
        if site is None:
            raise
        return site


def _with_sink(source: ir.Value, cut: ir.Node, form: str, analysis: AxisAnalysis) -> tuple[ir.Value, ir.Value]:
    """The scores in front of the column that `cut` drops again, and the value in that column."""
    axes = analysis.axes_of(source)
    heads = None if axes is None or len(axes) != 4 else axis_size(axes[1]).static
    if drops_last_column(cut, analysis) and heads is not None:
        node = source.producer()
        while node is not None and (plain := without_largest(node, analysis)) is not None:
            node = plain.producer()
        found = None if node is None else joined_sink(node, heads, analysis)
        if found is not None:
            return found
    raise NotThisForm(form, "the attention weights pass through Slice, and it is no sink that it cuts off")


def _check_reshapes(softmax: ir.Node, product: ir.Node, analysis: AxisAnalysis, form: str) -> None:
    """Between Softmax and product nothing is reshaped but batch and heads into one axis."""
    node = product.inputs[0].producer() if product.inputs[0] is not None else None
    while node is not None and node is not softmax:
        if node.op_type == "Reshape" and not only_regroups(node, analysis):
            raise NotThisForm(form, f"the attention weights pass through Reshape ('{node.outputs[0].name}')")
        value = node.inputs[2] if node.op_type == "Where" else node.inputs[0]
        node = None if value is None else value.producer()


def _opset(node: ir.Node) -> int:
    graph = node.graph
    return 13 if not isinstance(graph, ir.Graph) else graph.opset_imports.get("", 13)


def _walk_back(value: ir.Value, scores: Scores, form: str, analysis: AxisAnalysis) -> ir.Node:
    """Follow the scores back to the product of queries and keys."""
    outer = scores.masks
    for _ in range(MAX_DEPTH):
        node = value.producer()
        if node is None:
            raise NotThisForm(form, "the scores come from outside the graph")
        if node.op_type == "MatMul":
            if scores.masks is not outer:
                scores.masks, scores.merged = outer, scores.masks
            return node
        if node.op_type == "Reshape" and only_regroups(node, analysis) and scores.masks is outer:
            following = node.inputs[0]
            if scores.masks or not _is_merged(value):
                scores.masks, scores.split = [], True
        else:
            following = step_back(node, scores, form)
        if following is None:
            raise NotThisForm(form, f"the scores pass through {node.op_type} ('{node.outputs[0].name}')")
        value = following
    raise NotThisForm(form, "no product of queries and keys within reach of the Softmax")


def _is_merged(scores: ir.Value) -> bool:
    """Whether batch and heads share an axis."""
    return scores.shape is not None and len(scores.shape) == 3


def _unscaled(value: ir.Value | None, scores: Scores) -> ir.Value:
    """Move scalar factors on an operand into the scale."""
    if value is None:
        raise NotThisForm(EAGER, "an operand of the query-key product is missing")
    while (node := value.producer()) is not None and node.op_type in ("Mul", "Div", *PASS_THROUGH[1:]):
        if node.op_type in PASS_THROUGH and node.inputs[0] is not None:
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
    scores: Scores,
    operands: tuple[ir.Value, ir.Value, ir.Value],
    output: ir.Value,
    analysis: AxisAnalysis,
) -> AttentionSite:
    query, key, value = operands
    query_axes, key_axes, value_axes = (analysis.axes_of(v) for v in operands)
    if query_axes is None or key_axes is None or value_axes is None:
        raise NotThisForm(form, "what the axes of query, key or value mean is not known")
    layouts = _layouts(form, query_axes, key_axes, value_axes)
    require_batch_first(form, query_axes, key_axes, value_axes)
    heads = _features(query_axes, layouts[0].heads[0], form, "number of heads")
    head_size = static_size(query_axes, layouts[0].feature, form, "head size")
    value_size = static_size(value_axes, layouts[2].feature, form, "value head size")
    key_operand, key_heads = unrepeated(Operand(key, layouts[1]), analysis)
    value_operand, value_heads = unrepeated(Operand(value, layouts[2]), analysis)
    if key_heads != value_heads or layouts[0] == MERGED:
        key_operand, value_operand = Operand(key, layouts[1]), Operand(value, layouts[2])
        key_heads = _features(key_axes, layouts[1].heads[0], form, "number of key heads")
    if layouts[0] == MERGED and not scores.split:
        scores.masks, scores.merged = [], scores.masks
    masks, terms = _merged_terms(scores, query, key, analysis, form)
    if layouts[0] == BNSH and scores.merged:
        raise NotThisForm(form, "scores are reshaped, but query and key are not")
    return AttentionSite(
        anchor=softmax,
        form=form,
        query=Operand(query, layouts[0]),
        key=key_operand,
        value=value_operand,
        output=output,
        output_layout=layouts[2],
        num_heads=heads,
        kv_num_heads=key_heads,
        head_size=head_size,
        value_head_size=value_size,
        scale=scores.scale,
        softcap=scores.softcap,
        masks=split_terms(scores.masks + masks),
        disentangled=terms,
        sink=scores.sink,
    )


def _layouts(form: str, query: Axes, key: Axes, value: Axes) -> tuple[HeadLayout, HeadLayout, HeadLayout]:
    """Layouts of query, transposed key and value: four axes, or three with batch and heads merged."""
    ranks = {len(axes) for axes in (query, key, value)}
    if ranks == {4}:
        layouts = (BNSH, HeadLayout((1,), 2), BNSH)
    elif ranks == {3} and all(len(axes[0]) > 1 for axes in (query, key, value)):
        layouts = (MERGED, HeadLayout((0,), 1), MERGED)
    else:
        found = ", ".join(str(len(axes)) for axes in (query, key, value))
        raise NotThisForm(form, f"query, key and value have ranks {found}, not 4 (or 3 with batch and heads merged)")
    rank = ranks.pop()
    slots = (rank - 2, rank - 1, rank - 2)
    rows = [axes[slot] for axes, slot in zip((query, key, value), slots, strict=True)]
    if (reason := other_rows(*rows)) is not None:
        raise NotThisForm(form, reason)
    for axes, layout, slot in zip((query, key, value), layouts, slots, strict=True):
        if not has((axes[slot],), Kind.TOKEN):
            raise NotThisForm(form, "query, key and value are not laid out as [batch, heads, slots, head size]")
        if has((axes[layout.heads[0]], axes[layout.feature]), Kind.TOKEN):
            raise NotThisForm(form, "heads or features of query, key or value hold slots")
    return layouts


def _features(axes: Axes, number: int, form: str, what: str) -> int:
    """The length of an axis without its batch atom."""
    axis = tuple(atom for atom in axes[number] if atom.kind is Kind.FEATURE)
    return static_size((axis,), 0, form, what)


def _merged_terms(
    scores: Scores, query: ir.Value, key: ir.Value, analysis: AxisAnalysis, form: str
) -> tuple[list[MaskTerm], list[DisentangledTerm]]:
    """What is added where batch and heads share an axis: position terms, or masks merged like the scores."""
    masks, terms = [], []
    for term in split_terms(scores.merged):
        position_term, mask = disentangled(term, query, key, analysis), unmerged(term, analysis)
        if position_term is not None:
            terms.append(position_term)
        elif mask is not None:
            masks.append(mask)
        else:
            raise NotThisForm(form, f"'{term.value.name}' is added to scores whose batch and head axes are merged")
    return masks, terms
