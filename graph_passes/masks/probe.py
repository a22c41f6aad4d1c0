"""Evaluate a mask on chosen inputs and fit the specs that are understood to what it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from raggedrt.graph_passes.masks.extract import MaskGraph, MaskRefused, mask_model
from raggedrt.graph_passes.masks.feeds import Feed, probe_lengths, probes
from raggedrt.graph_passes.masks.inputs import MASKED_AT_MOST, GraphInputs, MaskAxes, Polarity
from raggedrt.graph_passes.masks.spec import UNDERSTOOD, BoolArray, MaskSpec

LABELS = "bnqk"
MIN_LENGTHS = 3
"""A mask of dynamic length must run at this many lengths."""


class DoesNotRun(Exception):  # noqa: N818 - control flow: this length or value is not one the graph accepts
    """The mask's sub-graph fails on a feed; the text is the first line of the runtime's message."""


Evaluate = Callable[[Feed], npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Sample:
    """A mask as it was seen.

    Attributes:
        padding: int64 [B, S], 1 = token.
        visible: bool [B, S_q, S_k].
    """

    padding: npt.NDArray[np.int64]
    visible: BoolArray


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What probing found.

    Attributes:
        samples: everything that was evaluated.
        specs: the understood specs that agree with every sample, simplest first.
        lengths: lengths in tokens at which the mask ran.
        unprobed: constants of the sub-graph around which no length could be tried.
    """

    samples: tuple[Sample, ...]
    specs: tuple[MaskSpec, ...]
    lengths: tuple[int, ...]
    unprobed: tuple[int, ...]


def probe_mask(graph: MaskGraph, polarity: Polarity, axes: MaskAxes, inputs: GraphInputs, opset: int) -> ProbeResult:
    """Evaluate the mask at lengths around every constant of its sub-graph.

    Raises:
        MaskRefused: it does not run, adds a bias, differs between heads, or depends on another input.
    """
    evaluate = evaluator(mask_model(graph, opset))
    lengths, unprobed = probe_lengths(graph, inputs)
    samples: list[Sample] = []
    ran: list[int] = []
    failure: DoesNotRun | None = None
    for length in lengths:
        try:
            found = _samples_at(graph, polarity, axes, inputs, length, evaluate)
        except DoesNotRun as error:
            failure = error
            continue
        samples += found
        ran.append(length)
    if len(ran) < min(MIN_LENGTHS, len(lengths)):
        raise MaskRefused(f"its sub-graph does not run on its own: {failure}")
    # A constant none of whose lengths ran was not probed either.
    lost = [c for c in graph.thresholds() if inputs.sequence is None and not {c + 1, 2 * c + 3} & set(ran)]
    specs = tuple(spec for spec in UNDERSTOOD if _agrees(spec, samples, inputs))
    return ProbeResult(tuple(samples), specs, tuple(ran), tuple(sorted({*unprobed, *lost})))


def _agrees(spec: MaskSpec, samples: Sequence[Sample], inputs: GraphInputs) -> bool:
    if inputs.attention_mask is None and any(term.needs_padding for term in spec.terms):
        return False
    return all(bool((spec.visible(sample.padding) == sample.visible).all()) for sample in samples)


def evaluator(model: ir.Model) -> Evaluate:
    """Run a model on the CPU: onnxruntime, or ONNX's reference evaluator where it is not installed."""
    proto = ir.to_proto(model)
    try:
        import onnxruntime as ort
    except ImportError:
        import onnx.reference

        reference: Any = onnx.reference.ReferenceEvaluator(proto)
        return _guarded(lambda feed: reference.run(None, dict(feed)))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    run_options = ort.RunOptions()
    run_options.log_severity_level = 4
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes share no public base
        raise MaskRefused(f"its sub-graph does not load on its own: {_first_line(error)}") from error
    return _guarded(lambda feed: session.run(None, feed, run_options))


def _guarded(run: Callable[[Feed], Any]) -> Evaluate:
    def evaluate(feed: Feed) -> npt.NDArray[Any]:
        try:
            return np.asarray(run(feed)[0])
        except Exception as error:  # the runtimes' own classes share no public base
            raise DoesNotRun(_first_line(error)) from error

    return evaluate


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _samples_at(
    graph: MaskGraph,
    polarity: Polarity,
    axes: MaskAxes,
    inputs: GraphInputs,
    length: int,
    evaluate: Evaluate,
) -> list[Sample]:
    samples: list[Sample] = []
    for probe in probes(graph, inputs, length):
        batch = probe.padding.shape[0]
        try:
            value = evaluate(probe.feed)
        except DoesNotRun:
            if probe.may_fail:
                continue
            raise
        visible = visible_pairs(value, polarity, axes, batch, length)
        if probe.varied is None:
            samples.append(Sample(probe.padding, visible))
        elif not bool((visible == samples[-1].visible).all()):
            raise MaskRefused(f"it depends on input {probe.varied}")
    return samples


def visible_pairs(mask: npt.NDArray[Any], polarity: Polarity, axes: MaskAxes, batch: int, length: int) -> BoolArray:
    """A mask's value as bool [B, S_q, S_k].

    Raises:
        MaskRefused: it adds a bias, differs between heads, or has sizes of something else.
    """
    if axes is MaskAxes.KEY_LENGTHS:
        if mask.shape != (batch,):
            raise MaskRefused(f"key lengths of shape {list(mask.shape)} (start positions are not understood)")
        keep = np.arange(length) < mask[:, None]
        labels = "bk"
    else:
        keep = _kept(mask, polarity)
        labels = axes.value
    if keep.ndim > len(labels):
        raise MaskRefused(f"it has rank {keep.ndim}")
    labels = labels[len(labels) - keep.ndim :]
    sizes = {"b": batch, "n": None, "q": length, "k": length}
    for label, size in zip(labels, keep.shape, strict=True):
        if size not in (1, sizes[label]) and sizes[label] is not None:
            raise MaskRefused(
                f"its {label} axis has size {size} where {sizes[label]} or 1 is expected "
                "(queries and keys of different length are not understood)"
            )
    full = keep.reshape([keep.shape[labels.index(label)] if label in labels else 1 for label in LABELS])
    if full.shape[1] > 1 and not bool((full == full[:, :1]).all()):
        raise MaskRefused("it differs between heads")
    return np.broadcast_to(full[:, 0], (batch, length, length))


def _kept(mask: npt.NDArray[Any], polarity: Polarity) -> BoolArray:
    if polarity is Polarity.BOOL_KEEP:
        return np.asarray(mask != 0)
    if polarity is Polarity.BOOL_DROP:
        return np.asarray(mask == 0)
    if mask.dtype == np.bool_:
        raise MaskRefused("booleans are added to the scores")
    keep: BoolArray = mask == 0
    hidden = mask <= MASKED_AT_MOST
    if not bool((keep | hidden).all()):
        bias = mask[~(keep | hidden)].ravel()[0]
        raise MaskRefused(f"it adds a bias to the scores (for example {float(bias):.6g})")
    return keep
