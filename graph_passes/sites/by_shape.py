"""Attention whose rows are no tokens of the graph's inputs (images, sound, windows of them), read by shapes alone.

In `[B, N, S, H]` a product, a Softmax along the keys and a product keep batch and heads apart whatever they mean, so
such a site is known well enough to be lowered by itself. Packing needs more: which axis holds tokens.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import axis_size
from raggedrt.graph_passes.masks.inputs import MaskAxes, Polarity
from raggedrt.graph_passes.sites.mask_terms import split_terms
from raggedrt.graph_passes.sites.scores import Scores
from raggedrt.graph_passes.sites.site import BNSH, AttentionSite, HeadLayout, MaskTerm, Operand

ONE_HEAD = HeadLayout((), 2)
"""`[B, S, H]`, where B may hold heads as well: attention with one head."""
_TRANSPOSED = {4: HeadLayout((1,), 2), 3: HeadLayout((), 1)}


def site_by_shape(
    softmax: ir.Node,
    form: str,
    scores: Scores,
    operands: tuple[ir.Value, ir.Value, ir.Value],
    output: ir.Value,
    analysis: AxisAnalysis,
    reason: str,
) -> AttentionSite | None:
    """The site, None where even its shapes are not known; `reason`: why it is none of tokens."""
    query, key, value = operands
    ranks = {len(item.shape) if item.shape is not None else 0 for item in operands}
    rank = ranks.pop()
    if ranks or rank not in _TRANSPOSED or scores.merged or scores.split:
        return None
    head_size, value_size = (static_dim(item, rank - 1, analysis) for item in (query, value))
    heads = static_dim(query, 1, analysis) if rank == 4 else 1
    alike = all(same_size(query, item, axis, axis, analysis) for item in (key, value) for axis in range(rank - 2))
    if head_size is None or value_size is None or heads is None or not alike:
        return None
    layout = BNSH if rank == 4 else ONE_HEAD
    masks = [_with_axes(term, rank) for term in split_terms(scores.masks)]
    if None in masks:
        return None
    return AttentionSite(
        anchor=softmax,
        form=form,
        query=Operand(query, layout),
        key=Operand(key, _TRANSPOSED[rank]),
        value=Operand(value, layout),
        output=output,
        output_layout=layout,
        num_heads=heads,
        kv_num_heads=heads,
        head_size=head_size,
        value_head_size=value_size,
        scale=scores.scale,
        softcap=scores.softcap,
        masks=[term for term in masks if term is not None],
        sink=scores.sink,
        added=list(scores.masks),
        unpackable=reason,
    )


def fused_by_shape(node: ir.Node, analysis: AxisAnalysis, reason: str) -> AttentionSite | None:
    """ONNX `Attention` on [B, N, S, H]; None where even its shapes are not known."""
    operands = [item for item in node.inputs[:3] if item is not None and item.shape is not None]
    if len(operands) != 3 or any(item.shape is None or len(item.shape) != 4 for item in operands):
        return None
    query, key, value = operands
    sizes = [static_dim(item, axis, analysis) for item, axis in ((query, 1), (key, 1), (query, 3), (value, 3))]
    heads, kv_heads, head_size, value_size = sizes
    if heads is None or kv_heads is None or head_size is None or value_size is None:
        return None
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    polarity = Polarity.BOOL_KEEP if mask is not None and mask.dtype is ir.DataType.BOOL else Polarity.ADDITIVE
    further = [item for item in (*node.inputs[4:], *node.outputs[1:]) if item is not None and item.name]
    windows = [name for name in ("left_window_size", "right_window_size") if name in node.attributes]
    return AttentionSite(
        anchor=node,
        form="onnx.Attention",
        query=Operand(query, BNSH),
        key=Operand(key, BNSH),
        value=Operand(value, BNSH),
        output=node.outputs[0],
        output_layout=BNSH,
        num_heads=heads,
        kv_num_heads=kv_heads,
        head_size=head_size,
        value_head_size=value_size,
        scale=node.attributes.get_float("scale", 0.0) or 1.0 / math.sqrt(head_size),
        softcap=node.attributes.get_float("softcap", 0.0) or 0.0,
        masks=[] if mask is None else split_terms([MaskTerm(mask, polarity)]),
        causal=bool(node.attributes.get_int("is_causal", 0)),
        unsupported=["it has a past, lengths, a window or further outputs"] if further or windows else [],
        unpackable=reason,
    )


def _with_axes(term: MaskTerm, rank: int) -> MaskTerm | None:
    """Against scores [B, queries, keys] a mask of rank 3 has no axis of heads."""
    if rank == 4 or (term.value.shape is not None and len(term.value.shape) <= 2):
        return term
    if term.value.shape is None or len(term.value.shape) != 3 or term.factor != 1.0:
        return None
    return MaskTerm(term.value, term.polarity, MaskAxes.BATCH_QUERIES_KEYS)


def row_length(site: AttentionSite, analysis: AxisAnalysis) -> int | None:
    """Slots of a row of scores, where known before run time; of a site that is read by shape."""
    rank = len(site.query.layout.heads) + 3
    return static_dim(site.query.value, rank - 2, analysis)


def static_dim(value: ir.Value, axis: int, analysis: AxisAnalysis) -> int | None:
    """The length of an axis as far as it is known before run time."""
    axes = analysis.axes_of(value)
    if axes is not None and (size := axis_size(axes[axis]).static) is not None:
        return size
    dim = None if value.shape is None else value.shape[axis]
    return dim if isinstance(dim, int) else None


def same_size(one: ir.Value, other: ir.Value, axis: int, other_axis: int, analysis: AxisAnalysis) -> bool:
    """Two axes are certainly of one length: a product broadcasts where they are not."""
    axes, other_axes = analysis.axes_of(one), analysis.axes_of(other)
    if axes is not None and other_axes is not None and axis_size(axes[axis]) == axis_size(other_axes[other_axis]):
        return True
    if one.shape is None or other.shape is None:
        return False
    dim, other_dim = one.shape[axis], other.shape[other_axis]
    return dim == other_dim and (isinstance(dim, int) or dim.value is not None)
