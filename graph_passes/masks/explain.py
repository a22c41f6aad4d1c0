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
    try:
        graph = extract_mask(mask)
        graph_inputs = with_fixed_sequence(mask, graph_inputs)
        probed = probe_mask(graph, polarity, axes, graph_inputs, opset_of(mask))
    except MaskRefused as refusal:
        return MaskExplanation(None, str(refusal))
    formula = _formula(graph, polarity, axes, graph_inputs)
    found = _judge(probed, formula, graph_inputs)
    if found.spec is None and axes is MaskAxes.KEY_LENGTHS:
        return dataclasses.replace(
            found, reason=f"it gives key lengths, which say nothing of left padding: {found.reason}"
        )
    return found


def with_fixed_sequence(mask: ir.Value, inputs: GraphInputs) -> GraphInputs:
    """The sequence length of a graph without per-token inputs (ViT) stands in the mask's own shape."""
    known = inputs.attention_mask is not None or inputs.per_token or inputs.sequence is not None
    if known or mask.shape is None or not len(mask.shape) or not isinstance(mask.shape[-1], int):
        return inputs
    return dataclasses.replace(inputs, sequence=mask.shape[-1])


def _formula(graph: MaskGraph, polarity: Polarity, axes: MaskAxes, inputs: GraphInputs) -> Formula | None:
    try:
        return read_mask(graph, polarity, axes, inputs)
    except Unreadable as stop:
        logger.debug("the mask %s is not read symbolically: %s", graph.output.name, stop)
    except Exception:  # a reading that fails on a strange graph proves nothing; the probes still hold
        logger.debug("the symbolic reading of mask %s failed", graph.output.name, exc_info=True)
    return None


def _judge(probed: ProbeResult, formula: Formula | None, inputs: GraphInputs) -> MaskExplanation:
    """Weigh the probes against the formula."""
    found = MaskExplanation(
        None,
        formula=None if formula is None else str(formula),
        probed_lengths=probed.lengths,
        unprobed_constants=probed.unprobed,
    )
    if formula is not None:
        return _judge_with_formula(found, probed, formula, inputs)
    if not probed.specs:
        return dataclasses.replace(found, reason=describe_samples(probed.samples))
    if probed.unprobed:
        constants = ", ".join(map(str, probed.unprobed))
        reason = (
            f"it looks like {probed.specs[0].describe()}, but its constants {constants} are too large to probe around"
        )
        return dataclasses.replace(found, reason=reason)
    return dataclasses.replace(found, spec=probed.specs[0])


def _judge_with_formula(
    found: MaskExplanation, probed: ProbeResult, formula: Formula, inputs: GraphInputs
) -> MaskExplanation:
    try:
        spec = tabulate(formula, inputs.sequence).spec()
    except Unreadable:
        spec = None
    if spec is None:
        return dataclasses.replace(found, reason=describe_formula(formula, inputs.sequence))
    if spec not in probed.specs:
        seen = probed.specs[0].describe() if probed.specs else describe_samples(probed.samples)
        reason = f"its formula reads '{spec.describe()}' but its values say: {seen}"
        return dataclasses.replace(found, reason=reason)
    return dataclasses.replace(found, spec=spec, proved=True)
