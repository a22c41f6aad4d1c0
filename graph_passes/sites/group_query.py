"""`com.microsoft.GroupQueryAttention` on whole prompts: grouped heads, rotary tables, windows, sinks, packed QKV.

Without a cache the op asks that `total_sequence_length` is the length of the row, and then
    key k is visible to query q  where  k < seqlens_k + 1,  k <= q (causal),  k > q - local_window_size.
Queries and keys are rotated by their slots, a query that sees no key yields zeros, and `present_key` and
`present_value` are what was attended to, [batch, heads, slots, head size].
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis, infer_node
from raggedrt.graph_passes.axes.atoms import Kind, has
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.masks.algebra import Everything, Window
from raggedrt.graph_passes.masks.inputs import MaskAxes, Polarity
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.graph_passes.rotary import rotate_heads
from raggedrt.graph_passes.sites.caches import cache_reasons, heads_first
from raggedrt.graph_passes.sites.mask_terms import split_terms
from raggedrt.graph_passes.sites.site import (
    AttentionSite,
    HeadLayout,
    MaskTerm,
    NotThisForm,
    Operand,
    require_batch_first,
    static_size,
)

FORM = "com.microsoft.GroupQueryAttention"
_BSNH = HeadLayout((2,), 3)
_INPUTS = """query key value past_key past_value seqlens_k total_sequence_length cos_cache sin_cache position_ids
attention_bias head_sink k_scale v_scale q_norm_weight k_norm_weight"""
_PRESENT_KEY, _PRESENT_VALUE, _PRODUCT = 1, 2, 3


@dataclasses.dataclass
class _Call:
    """One node being read; what is inserted for it is dead unless the site is lowered."""

    node: ir.Node
    analysis: AxisAnalysis
    tape: Tape
    heads: int
    kv_heads: int
    head_size: int

    def operand(self, name: str) -> ir.Value | None:
        """An input by its name in the op's schema."""
        number = _INPUTS.split().index(name)
        return self.node.inputs[number] if number < len(self.node.inputs) else None

    @property
    def stem(self) -> str:
        """Begins the names of what is inserted."""
        return f"{self.node.name or self.node.outputs[0].name}"

    def attribute(self, name: str, default: float = 0.0) -> float:
        """A float attribute."""
        value = self.node.attributes.get_float(name, default)
        return default if value is None else value


def group_query_attention(node: ir.Node, analysis: AxisAnalysis) -> AttentionSite:
    """Read a GroupQueryAttention node.

    Raises:
        NotThisForm: its operands are not what the op's schema says.
    """
    call = _call(node, analysis)
    query, key, value = _split(call)
    if int_attribute(node, "do_rotary", 0):
        query, key = (_rotated(call, rows) for rows in (query, key))
    masks, sink = _masks(call), _sink(call)
    cache = {
        node.outputs[number]: heads_first(call.tape, rows, call.stem)
        for number, rows in ((_PRESENT_KEY, key), (_PRESENT_VALUE, value))
        if len(node.outputs) > number and node.outputs[number].name
    }
    _insert(call)
    analysis.axes.update({present: analysis.axes_of(source) for present, source in cache.items()})
    return AttentionSite(
        anchor=node,
        form=FORM,
        query=Operand(query, _BSNH),
        key=Operand(key, _BSNH),
        value=Operand(value, _BSNH),
        output=node.outputs[0],
        output_layout=HeadLayout((), 2),
        num_heads=call.heads,
        kv_num_heads=call.kv_heads,
        head_size=call.head_size,
        value_head_size=call.head_size,
        scale=call.attribute("scale") or 1.0 / math.sqrt(call.head_size),
        softcap=call.attribute("softcap"),
        masks=split_terms(masks),
        sink=sink,
        causal=bool(int_attribute(node, "causal", 1)),
        spec=_window(node),
        zero_where_unattended=True,
        right_padded=_why_right_padded(call, sink),
        unsupported=_unsupported(call),
        cache=cache,
    )


