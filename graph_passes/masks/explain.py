"""Explain a mask: accepted only where the graph's own values and a reading of its formula do not contradict."""

from __future__ import annotations

import dataclasses
import logging

import onnx_ir as ir

from raggedrt.graph_passes.masks.bias import MaskBias
from raggedrt.graph_passes.masks.content import counts_own_tokens
from raggedrt.graph_passes.masks.describe import describe_formula, describe_samples
from raggedrt.graph_passes.masks.extract import MaskGraph, MaskRefused, extract_mask
from raggedrt.graph_passes.masks.fit import fitted_specs, frozen_specs, sight_of, sight_of_formula
from raggedrt.graph_passes.masks.formula import Formula, Unreadable
from raggedrt.graph_passes.masks.grammar import opset_of, read_mask
from raggedrt.graph_passes.masks.inputs import GraphInputs, MaskAxes, Polarity
from raggedrt.graph_passes.masks.key_slopes import explain_key_slopes
from raggedrt.graph_passes.masks.probe import ProbeResult, probe_mask
from raggedrt.graph_passes.masks.prove import Undecided, same_everywhere, same_meaning
from raggedrt.graph_passes.masks.samples import agrees, full_rows
from raggedrt.graph_passes.masks.spec import MaskSpec

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MaskExplanation:
    """What a mask was found to be.

    Attributes:
        spec: the mask; None where it is refused.
        reason: why it is refused, saying what was seen; None where it is understood.
        proved: the symbolic reading of the sub-graph gives this very spec (else it was only tested).
        bias: what is added to the scores of visible pairs, whatever the padding; None where nothing is.
        formula: the symbolic reading in words; None where there is none.
        probed_lengths: lengths in tokens at which the mask was evaluated.
        unprobed_constants: constants of the sub-graph too large to probe around.
    """

    spec: MaskSpec | None
    reason: str | None = None
    proved: bool = False
    bias: MaskBias | None = None
    formula: str | None = None
    probed_lengths: tuple[int, ...] = ()
    unprobed_constants: tuple[int, ...] = ()


def explain_mask(
    mask: ir.Value | None,
    polarity: Polarity,
    graph_inputs: GraphInputs,
    axes: MaskAxes = MaskAxes.BROADCAST,
) -> MaskExplanation:
    """Explain the mask of an attention site.

    Args:
        mask: the mask's value in its graph; None where the site has no mask.
        polarity: what an element does to its score.
        graph_inputs: the graph inputs it may depend on.
        axes: what its axes are.

    Returns:
        The spec, or the reason why there is none; never an exception for a strange mask.
    """
    if mask is None:
        return MaskExplanation(MaskSpec(), proved=True)
    inputs = with_fixed_sequence(mask, graph_inputs)
    try:
        graph = extract_mask(mask)
        if polarity is Polarity.ADDITIVE:
            slopes = explain_key_slopes(graph, axes, inputs, opset_of(mask))
            if slopes is not None:
                return MaskExplanation(MaskSpec(), bias=slopes, probed_lengths=(slopes.length,))
        if axes is MaskAxes.MERGED_HEADS_KEYS:
            return MaskExplanation(
                None, "what is added where batch and heads share an axis is no slope per head (ALiBi)"
            )
        formula = _formula(graph, polarity, axes, inputs)
        read, decided = (None, False) if formula is None else read_spec(formula, inputs.sequence)
        if formula is not None and read is None and decided and inputs.sequence is None:  # its values say only less
            return MaskExplanation(None, describe_formula(formula, None), formula=str(formula))
        probed = probe_mask(graph, polarity, axes, inputs, opset_of(mask))
    except MaskRefused as refusal:
        return MaskExplanation(None, str(refusal))
    found = MaskExplanation(
        None,
        bias=probed.bias,
        formula=None if formula is None else str(formula),
        probed_lengths=probed.lengths,
        unprobed_constants=probed.unprobed,
    )
    if read is not None and agrees(read, probed.samples, inputs):
        return dataclasses.replace(found, spec=read, proved=True)
    tested, reason = _tested(graph, probed, inputs, read)
    if reason is not None and axes is MaskAxes.KEY_LENGTHS:
        reason = f"it gives key lengths that are not the number of tokens in each row: {reason}"
    if formula is None or read is not None:
        return dataclasses.replace(found, spec=tested, reason=reason)
    if tested is None:
        return dataclasses.replace(found, reason=describe_formula(formula, inputs.sequence))
    proved = _proved_at_length(formula, tested, inputs.sequence)
    if proved is False:
        return dataclasses.replace(found, reason=describe_formula(formula, inputs.sequence))
    return dataclasses.replace(found, spec=tested, proved=proved is True)


