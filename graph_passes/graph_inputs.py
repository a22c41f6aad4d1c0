"""Which graph inputs are the padding mask and which hold one row per token."""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.errors import InputError
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.masks.inputs import GraphInputs

MASK_NAMES = ("attention_mask", "input_mask", "mask")
"""Names of a padding mask (1 = token) when the caller names none."""
TOKEN_NAMES = ("input_ids", "token_type_ids", "segment_ids", "position_ids", "inputs_embeds")
"""Inputs that hold one row per token even where their dimension names differ from the mask's."""


def describe_inputs(graph: ir.Graph, mask_input: str | None = None) -> GraphInputs:
    """Read the roles of a graph's inputs off their names and dimensions.

    Raises:
        InputError: `mask_input` is not an input [batch, sequence] of the graph.
    """
    by_name = {value.name or "": value for value in graph.inputs}
    if mask_input is not None and (mask_input not in by_name or _rank(by_name[mask_input]) != 2):
        raise InputError(
            f"The mask input '{mask_input}' is not an input [batch, sequence] of the graph; "
            f"its inputs are {', '.join(by_name)}."
        )
    candidates = [mask_input] if mask_input else [name for name in MASK_NAMES if name in by_name]
    mask = next((name for name in candidates if name and _rank(by_name[name]) == 2), None)
    anchors = [by_name[name] for name in (mask, *TOKEN_NAMES) if name in by_name and _rank(by_name[name]) >= 2]
    if not anchors:
        return GraphInputs(attention_mask=None, batch_symbols=frozenset(), sequence_symbols=frozenset())
    dims = [_leading(value) for value in anchors]
    per_token = [
        name
        for name, value in by_name.items()
        if name != mask and _rank(value) >= 2 and (_same_dims(value, dims[0]) or _named_per_token(value, dims[0]))
    ]
    symbols = [{d for d in column if isinstance(d, str)} for column in zip(*dims, strict=True)]
    static = [column[0] if isinstance(column[0], int) else None for column in zip(*dims, strict=True)]
    return GraphInputs(
        attention_mask=mask,
        per_token=tuple(per_token),
        batch=static[0],
        sequence=static[1],
        batch_symbols=frozenset(symbols[0] - symbols[1]),
        sequence_symbols=frozenset(symbols[1] - symbols[0]),
    )


IDS_NAMES = ("input_ids", "inputs_embeds", "decoder_input_ids")
"""Inputs that hold the tokens of one call, whatever came before it."""
_CONTRIB = "com.microsoft"
_PASTS = {
    ("", "Attention"): (4, 5),
    (_CONTRIB, "Attention"): (4,),
    (_CONTRIB, "MultiHeadAttention"): (6, 7),
    (_CONTRIB, "GroupQueryAttention"): (3, 4),
    (_CONTRIB, "SparseAttention"): (3, 4),
    (_CONTRIB, "DecoderMaskedMultiHeadAttention"): (5, 6),
}
"""Inputs of fused attention that hold earlier keys and values; masks and biases have four axes, too."""


def inputs_of_rows(graph: ir.Graph, length: int | None) -> GraphInputs:
    """What a mask may depend on that is no matter of tokens: the batch, which every input begins with, and constants.

    Args:
        graph: the graph.
        length: of the rows that the mask is for; None where it is not known.
    """
    leading = [_leading(value)[0] for value in graph.inputs if _rank(value) >= 2]
    static = {dim for dim in leading if isinstance(dim, int)}
    return GraphInputs(
        attention_mask=None,
        batch=static.pop() if len(static) == 1 else None,
        sequence=length,
        batch_symbols=frozenset(dim for dim in leading if isinstance(dim, str)),
        sequence_symbols=frozenset(),
    )


CACHE_REASON = (
    "the graph takes keys and values of earlier calls ({names}), so a row's tokens are not all in one call and where "
    "they stand is not known; say --prefill (prefill=True) to get a graph for calls that start without a cache, or "
    "export the whole sequence without one (use_cache=False, or `raggedrt export --task text-generation`), and keep "
    "this graph for decoding"
)


def cache_inputs(graph: ir.Graph) -> list[str]:
    """Inputs [batch, heads, past, head size] that are joined to keys or values."""
    return [value.name or "" for value in graph.inputs if cache_axis(value) is not None]


def cache_axis(value: ir.Value) -> int | None:
    """The axis of a cache that counts earlier tokens; None where the input is no cache."""
    rank = _rank(value)
    if rank < 4:
        return None
    for usage in value.uses():
        node = usage.node
        if node.op_type == "Concat" and not node.domain and rank == 4:
            axis = int_attribute(node, "axis", 0) % rank
            dim = _dim(value, axis)  # images, too, are joined, along other axes or ones of a known size
            if "past" in str(dim) or (axis == 2 and not (isinstance(dim, int) and dim)):
                return axis
        domain = "" if node.domain == "ai.onnx" else node.domain
        if usage.idx in _PASTS.get((domain, node.op_type), ()):
            return 2 if rank == 4 else 3  # com.microsoft.Attention: [2, batch, heads, past, head size]
    return None


def batch_axis(cache: ir.Value) -> int:
    """The axis of a cache that counts rows; com.microsoft.Attention takes keys and values as one, stacked."""
    return 1 if _rank(cache) == 5 else 0


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else len(value.shape)


def _dim(value: ir.Value, axis: int) -> int | str | None:
    dim = None if value.shape is None else value.shape[axis]
    return dim if dim is None or isinstance(dim, int) else dim.value


def _leading(value: ir.Value) -> tuple[int | str | None, ...]:
    if value.shape is None:
        return (None, None)
    return tuple(dim if isinstance(dim, int) else dim.value for dim in list(value.shape)[:2])


def _same_dims(value: ir.Value, dims: tuple[int | str | None, ...]) -> bool:
    """Dimensions without a name say nothing."""
    return None not in dims and _leading(value) == dims


def _named_per_token(value: ir.Value, dims: tuple[int | str | None, ...]) -> bool:
    """Well-known names count unless a static dimension contradicts (position_ids may be [1, sequence])."""
    own = _leading(value)
    same = all(
        mine == theirs or (isinstance(mine, str) and isinstance(theirs, str))
        for mine, theirs in zip(own, dims, strict=True)
    )
    return value.name in TOKEN_NAMES and same
