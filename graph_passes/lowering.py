"""Attention sites to `RaggedAttention`: which can be served, and the nodes that serve them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from raggedrt.graph_passes.attention_host import AttentionHost
from raggedrt.graph_passes.axes.atoms import Kind, axis_of
from raggedrt.graph_passes.axes.rule import PackingRefused, packed_axes, packed_axis_number
from raggedrt.graph_passes.biases import SiteBias, bias_operands, counts_own_tokens, why_not_passed
from raggedrt.graph_passes.disentangled import disentangled_operands, why_not_by_distance
from raggedrt.graph_passes.masks.explain import MaskExplanation, explain_mask
from raggedrt.graph_passes.masks.inputs import GraphInputs, MaskAxes
from raggedrt.graph_passes.masks.pairs import OWN, PADDED
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.packing.region import PackedRegion
from raggedrt.graph_passes.packing.tape import TOKENS
from raggedrt.graph_passes.sites.site import AttentionSite, MaskTerm, Operand
from raggedrt.graph_passes.tiles import tile_form, tile_operands
from raggedrt.plugins.contract.abi import Feature
from raggedrt.plugins.contract.capability import Capability
from raggedrt.plugins.contract.op_definition import ElementType


@dataclasses.dataclass(frozen=True)
class SiteMask:
    """What the terms of a site's mask say together, and what is imposed on it.

    Attributes:
        spec: the mask that applies; None where it is not understood, or cannot be what was asked for.
        reason: why there is none.
        proved: it was read symbolically, not only tested.
        biases: what is added to the scores.
        imposed: what the user and-ed with the site's own mask, which then is `original`.
        kept: why the site is to be left alone although it could be lowered.
        key_lengths: int [B] where the mask counts tokens: keys 0 <= k < length are visible, wherever the padding is.
    """

    spec: MaskSpec | None
    reason: str | None
    proved: bool
    biases: tuple[SiteBias, ...] = ()
    imposed: MaskSpec | None = None
    original: MaskSpec | None = None
    kept: str | None = None
    key_lengths: ir.Value | None = None


class MaskBook:
    """Explains each distinct mask term once."""

    def __init__(self, inputs: GraphInputs) -> None:
        self.inputs = inputs
        self._known: dict[MaskTerm, MaskExplanation] = {}
        self._distances: dict[tuple[tuple[bool, ir.Value], ...], str | None] = {}

    def of(self, site: AttentionSite) -> SiteMask:
        """The mask of a site: all terms apply, and so does the op's own causality."""
        explained = [self._explain(term) for term in site.masks]
        refused = next((found for found in explained if found.spec is None), None)
        if refused is not None:
            return SiteMask(None, f"its mask is not understood: {refused.reason}", proved=False)
        if any(found.bias is not None and found.spec != MaskSpec() for found in explained):
            return SiteMask(None, "a mask and a bias are added as one value, which cannot be taken apart", proved=False)
        if (reason := self._why_not_by_distance(site)) is not None:
            return SiteMask(None, reason, proved=False)
        specs = [found.spec for found in explained if found.spec is not None]
        spec = site.spec.conjoined(MaskSpec(causal=site.causal))
        for found in specs:
            spec = spec.conjoined(found)
        counted = [found.spec is not None and found.spec.reads_padding for found in explained]  # else all are keys
        lengths = {
            term.value
            for term, counts in zip(site.masks, counted, strict=True)
            if counts and term.axes is MaskAxes.KEY_LENGTHS
        }
        if lengths and sum(found.reads_padding for found in specs) > 1:
            return SiteMask(None, "it has key lengths and another padding mask", proved=False)
        pairs = zip(site.masks, explained, strict=True)
        biases = tuple(SiteBias(term, found.bias) for term, found in pairs if found.bias is not None)
        proved = all(found.proved for found in explained)
        return SiteMask(spec, None, proved, biases, key_lengths=next(iter(lengths), None))

    def _why_not_by_distance(self, site: AttentionSite) -> str | None:
        indices = tuple((term.of_query, term.index) for term in site.disentangled)
        if indices and indices not in self._distances:
            self._distances[indices] = why_not_by_distance(site.disentangled, self.inputs)
        return self._distances.get(indices)

    def _explain(self, term: MaskTerm) -> MaskExplanation:
        if term not in self._known:
            self._known[term] = explain_mask(term.value, term.polarity, self.inputs, term.axes)
        return self._known[term]