def _call(node: ir.Node, analysis: AxisAnalysis) -> _Call:
    query, graph = node.inputs[0], node.graph
    axes = analysis.axes_of(query)
    heads, kv_heads = int_attribute(node, "num_heads", 0), int_attribute(node, "kv_num_heads", 0)
    if axes is None or len(axes) != 3 or not heads or not kv_heads or not isinstance(graph, ir.Graph):
        raise NotThisForm(FORM, "the query is not [batch, slots, hidden], or the numbers of heads are not given")
    require_batch_first(FORM, axes)
    if not has((axes[1],), Kind.TOKEN):  # rotary tables and key lengths count the slots of the padding mask
        raise NotThisForm(FORM, "its rows are no tokens of the graph's inputs")
    packed = len(node.inputs) < 3 or node.inputs[1] is None
    width = static_size(axes, 2, FORM, "hidden size")
    blocks = heads + 2 * kv_heads if packed else heads
    if width % blocks:
        raise NotThisForm(FORM, f"a hidden size of {width} does not divide into {blocks} heads")
    return _Call(node, analysis, Tape(graph), heads, kv_heads, width // blocks)


def _split(call: _Call) -> list[ir.Value]:
    """Query, key and value as [B, S, heads, head size]."""
    query, key, value = (call.operand(name) for name in ("query", "key", "value"))
    if query is not None and key is not None and value is not None:
        counts = (call.heads, call.kv_heads, call.kv_heads)
        return [_by_heads(call, rows, count) for rows, count in zip((query, key, value), counts, strict=True)]
    if query is None or key is not None or value is not None:
        raise NotThisForm(FORM, "key or value is missing")
    rows = _by_heads(call, query, call.heads + 2 * call.kv_heads)
    edges = [0, call.heads, call.heads + call.kv_heads, call.heads + 2 * call.kv_heads]
    bounds = [[call.tape.vector([edge]) for edge in (*pair, 2)] for pair in itertools.pairwise(edges)]
    return [call.tape.op("Slice", [rows, *bound], stem=f"{call.stem}_part") for bound in bounds]


def _by_heads(call: _Call, rows: ir.Value, heads: int) -> ir.Value:
    target = call.tape.vector([0, 0, heads, call.head_size])
    return call.tape.op("Reshape", [rows, target], stem=f"{call.stem}_heads")


def _rotated(call: _Call, rows: ir.Value) -> ir.Value:
    """Rotated by slots: the first rows of the tables, as many as the padded row has slots."""
    tape, tables = call.tape, [call.operand(name) for name in ("cos_cache", "sin_cache")]
    cosine, sine = tables
    axes = call.analysis.axes_of(cosine)
    if cosine is None or sine is None or axes is None or len(axes) != 2:
        raise NotThisForm(FORM, "do_rotary is set, but cos_cache and sin_cache are not tables [slots, half head size]")
    half = static_size(axes, 1, FORM, "width of the rotary tables")
    length = _length(call)
    zero, one = tape.vector([0]), tape.vector([1])
    cut = [tape.op("Slice", [table, zero, length, zero], stem=f"{call.stem}_rotary") for table in (cosine, sine)]
    by_slot = [tape.op("Unsqueeze", [table, one], stem=f"{call.stem}_rotary") for table in cut]
    interleaved = bool(int_attribute(call.node, "rotary_interleaved", 0))
    sizes = (2 * half, call.head_size)
    return rotate_heads(tape, rows, (by_slot[0], by_slot[1]), sizes, interleaved, f"{call.stem}_rotary")


def _length(call: _Call) -> ir.Value:
    """Int64 [1]: slots of the padded row, asked of the mask, which has its shape wherever the region goes."""
    name = call.analysis.inputs.attention_mask
    mask = next((value for value in call.tape.graph.inputs if value.name == name), None)
    source = call.operand("query") if mask is None else mask
    bounds = {"start": 1, "end": 2}
    return call.tape.op("Shape", [source], bounds, stem=f"{call.stem}_length", dtype=ir.DataType.INT64, shape=[1])


def _masks(call: _Call) -> list[MaskTerm]:
    seqlens, bias = call.operand("seqlens_k"), call.operand("attention_bias")
    if seqlens is None:
        raise NotThisForm(FORM, "seqlens_k is missing")
    terms = [MaskTerm(_key_lengths(call, seqlens), Polarity.BOOL_KEEP, MaskAxes.KEY_LENGTHS)]
    return terms if bias is None else [*terms, MaskTerm(bias, Polarity.ADDITIVE)]


def _key_lengths(call: _Call, seqlens: ir.Value) -> ir.Value:
    """Int [B]: seqlens_k + 1, one value for all layers."""
    name = f"{seqlens.name}_key_lengths"
    made = next((use.node for use in seqlens.uses() if use.node.op_type == "Add" and use.node.name == name), None)
    if made is None:
        one = call.tape.number(1, seqlens.dtype or ir.DataType.INT32)
        made = call.tape.op("Add", [seqlens, one], stem=name).producer()
    if made is None:
        raise NotThisForm(FORM, "seqlens_k is missing")
    made.name = name
    flat = next((use.node for use in made.outputs[0].uses() if use.node.op_type == "Reshape"), None)
    if flat is not None:
        return flat.outputs[0]
    return call.tape.op("Reshape", [made.outputs[0], call.tape.vector([-1])], stem=name, shape=["batch"])


def _sink(call: _Call) -> ir.Value | None:
    sink = call.operand("head_sink")
    if sink is not None or int_attribute(call.node, "smooth_softmax", 0) != 1:  # -1, the schema's default, is off
        return sink
    zeros = np.zeros(call.heads, dtype=np.float32)  # one more term exp(0) in every denominator
    return call.tape.array(zeros, f"{call.stem}_sink")


def _window(node: ir.Node) -> MaskSpec:
    size = int_attribute(node, "local_window_size", -1)
    return MaskSpec.of_expression(Window(size - 1, 0) if size > 0 else Everything())


def _why_right_padded(call: _Call, sink: ir.Value | None) -> str | None:
    """ONNX Runtime has two kernels, which begin the window of a query behind the row's length at different keys.

    The faster one, of float32 without softcap and sink, begins it at the query's slot, as here.
    """
    query = call.operand("query")
    fast = query is not None and query.dtype is ir.DataType.FLOAT and sink is None and not call.attribute("softcap")
    if int_attribute(call.node, "local_window_size", -1) <= 0 or fast:
        return None
    return (
        f"{FORM} with a window and a softcap, a sink or half precision leaves tokens that stand behind the row's "
        "length (left padding, holes) to chance; use --io ragged, where every row begins with its tokens"
    )


def _unsupported(call: _Call) -> list[str]:
    node = call.node
    reasons = cache_reasons(FORM, {name: call.operand(name) for name in ("past_key", "past_value")})
    for name in ("q_norm_weight", "k_norm_weight", "k_scale", "v_scale"):
        if call.operand(name) is not None:
            reasons.append(f"{FORM} has the input {name}, which no kernel serves yet")
    if call.operand("position_ids") is not None and int_attribute(node, "do_rotary", 0):
        reasons.append(
            f"{FORM} has position_ids, of which it rotates a prompt by the very first one plus the slot, whatever the "
            "others are; rotate before it (do_rotary=0), or leave position_ids out"
        )
    if int_attribute(node, "local_window_size", -1) == 0:
        reasons.append(f"{FORM} has a window without any key (local_window_size=0), which is no attention")
    if call.attribute("softcap") < 0:
        reasons.append(f"{FORM} has a negative softcap")
    if int_attribute(node, "sliding_window_cache", 0):
        reasons.append(f"{FORM} keeps a cache of the window's size (sliding_window_cache), which is not read yet")
    product = node.outputs[_PRODUCT] if len(node.outputs) > _PRODUCT else None
    if product is not None and (product.uses() or product.is_graph_output()):
        reasons.append(f"{FORM} also yields '{product.name}', which is used")
    return reasons


def _insert(call: _Call) -> None:
    nodes = list(call.tape.nodes)
    call.tape.join(before=call.node)
    for node in nodes:
        infer_node(call.analysis, node)
