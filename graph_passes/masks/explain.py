"""Explain a mask: accepted only where the graph's own values and a reading of its formula do not contradict."""

from __future__ import annotations

import dataclasses
import logging

import onnx_ir as ir

from raggedrt.graph_passes.masks.describe import describe_formula, describe_samples
from raggedrt.graph_passes.masks.extract import MaskGraph, MaskRefused, extract_mask
from raggedrt.graph_passes.masks.formula import Formula, Unreadable
from raggedrt.graph_passes.masks.grammar import opset_of, read_mask
from raggedrt.graph_passes.masks.inputs import GraphInputs, MaskAxes, Polarity
from raggedrt.graph_passes.masks.probe import ProbeResult, probe_mask
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.masks.truth_table import tabulate

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MaskExplanation:
    """What a mask was found to be.

    Attributes:
        spec: the mask; None where it is refused.
        reason: why it is refused, saying what was seen; None where it is understood.
        proved: the symbolic reading of the sub-graph gives this very spec (else it was only tested).
        formula: the symbolic reading in words; None where there is none.
        probed_lengths: lengths in tokens at which the mask was evaluated.
        unprobed_constants: constants of the sub-graph too large to probe around.
    """

    spec: MaskSpec | None
    reason: str | None = None
    proved: bool = False
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
        formula = _formula(graph, polarity, axes, inputs)
        read = None if formula is None else _spec_of(formula, inputs)
        if formula is not None and read is None:  # its values could only say less
            return MaskExplanation(None, describe_formula(formula, inputs.sequence), formula=str(formula))
        probed = probe_mask(graph, polarity, axes, inputs, opset_of(mask))
    except MaskRefused as refusal:
        return MaskExplanation(None, str(refusal))
    found = MaskExplanation(
        None,
        formula=None if formula is None else str(formula),
        probed_lengths=probed.lengths,
        unprobed_constants=probed.unprobed,
    )
    reason = _contradiction(probed, read)
    if reason is None:
        return dataclasses.replace(found, spec=read or probed.specs[0], proved=read is not None)
    if axes is MaskAxes.KEY_LENGTHS:
        reason = f"it gives key lengths, which say nothing of left padding: {reason}"
    return dataclasses.replace(found, reason=reason)


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


def _spec_of(formula: Formula, inputs: GraphInputs) -> MaskSpec | None:
    try:
        return tabulate(formula, inputs.sequence).spec()
    except Unreadable:
        return None


def _contradiction(probed: ProbeResult, read: MaskSpec | None) -> str | None:
    """Why the mask's values do not bear out what was read (or, where nothing was, any understood mask)."""
    if read is not None:
        if read in probed.specs:
            return None
        seen = probed.specs[0].describe() if probed.specs else describe_samples(probed.samples)
        return f"its formula reads '{read.describe()}' but its values say: {seen}"
    if not probed.specs:
        return describe_samples(probed.samples)
    if probed.unprobed:
        constants = ", ".join(map(str, probed.unprobed))
        return (
            f"it looks like {probed.specs[0].describe()}, but its constants {constants} are too large to probe around"
        )
    return None
