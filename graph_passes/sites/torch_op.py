"""Attention written as `raggedrt.torch::SparseAttention`: the ONNX form of this package's own PyTorch op.

Its mask is said by attributes, so nothing has to be recovered. The node carries a function body; it stays in the graph
until it is lowered, and where it is not, the body runs.
"""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.errors import InputError
from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.masks import expressions
from raggedrt.graph_passes.masks.algebra import Causal, Everything, GlobalTokens, Term, Window
from raggedrt.graph_passes.masks.bigbird import BigBird
from raggedrt.graph_passes.masks.inputs import MaskAxes, Polarity
from raggedrt.graph_passes.masks.short_rows import ShortRow
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.sites.repeats import unrepeated
from raggedrt.graph_passes.sites.site import (
    BNSH,
    AttentionSite,
    MaskTerm,
    NotThisForm,
    Operand,
    require_batch_first,
    static_size,
)

TORCH_DOMAIN, SPARSE_ATTENTION = "raggedrt.torch", "SparseAttention"
FORM = f"{TORCH_DOMAIN}.{SPARSE_ATTENTION}"


def sparse_attention(node: ir.Node, analysis: AxisAnalysis) -> AttentionSite:
    """Read a SparseAttention node.

    Raises:
        NotThisForm: Its operands or attributes are not what the op's definition says.
    """
    operands = [value for value in node.inputs[:3] if value is not None]
    axes = [own for value in operands if (own := analysis.axes_of(value)) is not None and len(own) == 4]
    if len(axes) != 3:
        raise NotThisForm(FORM, "what the axes of query, key or value mean is not known")
    require_batch_first(FORM, *axes)
    key, kv_heads = unrepeated(Operand(operands[1], BNSH), analysis)
    value, value_heads = unrepeated(Operand(operands[2], BNSH), analysis)
    if kv_heads != value_heads:
        key, value = Operand(operands[1], BNSH), Operand(operands[2], BNSH)
        kv_heads = static_size(axes[1], 1, FORM, "number of key heads")
    padding = node.inputs[3] if len(node.inputs) > 3 else None
    return AttentionSite(
        anchor=node,
        form=FORM,
        query=Operand(operands[0], BNSH),
        key=key,
        value=value,
        output=node.outputs[0],
        output_layout=BNSH,
        num_heads=static_size(axes[0], 1, FORM, "number of heads"),
        kv_num_heads=kv_heads,
        head_size=static_size(axes[0], 3, FORM, "head size"),
        value_head_size=static_size(axes[2], 3, FORM, "value head size"),
        scale=node.attributes["scale"].as_float(),
        masks=[] if padding is None else [MaskTerm(padding, Polarity.BOOL_KEEP, MaskAxes.BATCH_KEYS)],
        spec=_spec(node),
        zero_where_unattended=True,
    )


def _spec(node: ir.Node) -> MaskSpec:
    """What the attributes say."""
    try:
        pattern = _pattern(node)
        dense = int_attribute(node, "dense_up_to", 0)
        if dense:
            pattern = expressions.any_term(pattern, ShortRow(dense))
        causal: Term = Causal() if int_attribute(node, "causal", 0) else Everything()
        return MaskSpec.of_expression(expressions.all_terms(causal, pattern))
    except InputError as error:
        raise NotThisForm(FORM, str(error)) from error


def _pattern(node: ir.Node) -> Term:
    block = int_attribute(node, "block_size", 0)
    if block:
        return BigBird(block, int_attribute(node, "block_window", 0), int_attribute(node, "global_blocks", 0), random=0)
    window = Window(
        int_attribute(node, "window_left", -1),
        int_attribute(node, "window_right", -1),
        int_attribute(node, "dilation", 1),
    )
    listed = node.attributes.get("global_tokens")
    if listed is None or not listed.as_ints():
        return expressions.all_terms(window)
    return expressions.any_term(window, GlobalTokens(tuple(listed.as_ints())))