def why_not_lowered(
    site: AttentionSite, mask: SiteMask, capability: Capability, *, ragged: bool, approximate: bool = False
) -> str | None:
    """The reason why a site stays as it is, or None; `approximate`: it may compute something else if asked for."""
    if mask.kept is not None:
        return mask.kept
    if site.unpackable is not None:
        return site.unpackable
    if site.unsupported:
        return "; ".join(site.unsupported)
    if mask.spec is None:
        return mask.reason
    if site.right_padded is not None and not ragged:
        return site.right_padded
    if not mask.spec.padding and not ragged:
        return "its mask does not hide padded keys, so valid tokens read padded slots, which packing removes"
    if ragged and not approximate and mask.imposed is None and mask.spec.reads_length:
        return (
            f"its mask depends on the length of the padded row ({mask.spec.describe()}), which ragged inputs do not "
            "have; with --accept-approximation it is that of the longest sequence of each call"
        )
    if mask.imposed is None and not site.zero_where_unattended and not mask.spec.shows_itself:
        return (
            f"a token does not always see itself ({mask.spec.describe()}), so where the keys it sees are padding it "
            "sees nothing, which the original leaves to chance"
        )
    return why_not_served(site, mask.spec, mask.biases, capability)


def why_not_served(
    site: AttentionSite, spec: MaskSpec, biases: Sequence[SiteBias], capability: Capability
) -> str | None:
    """What the target's library cannot do."""
    missing = capability.missing(features_of(site, spec, biases))
    if missing:
        seen = "; ".join([spec.describe(), *(found.bias.describe() for found in biases)])
        return f"the target's op library lacks {missing.name} (its mask: {seen})"
    if spec.analytic() is None and tile_form(spec) is None:
        return f"its mask has neither a form in attributes nor one in tiles ({spec.describe()})"
    if (reason := why_not_passed(biases, spec)) is not None:
        return reason
    sizes = (site.head_size, site.value_head_size)
    if any(size % capability.head_size_multiple or size > capability.max_head_size for size in sizes):
        return (
            f"head sizes {sizes} are not multiples of {capability.head_size_multiple} up to {capability.max_head_size}"
        )
    if site.num_heads % site.kv_num_heads:
        return f"{site.num_heads} query heads do not share {site.kv_num_heads} key heads evenly"
    types = [operand.value.dtype for operand in (site.query, site.key, site.value)]
    if len(set(types)) > 1:
        return f"query, key and value have the element types {', '.join(map(str, types))}; the op takes one"
    dtype = types[0]
    if dtype is None or dtype.value not in [element.value for element in capability.element_types]:
        allowed = ", ".join(ElementType(element).name.lower() for element in capability.element_types)
        return f"its element type is {dtype}, the target serves {allowed}"
    return None


def features_of(site: AttentionSite, spec: MaskSpec, biases: Sequence[SiteBias] = ()) -> Feature:
    """Feature bits that lowering the site needs."""
    analytic = spec.analytic()
    tiles = Feature.BLOCK_MASK | (Feature.CAUSAL if spec.causal else Feature(0))
    features = tiles if analytic is None else analytic.features
    for found in biases:
        features |= found.bias.feature
    features |= Feature.SOFTCAP if site.softcap else Feature(0)
    features |= Feature.SINK if site.sink is not None else Feature(0)
    features |= Feature.DISENTANGLED if site.disentangled else Feature(0)
    features |= Feature.GROUPED_QUERY if site.kv_num_heads != site.num_heads else Feature(0)
    features |= Feature.VALUE_HEAD_SIZE if site.value_head_size != site.head_size else Feature(0)
    return features


