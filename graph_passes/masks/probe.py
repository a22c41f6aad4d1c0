"""Evaluate a mask on chosen inputs, and compare specs with what it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from raggedrt.export.widen import is_narrow, widen
from raggedrt.graph_passes.masks.bias import MAX_ELEMENTS, FloatArray, MaskBias, explain_bias, merged_bias
from raggedrt.graph_passes.masks.content import describe_dependence
from raggedrt.graph_passes.masks.extract import MaskGraph, MaskRefused, mask_model
from raggedrt.graph_passes.masks.feeds import Feed, probe_lengths, probes
from raggedrt.graph_passes.masks.inputs import MASKED_AT_MOST, GraphInputs, MaskAxes, Polarity
from raggedrt.graph_passes.masks.pairs import BoolArray
from raggedrt.graph_passes.masks.samples import Sample

LABELS = "bnqk"
MIN_LENGTHS = 3
"""A mask of dynamic length must run at this many lengths."""


class DoesNotRun(Exception):  # noqa: N818 - control flow: this length or value is not one the graph accepts
    """The mask's sub-graph fails on a feed; the text is the first line of the runtime's message."""


class WrongSize(MaskRefused):
    """The mask has sizes of something else than the row's length."""


Evaluate = Callable[[Feed], npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What probing found.

    Attributes:
        samples: everything that was evaluated.
        bias: what is added to visible pairs, if anything.
        lengths: lengths in tokens at which the mask ran.
        unprobed: constants of the sub-graph around which no length could be tried.
    """

    samples: tuple[Sample, ...]
    bias: MaskBias | None
    lengths: tuple[int, ...]
    unprobed: tuple[int, ...]


def probe_mask(graph: MaskGraph, polarity: Polarity, axes: MaskAxes, inputs: GraphInputs, opset: int) -> ProbeResult:
    """Evaluate the mask at lengths around every constant of its sub-graph.

    Raises:
        MaskRefused: it does not run, differs between heads, depends on another input, or its bias depends on padding.
    """
    evaluate = evaluator(mask_model(graph, opset))
    lengths, unprobed = probe_lengths(graph, inputs)
    samples: list[Sample] = []
    ran: list[int] = []
    failure: DoesNotRun | WrongSize | None = None
    for length in lengths:
        try:
            found = _samples_at(graph, polarity, axes, inputs, length, evaluate)
        except (DoesNotRun, WrongSize) as error:  # scores of that length could not be added to a mask of another
            failure = error
            continue
        samples += found
        ran.append(length)
    if len(ran) < min(MIN_LENGTHS, len(lengths)):
        if isinstance(failure, WrongSize):
            raise failure
        raise MaskRefused(f"its sub-graph does not run on its own: {failure}")
    # A constant none of whose lengths ran was not probed either.
    lost = [c for c in graph.thresholds() if inputs.sequence is None and not {c + 1, 2 * c + 3} & set(ran)]
    return ProbeResult(tuple(samples), _bias_of(samples), tuple(ran), tuple(sorted({*unprobed, *lost})))


def _bias_of(samples: Sequence[Sample]) -> MaskBias | None:
    if all(sample.bias is None for sample in samples):
        return None
    by_length: dict[int, list[FloatArray]] = {}
    for sample in samples:
        bias = sample.bias
        if bias is None:
            bias = np.where(sample.visible, np.float32(0), np.float32(np.nan))[:, None]
        by_length.setdefault(sample.visible.shape[-1], []).append(bias)
    return explain_bias({length: merged_bias(biases) for length, biases in by_length.items()})


def evaluator(model: ir.Model) -> Evaluate:
    """Run a model on the CPU: onnxruntime, or ONNX's reference evaluator where it is not installed."""
    proto = ir.to_proto(model)
    wide = ir.from_proto(proto)
    if is_narrow(wide):  # onnxruntime's CPU provider has no Where of bfloat16, for example
        widen(wide)
        proto = ir.to_proto(wide)
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
        try:
            value = evaluate(probe.feed)
        except DoesNotRun:
            if probe.may_fail:
                continue
            raise
        sample = sample_of(probe.padding, value, polarity, axes)
        if probe.varied is None:
            samples.append(sample)
        elif not sample.same(samples[-1]):
            words = describe_dependence(probe.feed[probe.varied], samples[-1].visible, sample.visible)
            raise MaskRefused(f"it depends on input {probe.varied}{words}")
    return samples


def sample_of(padding: npt.NDArray[np.int64], mask: npt.NDArray[Any], polarity: Polarity, axes: MaskAxes) -> Sample:
    """What a mask's value says about each pair.

    Raises:
        MaskRefused: what it hides differs between heads, or it has sizes of something else.
    """
    batch, length = padding.shape
    bias: npt.NDArray[Any] | None = None
    if axes is MaskAxes.KEY_LENGTHS:
        if mask.shape != (batch,):
            raise MaskRefused(f"key lengths of shape {list(mask.shape)} (start positions are not understood)")
        keep, labels = np.arange(length) < mask[:, None], "bk"
        padding = counted_from_the_start(padding)
    else:
        keep, bias = _kept(mask, polarity)
        labels = axes.value
    if keep.ndim > len(labels):
        raise MaskRefused(f"it has rank {keep.ndim}")
    labels = labels[len(labels) - keep.ndim :]
    sizes = {"b": batch, "n": None, "q": length, "k": length}
    for label, size in zip(labels, keep.shape, strict=True):
        if size not in (1, sizes[label]) and sizes[label] is not None:
            raise WrongSize(
                f"its {label} axis has size {size} where {sizes[label]} or 1 is expected "
                "(queries and keys of different length are not understood)"
            )
    four = [keep.shape[labels.index(label)] if label in labels else 1 for label in LABELS]
    full = keep.reshape(four)
    if full.shape[1] > 1 and not bool((full == full[:, :1]).all()):
        raise MaskRefused("it differs between heads")
    visible = np.broadcast_to(full[:, 0], (batch, length, length))
    if bias is None:
        return Sample(padding, visible)
    shape = (four[0], four[1], length, length)
    if int(np.prod(shape)) > MAX_ELEMENTS:
        raise MaskRefused(f"it adds a bias of {int(np.prod(shape))} elements, too many to look at")
    return Sample(padding, visible, np.broadcast_to(bias.reshape(four).astype(np.float32), shape))


def counted_from_the_start(padding: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The padding that key lengths see: a row's tokens are counted, wherever they stand."""
    return np.asarray(np.arange(padding.shape[1]) < padding.sum(axis=1, keepdims=True)).astype(np.int64)


def _kept(mask: npt.NDArray[Any], polarity: Polarity) -> tuple[BoolArray, npt.NDArray[Any] | None]:
    """Visibility, and what is added where visible (NaN where hidden) if that is ever anything but zero."""
    if polarity is Polarity.BOOL_KEEP:
        return np.asarray(mask != 0), None
    if polarity is Polarity.BOOL_DROP:
        return np.asarray(mask == 0), None
    if mask.dtype == np.bool_:
        raise MaskRefused("booleans are added to the scores")
    keep: BoolArray = ~(mask <= MASKED_AT_MOST)
    if bool((~np.isfinite(mask[keep].astype(np.float64))).any()):
        raise MaskRefused("it adds numbers that are infinite or none")
    if not bool(mask[keep].any()):
        return keep, None
    return keep, np.where(keep, mask.astype(np.float32), np.float32(np.nan))
