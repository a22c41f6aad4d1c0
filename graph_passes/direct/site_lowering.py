"""One recognised attention site on rows of a padded batch, with its own mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from raggedrt.graph_passes.axes.rule import PackingRefused
from raggedrt.graph_passes.biases import bias_operands, counts_own_tokens
from raggedrt.graph_passes.direct.gains import why_no_gain
from raggedrt.graph_passes.direct.mask_bias import Sides, added_bias, square
from raggedrt.graph_passes.direct.operands import RowSource
from raggedrt.graph_passes.direct.padded_batch import PaddedBatch
from raggedrt.graph_passes.direct.rows import from_rows
from raggedrt.graph_passes.lowering import SiteMask, mask_operands, sink_operand, why_not_served
from raggedrt.graph_passes.masks.bias import DENSE
from raggedrt.graph_passes.masks.inputs import Polarity
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.sites.by_shape import same_size, static_dim
from raggedrt.graph_passes.sites.site import BNSH, MERGED, AttentionSite, HeadLayout, Operand
from raggedrt.plugins.contract.capability import Capability


@dataclasses.dataclass(frozen=True)
class DirectTarget:
    """What a site is lowered for."""

    name: str
    capability: Capability


def why_not_direct(site: AttentionSite, mask: SiteMask, batch: PaddedBatch, target: DirectTarget) -> str | None:
    """The reason why a site stays as it is where nothing is packed, or None."""
    if mask.kept is not None:
        return mask.kept
    if site.unsupported:
        return "; ".join(site.unsupported)
    if site.disentangled:
        return "position terms of queries and keys are read on packed tokens only"
    if mask.spec is None and as_table(site, mask) is None:
        return mask.reason
    if mask.spec is None and site.query.value.dtype is ir.DataType.BFLOAT16 and target.name == "ort-cpu":
        return f"{mask.reason}; what adds it up in bfloat16 does not run on ONNX Runtime's CPU"
    if mask.spec is None:
        reason = why_no_gain(site, MaskSpec(), {DENSE}, _length(site, batch), target.name)
        return reason and f"{mask.reason}; {reason}"
    reason = _why_not_exact(site, mask, mask.spec) or why_not_served(site, mask.spec, mask.biases, target.capability)
    if reason is None and not _equal_lengths(site, batch) and (site.masks or mask.spec != MaskSpec()):
        reason = "queries and keys may be of different number, and it has a mask"
    if reason is None and mask.imposed is None:
        kinds = {found.bias.kind for found in mask.biases}
        reason = why_no_gain(site, mask.spec, kinds, _length(site, batch), target.name)
    return reason


def as_table(site: AttentionSite, mask: SiteMask) -> list[ir.Value] | None:
    """What is added to the scores, where it is not understood but may be a bias as it is; else None."""
    plain = all(term.polarity is Polarity.ADDITIVE and term.factor == 1.0 for term in site.added)
    if mask.spec is not None or mask.imposed is not None or not site.added or not plain:
        return None
    return [term.value for term in site.added]


def _why_not_exact(site: AttentionSite, mask: SiteMask, spec: MaskSpec) -> str | None:
    """A query that sees no key yields zeros here, and with other spellings whatever comes of it."""
    if site.zero_where_unattended or (mask.imposed is not None and not spec.padding):
        return None
    rest = dataclasses.replace(spec, padding=False, unattended_rows_open=False)
    if spec.padding and rest != MaskSpec():
        return (
            f"its mask ({spec.describe()}) may show a padded slot no key, which the original leaves to chance, and "
            "padded slots are read where nothing is packed"
        )
    if spec.padded_queries_masked or not rest.shows_itself:
        return f"its mask ({spec.describe()}) may show a query no key, which the original leaves to chance"
    return None


def _equal_lengths(site: AttentionSite, batch: PaddedBatch) -> bool:
    query, key, _ = _sources(site, batch)
    return same_size(query.sized, key.sized, query.slots, key.slots, batch.analysis)


def _sources(site: AttentionSite, batch: PaddedBatch) -> tuple[RowSource, RowSource, RowSource]:
    """Of query, key and value; batch and heads in one axis are sequences of one head each."""
    operands = [site.query, site.key, site.value]
    if site.query.layout == MERGED:
        operands = [Operand(one.value, HeadLayout((), one.layout.feature)) for one in operands]
    query, key, value = (batch.source(operand, site.anchor) for operand in operands)
    return query, key, value


def _length(site: AttentionSite, batch: PaddedBatch) -> int | None:
    source, _, _ = _sources(site, batch)
    return static_dim(source.sized, source.slots, batch.analysis)


def lower_directly(site: AttentionSite, mask: SiteMask, batch: PaddedBatch, padding: ir.Value | None) -> ir.Value:
    """Build the site's output from `RaggedAttention`.

    Args:
        site: one for which `why_not_direct` says nothing.
        mask: its mask.
        batch: what is built in.
        padding: the graph's padding mask [B, S].

    Raises:
        PackingRefused: The form is not covered.
    """
    table = as_table(site, mask)
    spec = mask.spec or MaskSpec()
    heads, kv_heads = (1, 1) if site.query.layout == MERGED else (site.num_heads, site.kv_num_heads)
    if site.query.layout == MERGED and (mask.biases or spec.padding or site.sink is not None):
        raise PackingRefused(site.anchor, "batch and heads share an axis, and its mask or bias tells them apart")
    if site.right_padded is not None:
        raise PackingRefused(site.anchor, site.right_padded)
    if counts_own_tokens(mask.biases):
        raise PackingRefused(site.anchor, "its bias counts a row's own tokens (ALiBi), and rows here are of slots")
    query, key, value = _sources(site, batch)
    queries = batch.rows = batch.rows_of(query)
    keys = queries if _equal_lengths(site, batch) else batch.rows_of(key)
    inputs: dict[str, ir.Value | None] = {
        "query": batch.packed(query, heads * site.head_size),
        "key": batch.packed(key, kv_heads * site.head_size),
        "value": batch.packed(value, kv_heads * site.value_head_size),
        "cu_seqlens_q": queries.cu_seqlens(),
        "cu_seqlens_k": keys.cu_seqlens(),
        "max_seqlen_q": queries.carrier(),
        "max_seqlen_k": keys.carrier(),
    }
    mask_inputs, mask_attributes, _ = mask_operands(site, spec, batch)
    if spec.padding:
        positions = batch.positions(padding, mask.key_lengths)
        inputs |= dict(zip(("positions_q", "positions_k"), positions, strict=True))
    inputs |= bias_operands(site, mask.biases, batch) | mask_inputs
    if table:
        sides = Sides(batch.tape, site.anchor, queries, keys)
        inputs["bias"] = square(
            sides, added_bias(sides, table, head_axis=bool(site.query.layout.heads)), site.query.value.dtype
        )
        inputs |= {"positions_q": queries.slot_positions(), "positions_k": keys.slot_positions()}
    if site.sink is not None:
        inputs["head_sink"] = sink_operand(site.sink, batch)
    attributes: dict[str, int | float | Sequence[int]] = {
        "num_heads": heads,
        "kv_num_heads": kv_heads if kv_heads != heads else 0,
        "scale": site.scale,
        "softcap": site.softcap,
        **mask_attributes,
    }
    stem = f"{site.output.name}_attention"
    packed = batch.tape.custom("RaggedAttention", inputs, attributes, stem=stem).outputs[0]
    packed.type = site.query.value.type
    split = bool(site.output_layout.heads) and site.output_layout != MERGED
    result = from_rows(batch.tape, packed, queries, heads, heads * site.value_head_size, split_heads=split)
    shape = site.query.value.shape
    if split and shape is not None and len(shape) == 4 and site.query.layout == BNSH:
        result.shape = ir.Shape([shape[0], heads, shape[2], site.value_head_size])  # views behind it may do nothing
    return result