def with_fixed_sequence(mask: ir.Value, inputs: GraphInputs) -> GraphInputs:
    """The sequence length of a graph without per-token inputs (ViT) stands in the mask's own shape."""
    known = inputs.attention_mask is not None or inputs.per_token or inputs.sequence is not None
    last = mask.shape[-1] if mask.shape is not None and len(mask.shape) else None
    if known or not isinstance(last, int) or last == 1:
        return inputs
    return dataclasses.replace(inputs, sequence=last)


def _formula(graph: MaskGraph, polarity: Polarity, axes: MaskAxes, inputs: GraphInputs) -> Formula | None:
    try:
        return read_mask(graph, polarity, axes, inputs)
    except Unreadable as stop:
        logger.debug("the mask %s is not read symbolically: %s", graph.output.name, stop)
    except Exception:  # a reading that fails on a strange graph proves nothing; the probes still hold
        logger.debug("the symbolic reading of mask %s failed", graph.output.name, exc_info=True)
    return None


def read_spec(formula: Formula, sequence: int | None) -> tuple[MaskSpec | None, bool]:
    """The simplest spec that is shown to mean what the formula says, and whether all others are shown not to."""
    decided = True
    try:
        for spec in filter(_provable, fitted_specs(sight_of_formula(formula, sequence))):
            try:
                if same_meaning(formula, spec, sequence):
                    return spec, True
            except Undecided as stop:
                logger.debug("%s is not compared with %s: %s", spec, formula, stop)
                decided = False
    except Unreadable as stop:
        logger.debug("no spec is compared with %s: %s", formula, stop)
    return None, decided


def _proved_at_length(formula: Formula, spec: MaskSpec, sequence: int | None) -> bool | None:
    """Whether every pair of a row of static length bears the spec out; None where that cannot be said."""
    if sequence is None or not _provable(spec):
        return None
    try:
        return same_everywhere(formula, spec, sequence)
    except (Unreadable, Undecided):
        return None


def _provable(spec: MaskSpec) -> bool:
    """A formula looks at one pair, opened rows at whole rows."""
    return not spec.unattended_rows_open


def _tested(
    graph: MaskGraph, probed: ProbeResult, inputs: GraphInputs, read: MaskSpec | None
) -> tuple[MaskSpec | None, str | None]:
    """The spec that every value of the mask bears out, or the reason why there is none."""
    longest = max(full_rows(probed.samples), key=lambda sample: sample.visible.shape[-1])
    lead = max(graph.thresholds(), default=0) + 2
    sight = sight_of(longest.visible[0], lead, (*graph.divisors(), *graph.thresholds()))
    whole = [s for s in fitted_specs(sight) if bool((s.visible(longest.padding) == longest.visible).all())]
    spec = next((spec for spec in whole if agrees(spec, probed.samples, inputs)), None)
    if read is not None:
        seen = describe_samples(probed.samples) if spec is None else spec.describe()
        return None, f"its formula reads '{read.describe()}' but its values say: {seen}"
    if spec is None and inputs.sequence is not None:
        spec = next((s for s in frozen_specs(longest.visible[0]) if agrees(s, probed.samples, inputs)), None)
    if spec is None:
        own = counts_own_tokens(whole, probed.samples)
        if own is not None:
            return (
                None,
                f"its positions count from the first token of a row, so left padding shifts it: {own.describe()}",
            )
        return None, describe_samples(probed.samples)
    if probed.unprobed:
        constants = ", ".join(map(str, probed.unprobed))
        return None, f"it looks like {spec.describe()}, but its constants {constants} are too large to probe around"
    return spec, None
