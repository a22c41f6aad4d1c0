"""Slots that are read although they may be padding: each must attend to what it attended to in the original."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from raggedrt.graph_passes.axes.rule import PackingRefused
from raggedrt.graph_passes.masks.extract import MaskRefused
from raggedrt.graph_passes.masks.inputs import GraphInputs
from raggedrt.graph_passes.masks.pairs import OWN
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.packing.chosen import Reach, Sight, reach_of, sight_of_slot
from raggedrt.graph_passes.packing.plan import KeptSlots
from raggedrt.graph_passes.sites.site import AttentionSite

WITHOUT_PADDING = (
    "; use --io ragged, where a row is its tokens alone, or have the model read a token that attention_mask chooses "
    "instead of a fixed slot"
)
"""The original's value there is a mean over padded slots, which nothing computes once padding is removed."""

Served = Sequence[tuple[AttentionSite, MaskSpec]]


def checked(keep: KeptSlots, sites: Served, inputs: GraphInputs) -> KeptSlots:
    """The slots with guards on those that may see nothing.

    Args:
        keep: what is read.
        sites: attention that is lowered, with its mask, but for ops that yield zeros where nothing is seen.
        inputs: of the graph.

    Raises:
        PackingRefused: a padded slot may see no token of its row.
    """
    for site, spec in sites:
        if keep.numbers:
            _check_fixed(keep, site, spec)
    if keep.key_lengths is not None:
        return keep  # the first slot is a key in every row that has one
    guarded = {}
    for slot in keep.chosen:
        reach = _guard(slot, sites, inputs)
        if reach is not None:
            guarded[slot] = reach
    return dataclasses.replace(keep, guarded=guarded)


def _check_fixed(keep: KeptSlots, site: AttentionSite, spec: MaskSpec) -> None:
    early = keep.numbers - {-1}
    if spec.padded_queries_masked:
        reason = "a fixed slot is read, but the mask hides all keys from padded queries"
        raise PackingRefused(site.name, reason + WITHOUT_PADDING)
    if spec.unattended_rows_open:
        reason = "a fixed slot is read, but the mask shows every key to queries that would see none"
        raise PackingRefused(site.name, reason + WITHOUT_PADDING)
    if not _sees_a_token(spec, keep.numbers):
        reason = f"a fixed slot is read; where it is padding, '{spec.describe()}' may show it no valid key"
        raise PackingRefused(site.name, reason + WITHOUT_PADDING)
    if spec.causal and early and keep.key_lengths is None:
        reason = f"slot {min(early)} is read; under a causal mask a padded slot there may see no valid key"
        raise PackingRefused(site.name, reason + WITHOUT_PADDING)


def _sees_a_token(spec: MaskSpec, numbers: frozenset[int] | None) -> bool:
    """A kept slot (None: whichever) sees a token, causality aside.

    It does without a pattern, as a global token, and where positions count own tokens: it stands where one does.
    """
    if spec.of == OWN and spec.shows_itself:
        return True
    analytic = spec.analytic()
    if analytic is None:
        return False
    return not analytic.narrows or (numbers is not None and numbers <= set(analytic.global_tokens))


def _guard(slot: ir.Value, sites: Served, inputs: GraphInputs) -> Reach | None:
    """How far a chosen slot looks, where it may see nothing; None where it always sees a token."""
    limited = [(site, spec) for site, spec in sites if not _shows_all(spec)]
    if not limited:
        return None
    site, spec = limited[0]
    specs = [spec for _, spec in limited]
    try:
        sight = sight_of_slot(slot, specs, inputs)
    except MaskRefused as refusal:
        reason = f"slot '{slot.name}', chosen at run time, is read, and what it sees cannot be told: {refusal}"
        raise PackingRefused(site.name, reason) from None
    if sight is Sight.A_TOKEN:
        return None
    reach = reach_of(specs)
    if sight is Sight.UNKNOWN and reach is not None:
        return reach
    raise PackingRefused(
        site.name,
        f"slot '{slot.name}', chosen at run time, is read; where it is padding, '{spec.describe()}' may show it no "
        "valid key (rows padded on the left, for example); choose the last slot whose mask is 1, or use ragged inputs",
    )


def _shows_all(spec: MaskSpec) -> bool:
    """Whatever slot is read, it sees every token of its row."""
    plain = not (spec.causal or spec.padded_queries_masked or spec.unattended_rows_open)
    return plain and _sees_a_token(spec, None)
