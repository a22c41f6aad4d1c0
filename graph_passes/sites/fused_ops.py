"""Attention that is one node: ONNX `Attention` and `com.microsoft` MultiHeadAttention and Attention."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis, infer_node
from raggedrt.graph_passes.axes.atoms import Axes
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.masks.inputs import MaskAxes, Polarity
from raggedrt.graph_passes.sites import torch_op
from raggedrt.graph_passes.sites.caches import cache_reasons, is_used, present_outputs
from raggedrt.graph_passes.sites.group_query import group_query_attention
from raggedrt.graph_passes.sites.lost import other_rows
from raggedrt.graph_passes.sites.mask_terms import split_terms
from raggedrt.graph_passes.sites.repeats import unrepeated
from raggedrt.graph_passes.sites.site import (
    BNSH,
    BSNH_FLAT,
    AttentionSite,
    MaskTerm,
    NotThisForm,
    Operand,
    require_batch_first,
    static_size,
)

_MASK_RANKS = {1: MaskAxes.KEY_LENGTHS, 2: MaskAxes.BATCH_KEYS, 3: MaskAxes.BATCH_QUERIES_KEYS, 4: MaskAxes.BROADCAST}


def _input(node: ir.Node, number: int) -> ir.Value | None:
    return node.inputs[number] if number < len(node.inputs) else None


def _float(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def _refused_inputs(node: ir.Node, names: dict[int, str]) -> list[str]:
    return [
        f"{node.op_type} has the input {name}, which no kernel serves yet"
        for i, name in names.items()
        if _input(node, i)
    ]


def _further_outputs(node: ir.Node, cache: Mapping[ir.Value, ir.Value]) -> list[str]:
    used = [output for output in node.outputs[1:] if output not in cache and is_used(output)]
    return [f"{node.op_type} also yields '{output.name}', which is used" for output in used]


@dataclasses.dataclass(frozen=True)
class _Projections:
    """Query, key and value of a fused op, with their heads."""

    query: Operand
    key: Operand
    value: Operand
    heads: int
    kv_heads: int
    head_size: int
    value_head_size: int


def standard_attention(node: ir.Node, analysis: AxisAnalysis) -> AttentionSite:
    """ONNX `Attention` (opset 23 and later), 4-D or 3-D, with bool or float mask."""
    form = "onnx.Attention"
    operands = [value for value in node.inputs[:3] if value is not None]
    axes = [own for own in (analysis.axes_of(value) for value in operands) if own is not None]
    if len(axes) != 3:
        raise NotThisForm(form, "what the axes of query, key or value mean is not known")
    require_batch_first(form, *axes)
    _require_tokens(form, axes)
    if len(axes[0]) == 4:
        projections = _with_head_axis(form, operands, axes, analysis)
    else:
        heads, kv_heads = int_attribute(node, "q_num_heads", 0), int_attribute(node, "kv_num_heads", 0)
        if not heads or not kv_heads:
            raise NotThisForm(form, "3-D operands need q_num_heads and kv_num_heads")
        sizes = [static_size(own, 2, form, "hidden size") for own in axes]
        query, key, value = (Operand(value, BSNH_FLAT) for value in operands)
        projections = _Projections(query, key, value, heads, kv_heads, sizes[0] // heads, sizes[2] // kv_heads)
    past = {"past_key": _input(node, 4), "past_value": _input(node, 5)}
    mask = _input(node, 3)
    polarity = Polarity.BOOL_KEEP if mask is not None and mask.dtype is ir.DataType.BOOL else Polarity.ADDITIVE
    unsupported = cache_reasons(form, past) + _refused_inputs(node, {6: "nonpad_kv_seqlen"})
    windows = [name for name in ("left_window_size", "right_window_size") if int_attribute(node, name, -1) >= 0]
    unsupported += [f"{form} has {name}" for name in windows]
    return _site(
        node,
        form,
        projections,
        [] if mask is None else [MaskTerm(mask, polarity)],
        unsupported,
        causal=bool(int_attribute(node, "is_causal", 0)),
        cache={} if any(past.values()) else _presents(node, operands[1:], len(axes[0]), projections.kv_heads, analysis),
    )


def _presents(
    node: ir.Node, rows: list[ir.Value], rank: int, heads: int, analysis: AxisAnalysis
) -> dict[ir.Value, ir.Value]:
    """`present_key` and `present_value` where nothing came before: the operands, with an axis for the heads."""
    if rank == 3:
        return present_outputs(node, (1, 2), rows, heads, analysis)
    found = {output: row for output, row in zip(node.outputs[1:3], rows, strict=False) if is_used(output)}
    analysis.axes.update({output: analysis.axes_of(row) for output, row in found.items()})
    return found


def _require_tokens(form: str, axes: list[Axes]) -> None:
    """Refuse keys of other rows: slots come last but one."""
    ranks = {len(own) for own in axes}
    reason = other_rows(*(own[-2] for own in axes)) if len(ranks) == 1 else None
    if reason is not None:
        raise NotThisForm(form, reason)


def _with_head_axis(form: str, operands: list[ir.Value], axes: list[Axes], analysis: AxisAnalysis) -> _Projections:
    """Operands [B, N, S, H], repetition of key/value heads undone."""
    key, kv_heads = unrepeated(Operand(operands[1], BNSH), analysis)
    value, value_heads = unrepeated(Operand(operands[2], BNSH), analysis)
    if kv_heads != value_heads:
        key, value = Operand(operands[1], BNSH), Operand(operands[2], BNSH)
        kv_heads = static_size(axes[1], 1, form, "number of key heads")
    heads = static_size(axes[0], 1, form, "number of heads")
    sizes = [static_size(own, 3, form, "head size") for own in (axes[0], axes[2])]
    return _Projections(Operand(operands[0], BNSH), key, value, heads, kv_heads, *sizes)


def _site(
    node: ir.Node,
    form: str,
    projections: _Projections,
    masks: list[MaskTerm],
    unsupported: list[str],
    *,
    causal: bool,
    cache: dict[ir.Value, ir.Value],
) -> AttentionSite:
    return AttentionSite(
        anchor=node,
        form=form,
        query=projections.query,
        key=projections.key,
        value=projections.value,
        output=node.outputs[0],
        output_layout=projections.query.layout,
        num_heads=projections.heads,
        kv_num_heads=projections.kv_heads,
        head_size=projections.head_size,
        value_head_size=projections.value_head_size,
        scale=_float(node, "scale", 0.0) or 1.0 / math.sqrt(projections.head_size),
        softcap=_float(node, "softcap", 0.0),
        masks=split_terms(masks),
        causal=causal,
        unsupported=unsupported + _further_outputs(node, cache),
        cache=cache,
    )


def multi_head_attention(node: ir.Node, analysis: AxisAnalysis) -> AttentionSite:
    """`com.microsoft.MultiHeadAttention` with separate 3-D query, key and value; the bias is added before."""
    form = "com.microsoft.MultiHeadAttention"
    operands = [_input(node, number) for number in range(3)]
    axes = [analysis.axes_of(value) for value in operands]
    if any(value is None or own is None or len(own) != 3 for value, own in zip(operands, axes, strict=True)):
        raise NotThisForm(form, "query, key and value are not three tensors [batch, slots, hidden]")
    _require_tokens(form, [own for own in axes if own is not None])
    heads = int_attribute(node, "num_heads", 0)
    widths = [static_size(own, 2, form, "hidden size") for own in axes if own is not None]
    values = [value for value in operands if value is not None]
    bias = _input(node, 3)
    if bias is not None:
        values = _with_bias(node, values, bias, widths, analysis)
    masks = _contrib_masks(node, _input(node, 4), _input(node, 5), analysis)
    names = {6: "past_key", 7: "past_value", 8: "past_sequence_length", 9: "cache_indirection"}
    reasons = cache_reasons(form, {name: _input(node, number) for number, name in names.items()})
    cache = {} if reasons or not heads else present_outputs(node, (1, 2), values[1:], heads, analysis)
    return _contrib_site(node, form, values, widths, heads, masks, reasons, cache)


def attention(node: ir.Node, analysis: AxisAnalysis) -> AttentionSite:
    """`com.microsoft.Attention`: its projection becomes MatMul, Add and Slice, dead unless the site is lowered."""
    form = "com.microsoft.Attention"
    source, weight, bias = (_input(node, number) for number in range(3))
    weight_axes = analysis.axes_of(weight)
    if source is None or weight is None or weight_axes is None or len(weight_axes) != 2:
        raise NotThisForm(form, "the input or its weights are not what the op's schema says")
    heads = int_attribute(node, "num_heads", 0)
    sizes = node.attributes.get("qkv_hidden_sizes")
    total = static_size(weight_axes, 1, form, "hidden size")
    widths = list(sizes.as_ints()) if sizes is not None else [total // 3] * 3
    projected = _insert(node, "MatMul", [source, weight], analysis)
    if bias is not None:
        projected = _insert(node, "Add", [projected, bias], analysis)
    values = _split(node, projected, widths, analysis)
    masks = _contrib_masks(node, _input(node, 3), _input(node, 5), analysis)
    unsupported = cache_reasons(form, {"past": _input(node, 4), "past_sequence_length": _input(node, 6)})
    cache = {} if unsupported or not heads else present_outputs(node, (1,), values[1:], heads, analysis)
    if int_attribute(node, "do_rotary", 0):
        unsupported.append(f"{form} applies rotary embeddings itself (do_rotary)")
    return _contrib_site(node, form, values, widths, heads, masks, unsupported, cache)


def _contrib_site(
    node: ir.Node,
    form: str,
    values: list[ir.Value],
    widths: list[int],
    heads: int,
    masks: list[MaskTerm],
    unsupported: list[str],
    cache: dict[ir.Value, ir.Value],
) -> AttentionSite:
    if not heads or widths[0] != widths[1] or any(width % heads for width in widths):
        raise NotThisForm(form, f"hidden sizes {widths} do not divide into {heads} heads")
    query, key, value = (Operand(item, BSNH_FLAT) for item in values)
    projections = _Projections(query, key, value, heads, heads, widths[0] // heads, widths[2] // heads)
    causal = bool(int_attribute(node, "unidirectional", 0))
    return _site(node, form, projections, masks, unsupported, causal=causal, cache=cache)


def _contrib_masks(
    node: ir.Node, padding: ir.Value | None, bias: ir.Value | None, analysis: AxisAnalysis
) -> list[MaskTerm]:
    terms = []
    if padding is not None:
        axes = analysis.axes_of(padding)
        kind = None if axes is None else _MASK_RANKS.get(len(axes))
        if kind is None:
            raise NotThisForm(f"com.microsoft.{node.op_type}", f"the mask '{padding.name}' has an unknown rank")
        terms.append(MaskTerm(padding, Polarity.BOOL_KEEP, kind))
    if bias is not None:
        terms.append(MaskTerm(bias, Polarity.ADDITIVE))
    return terms


def _insert(node: ir.Node, op_type: str, inputs: list[ir.Value], analysis: AxisAnalysis) -> ir.Value:
    """Add a node before `node`; it is dead until the site is lowered."""
    # The second operand tells apart what is inserted for one node: names must differ.
    name = f"{node.name or node.outputs[0].name}_{op_type}_{inputs[1].name}"
    new = ir.Node("", op_type, inputs, num_outputs=1, name=name)
    if node.graph is None:
        raise NotThisForm(node.op_type, "the node is outside the graph")
    node.graph.insert_before(node, new)
    new.outputs[0].type = inputs[0].type
    infer_node(analysis, new)
    return new.outputs[0]


def _int_vector(node: ir.Node, values: list[int], suffix: str, analysis: AxisAnalysis) -> ir.Value:
    name = f"{node.name or node.outputs[0].name}_{suffix}"
    value = ir.Value(name=name, const_value=ir.tensor(values, dtype=ir.DataType.INT64, name=name))
    value.dtype, value.shape = ir.DataType.INT64, ir.Shape([len(values)])
    if isinstance(node.graph, ir.Graph):
        node.graph.register_initializer(value)
    analysis.axes_of(value)
    return value


def _split(node: ir.Node, source: ir.Value, widths: list[int], analysis: AxisAnalysis) -> list[ir.Value]:
    """Cut the last axis into pieces by Slice (its form is the same in every opset)."""
    axes = analysis.axes_of(source)
    last = _int_vector(node, [len(axes) - 1 if axes else -1], "axis", analysis)
    pieces, start = [], 0
    for number, width in enumerate(widths):
        bounds = [_int_vector(node, [edge], f"edge{number}_{edge}", analysis) for edge in (start, start + width)]
        pieces.append(_insert(node, "Slice", [source, *bounds, last], analysis))
        start += width
    return pieces


def _with_bias(
    node: ir.Node, values: list[ir.Value], bias: ir.Value, widths: list[int], analysis: AxisAnalysis
) -> list[ir.Value]:
    parts = _split(node, bias, widths, analysis)
    return [_insert(node, "Add", [value, part], analysis) for value, part in zip(values, parts, strict=True)]


MATCHERS: dict[tuple[str, str], Callable[[ir.Node, AxisAnalysis], AttentionSite]] = {
    ("", "Attention"): standard_attention,
    ("com.microsoft", "MultiHeadAttention"): multi_head_attention,
    ("com.microsoft", "Attention"): attention,
    ("com.microsoft", "GroupQueryAttention"): group_query_attention,
    (torch_op.TORCH_DOMAIN, torch_op.SPARSE_ATTENTION): torch_op.sparse_attention,
}
UNKNOWN = {
    ("com.microsoft", "PackedMultiHeadAttention"): "it is packed already",
    ("com.microsoft", "PackedAttention"): "it is packed already",
    ("com.microsoft", "SparseAttention"): "SparseAttention with a key/value cache is not read yet",
    ("com.microsoft", "QAttention"): "QAttention quantises its input itself; quantise weights alone (MatMulNBits)",
    ("com.microsoft", "QLinearSoftmax"): (
        "the attention weights are quantised; quantise without the products of attention (nodes_to_exclude)"
    ),
    ("com.microsoft", "LongformerAttention"): "LongformerAttention is not read yet",
    ("com.microsoft", "DecoderMaskedMultiHeadAttention"): (
        "it is a decoding step, one query per row against a cache, where there is no padding to remove; export the "
        "prefill, which attends by MultiHeadAttention or GroupQueryAttention"
    ),
}
"""Fused attention that is reported but not read, with the reason."""
