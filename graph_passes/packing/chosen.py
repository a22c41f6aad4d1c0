"""Slots chosen at run time (the last token of a classifier's rows): does a padded one see any token of its row?

A slot that sees none gets, in the original, a mean over padding; packing has no such thing. The choice is evaluated on
every kind of padding. One that the padding mask alone decides is shown to be fine, or refused; one that reads other
inputs (`input_ids != pad`) is packed, and a row whose slot sees no token of it becomes NaN: nothing is silently wrong.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from raggedrt.graph_passes.masks.extract import MaskGraph, MaskRefused, extract_mask, mask_model
from raggedrt.graph_passes.masks.feeds import probe_lengths, probes
from raggedrt.graph_passes.masks.grammar import opset_of
from raggedrt.graph_passes.masks.inputs import GraphInputs
from raggedrt.graph_passes.masks.probe import DoesNotRun, Evaluate, evaluator
from raggedrt.graph_passes.masks.spec import MaskSpec


class Sight(enum.Enum):
    """What a chosen slot sees."""

    A_TOKEN = "a token in every row that has one"
    UNKNOWN = "other inputs decide which slot it is"
    NOTHING = "in some row no token"


@dataclasses.dataclass(frozen=True)
class Reach:
    """How far a query looks, over all layers: slots before and after it; None: to the row's end."""

    left: int | None = None
    right: int | None = None


def reach_of(specs: Collection[MaskSpec]) -> Reach | None:
    """The narrowest reach of masks that are no more than causality and windows; None where one is more."""
    reach = Reach()
    for spec in specs:
        mask = spec.analytic()
        if mask is None or mask.dilation > 1 or mask.global_tokens or spec.padded_queries_masked:
            return None
        right = 0 if mask.causal else mask.window_right
        reach = Reach(_narrower(reach.left, mask.window_left), _narrower(reach.right, right))
    return reach


def _narrower(known: int | None, bound: int) -> int | None:
    if bound < 0:
        return known
    return bound if known is None else min(known, bound)


def sight_of_slot(slot: ir.Value, specs: Sequence[MaskSpec], inputs: GraphInputs) -> Sight:
    """Evaluate the choice of a slot at all lengths and on every kind of padding.

    Raises:
        MaskRefused: it cannot be evaluated by itself.
    """
    graph = extract_mask(slot)
    evaluate = evaluator(mask_model(graph, opset_of(slot)))
    lengths, _ = probe_lengths(graph, inputs)
    tried = [_sight_at(graph, length, evaluate, specs, inputs) for length in lengths]
    found = [sight for sight in tried if sight is not None]
    if not found:
        raise MaskRefused("it runs at no length that was tried")
    return next((sight for sight in (Sight.UNKNOWN, Sight.NOTHING) if sight in found), Sight.A_TOKEN)


def _sight_at(
    graph: MaskGraph, length: int, evaluate: Evaluate, specs: Sequence[MaskSpec], inputs: GraphInputs
) -> Sight | None:
    """At one length; None where the choice does not run there."""
    plain: npt.NDArray[np.int64] | None = None
    sight = Sight.A_TOKEN
    for probe in probes(graph, inputs, length):
        padding = probe.padding
        try:
            chosen = np.asarray(evaluate(probe.feed)).reshape(-1).astype(np.int64)
        except DoesNotRun:
            if probe.may_fail:
                continue
            return None
        if len(chosen) != len(padding):
            raise MaskRefused(f"it gives {len(chosen)} slots for {len(padding)} rows")
        if probe.varied is None:
            plain = chosen
        elif plain is not None and bool((chosen != plain).any()):
            return Sight.UNKNOWN
        if _blind(chosen, padding, specs).any():
            sight = Sight.NOTHING
    return sight


def _blind(
    chosen: npt.NDArray[np.int64], padding: npt.NDArray[np.int64], specs: Sequence[MaskSpec]
) -> npt.NDArray[np.bool_]:
    """Rows with a token of which the chosen slot sees none."""
    rows, length = padding.shape
    slots = np.where(chosen < 0, chosen + length, chosen)
    here = np.clip(slots, 0, length - 1)
    blind = here != slots
    for spec in specs:
        seen = spec.visible(padding)[np.arange(rows), here] & (padding != 0)
        blind |= ~seen.any(axis=1)
    return np.asarray(blind & padding.any(axis=1))