def lower_site(site: AttentionSite, spec: MaskSpec, biases: Sequence[SiteBias], region: PackedRegion) -> ir.Value:
    """Build `RaggedAttention` on packed operands; returns the packed form of the site's output."""
    plan, tape = region.plan, region.tape
    inputs: dict[str, ir.Value | None] = {
        "query": _rows(site, site.query, site.num_heads, site.head_size, region),
        "key": _rows(site, site.key, site.kv_num_heads, site.head_size, region),
        "value": _rows(site, site.value, site.kv_num_heads, site.value_head_size, region),
        "cu_seqlens_q": plan.cu_seqlens,
        "cu_seqlens_k": plan.cu_seqlens,
        "max_seqlen_q": plan.max_seqlen,
        "max_seqlen_k": plan.max_seqlen,
    }
    mask_inputs, mask_attributes, by_position = mask_operands(site, spec, region)
    if plan.kept or by_position or biases or site.disentangled:
        # A kept slot is a query without being a key, and distances and positions are those of the padded row; without
        # either, packed order says all that causality and a mask of own tokens need.
        own = spec.of == OWN or counts_own_tokens(biases)
        places = plan.own_positions if own else (plan.position, plan.key_position)
        inputs |= dict(zip(("positions_q", "positions_k"), places, strict=True))
    inputs |= bias_operands(site, biases, region) | disentangled_operands(site, region) | mask_inputs
    if site.sink is not None:
        if site.sink in region.behind:
            raise PackingRefused(f"'{site.sink.name}'", "the sink of attention is computed from packed values")
        inputs["head_sink"] = sink_operand(site.sink, region)
    attributes: dict[str, int | float | Sequence[int]] = {
        "num_heads": site.num_heads,
        "kv_num_heads": site.kv_num_heads if site.kv_num_heads != site.num_heads else 0,
        "scale": site.scale,
        "softcap": site.softcap,
        **mask_attributes,
    }
    stem = f"{site.output.name}_attention"
    output = tape.custom("RaggedAttention", inputs, attributes, stem=stem).outputs[0]
    output.type = site.query.value.type
    output.shape = ir.Shape([TOKENS, site.num_heads * site.value_head_size])
    if not site.output_layout.heads:
        return output
    split: list[int | str] = [TOKENS, site.num_heads, site.value_head_size]
    target = tape.vector([-1, site.num_heads, site.value_head_size])
    heads = tape.op("Reshape", [output, target], stem=f"{stem}_heads", shape=split)
    shape: list[int | str] = [site.num_heads, TOKENS, site.value_head_size]
    return tape.op("Transpose", [heads], {"perm": [1, 0, 2]}, stem=f"{stem}_heads", shape=shape)


def sink_operand(value: ir.Value, host: AttentionHost) -> ir.Value:
    """Float32 [N]."""
    tape, float32 = host.tape, ir.DataType.FLOAT
    flat = tape.op("Reshape", [value, tape.vector([-1])], stem=f"{value.name}_sink", dtype=value.dtype)
    return flat if value.dtype is float32 else tape.op("Cast", [flat], {"to": float32}, stem="sink", dtype=float32)


def mask_operands(
    site: AttentionSite, spec: MaskSpec, region: AttentionHost
) -> tuple[dict[str, ir.Value | None], dict[str, int | Sequence[int]], bool]:
    """Inputs and attributes that make the mask, and whether it compares original positions."""
    analytic = spec.analytic()
    if analytic is not None:
        return {}, dict(analytic.attributes()), analytic.compares_positions and spec.of == PADDED
    form = tile_form(spec)
    if form is None:
        raise PackingRefused(site.name, f"its mask has no form in tiles ({spec.describe()})")
    attributes: dict[str, int | Sequence[int]] = {"block_size": form.block_size, "causal": int(spec.causal)}
    return tile_operands(site.name, form, region), attributes, spec.of == PADDED


def _rows(site: AttentionSite, operand: Operand, heads: int, head_size: int, region: PackedRegion) -> ir.Value:
    """The packed operand as [T, heads * head_size]."""
    axes = region.analysis.axes_of(operand.value)
    slot = None if axes is None else axis_of(axes, Kind.TOKEN)
    if axes is None or slot is None or axis_of(axes, Kind.BATCH) is None:
        raise PackingRefused(site.anchor, f"'{operand.value.name}' does not hold one row per token")
    form = region.packed(operand.value)
    rank = len(packed_axes(axes))
    front = [packed_axis_number(axes, number) for number in (slot, *operand.layout.heads)]
    last = packed_axis_number(axes, operand.layout.feature)
    rest = [number for number in range(rank) if number not in (*front, last)]  # axes of size one
    order = [*front, *rest, last]
    tape, stem = region.tape, f"{operand.value.name}_rows"
    if order != list(range(rank)):
        form = tape.op("Transpose", [form], {"perm": order}, stem=stem)
    if rank == 2:
        form.shape = ir.Shape([TOKENS, heads * head_size])
        return form
    target = tape.vector([-1, heads * head_size])
    return tape.op("Reshape", [form, target], stem=stem, shape=[TOKENS, heads * head_size])
