"""ALiBi as exporters spell it: a number per head and key that grows with the key's place, whatever the query.

    term[b, n, k] = slope[n] * place[b, k] + anything that is the same for all keys

A softmax does not notice what is added to all keys of a query alike, so under causality this is -slope * (query - key).
The place is a slot, or counts a row's own tokens (`cumsum(mask) - 1`). It is tested, at lengths at which numbers
rounded to half precision are told from exact ones and around the constants of its sub-graph, where places may be cut
or begin again; what padded keys have does not matter, for they are hidden.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from raggedrt.export.widen import is_narrow
from raggedrt.graph_passes.masks.bias import ALIBI, MaskBias
from raggedrt.graph_passes.masks.extract import MaskGraph, MaskRefused, mask_model
from raggedrt.graph_passes.masks.feeds import SMALL_LENGTHS, probes
from raggedrt.graph_passes.masks.inputs import GraphInputs, MaskAxes
from raggedrt.graph_passes.masks.pairs import OWN, PADDED
from raggedrt.graph_passes.masks.probe import DoesNotRun, Evaluate, evaluator

LONG_LENGTHS = (300, 1031, 4099)
"""Beyond the integers that bfloat16 and float16 have (256 and 2048)."""
MIN_LENGTHS = 3
MAX_NUMBERS = 2**23
"""Heads times tokens of a length that is tested."""
RELATIVE_ERROR = 2e-6
"""Of a product of two float32 numbers and a sum, with some room."""

ROUNDED = "it adds slopes by place (ALiBi) in 16 bits, which do not tell far places apart; export the model in float32"

_Numbers = npt.NDArray[np.float64]
_Rows = list[tuple[npt.NDArray[np.int64], _Numbers]]
"""Padding masks [B, S] and what is added to their keys, [B, N, S]."""


def explain_key_slopes(graph: MaskGraph, axes: MaskAxes, inputs: GraphInputs, opset: int) -> MaskBias | None:
    """The slopes of a term that is added to the scores; None where it is something else.

    Raises:
        MaskRefused: its sub-graph cannot be evaluated, or rounds to 16 bits, in which far places are alike.
    """
    if axes not in (MaskAxes.BROADCAST, MaskAxes.MERGED_HEADS_KEYS) or graph.output.dtype is ir.DataType.BOOL:
        return None
    model = mask_model(graph, opset)
    evaluate = evaluator(model)
    first = _rows_at(graph, axes, inputs, inputs.sequence or SMALL_LENGTHS[-1], evaluate)
    slopes = _slopes_of(*first[0]) if first else None
    if slopes is None:
        return None
    lengths = _lengths(graph, inputs, len(slopes))
    found = {length: _rows_at(graph, axes, inputs, length, evaluate) for length in lengths}
    by_length = {length: rows for length, rows in found.items() if rows is not None}
    ran = [length for length, rows in by_length.items() if rows]
    if len(by_length) < len(found) or len(ran) < min(MIN_LENGTHS, len(lengths)):
        return None
    untested = [number for number in graph.thresholds() if inputs.sequence is None and number + 2 not in found]
    for of in (PADDED, OWN):
        fits = {length: all(_fits(slopes, *pair, of) for pair in rows) for length, rows in by_length.items()}
        near = [fit for length, fit in fits.items() if length <= SMALL_LENGTHS[-1]]
        if all(fits.values()) and not is_narrow(model):
            if untested:
                raise MaskRefused(f"it adds slopes by place (ALiBi) that may change at {untested[0]}, too far to test")
            return MaskBias(ALIBI, slopes.astype(np.float32), max(ran), of)
        if near and all(near) and (is_narrow(model) or _in_half(graph)):
            raise MaskRefused(ROUNDED)
    return None


def _lengths(graph: MaskGraph, inputs: GraphInputs, heads: int) -> tuple[int, ...]:
    """Lengths to test at; before and behind every constant that is not too large."""
    if inputs.sequence is not None:
        return (inputs.sequence,)
    around = {length for number in graph.thresholds() for length in (number, number + 2, 2 * number + 3)}
    near = {length for length in around if heads * length <= MAX_NUMBERS}
    return tuple(sorted({*SMALL_LENGTHS, *LONG_LENGTHS, *near}))


def _in_half(graph: MaskGraph) -> bool:
    return any(output.dtype is ir.DataType.FLOAT16 for node in graph.nodes for output in node.outputs)


def _rows_at(graph: MaskGraph, axes: MaskAxes, inputs: GraphInputs, length: int, evaluate: Evaluate) -> _Rows | None:
    """What the term is on every kind of padding; nothing where it does not run, None where it is no such term."""
    rows: _Rows = []
    for probe in probes(graph, inputs, length):
        try:
            value = np.asarray(evaluate(probe.feed))
        except DoesNotRun:
            if probe.may_fail:
                continue
            return []
        by_key = _by_key(value, axes, len(probe.padding))
        if by_key is None:
            return None
        if by_key.shape[-1] != length:
            return []  # scores of this length could not be added to
        rows.append((probe.padding, np.broadcast_to(by_key, (len(probe.padding), *by_key.shape[1:]))))
    return rows


def _by_key(value: npt.NDArray[np.generic], axes: MaskAxes, batch: int) -> _Numbers | None:
    """[B|1, N, S] of finite numbers; None where queries differ or there is nothing of the kind."""
    if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
        return None
    if axes is MaskAxes.BROADCAST:
        if value.ndim < 2 or value.ndim > 4 or value.shape[-2] != 1:
            return None
        value = value.reshape((1,) * (4 - value.ndim) + value.shape)[:, :, 0]
    elif value.ndim == 3 and value.shape[1] == 1 and len(value) % batch == 0:
        value = value.reshape(batch, len(value) // batch, value.shape[2])
    if value.ndim != 3 or value.shape[-1] == 0:
        return None
    numbers = value.astype(np.float64)
    return numbers if bool(np.isfinite(numbers).all()) else None


def _slopes_of(padding: npt.NDArray[np.int64], values: _Numbers) -> npt.NDArray[np.float64] | None:
    """From the first row that has two tokens; None where nothing rises or falls."""
    for mask, row in zip(padding, values, strict=True):
        tokens = np.flatnonzero(mask)
        if len(tokens) == len(mask) and len(tokens) > 1:
            slopes = (row[:, -1] - row[:, 0]) / (len(tokens) - 1)
            return slopes if bool(slopes.any()) else None
    return None


def _fits(slopes: npt.NDArray[np.float64], padding: npt.NDArray[np.int64], values: _Numbers, of: str) -> bool:
    """Whether the keys of every row's tokens have what the slopes say, but for a number that they share."""
    places = (
        np.cumsum(padding, axis=1) - 1 if of == OWN else np.broadcast_to(np.arange(padding.shape[1]), padding.shape)
    )
    for mask, place, row in zip(padding, places, values, strict=True):
        tokens = np.flatnonzero(mask)
        if len(row) != len(slopes) or not len(tokens):
            if len(row) != len(slopes):
                return False
            continue
        seen = row[:, tokens]
        want = seen[:, :1] + slopes[:, None] * (place[tokens] - place[tokens[0]])
        largest = max(float(np.abs(seen).max()), float(np.abs(want).max()))
        if bool((np.abs(seen - want) > RELATIVE_ERROR * largest).any()):
            return False
    return True
