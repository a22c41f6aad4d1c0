"""Inputs with which a mask is probed: lengths around every constant, and padding of every kind."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from raggedrt.graph_passes.masks.extract import MaskGraph, MaskRefused
from raggedrt.graph_passes.masks.inputs import GraphInputs

PADDING_ROWS = 8
"""Kinds of padded rows in `paddings`."""
LONG_ROWS = 3
"""Of these, the rows that are probed where a batch of them all would be large: full, left padding, holes."""
LONG = 64
"""Tokens beyond which a batch of every kind of row is large."""
LONG_STATIC = 1024
"""The same where the batch size is static, and a small batch means many evaluations."""
SMALL_LENGTHS = (1, 2, 5, 16, 23)
"""Lengths in tokens that every mask is probed at."""
MAX_PAIRS = 2**25
"""Most query-key pairs (batch x sequence^2) of all probes around constants of one mask together."""
MAX_STATIC_PAIRS = 2**27
"""Most query-key pairs of one evaluation (and of all paddings together) where the shape is static."""
SMALL_VALUES = (0, 1, 2, 3)
"""Values of inputs that are not the padding mask: token ids, segments, positions, all within any table."""
SEED = 20240607

Feed = dict[str, npt.NDArray[np.generic]]


@dataclasses.dataclass(frozen=True)
class Probe:
    """One evaluation of the mask.

    Attributes:
        padding: attention_mask, int64 [B, S]; all ones where the graph has no such input.
        feed: value of every graph input.
        varied: the input that differs from the previous plain probe of the same padding, if that is all that differs.
        may_fail: values that no caller might give (ids beyond a table) are tried, too.
    """

    padding: npt.NDArray[np.int64]
    feed: Feed
    varied: str | None
    may_fail: bool = False


def probe_lengths(graph: MaskGraph, inputs: GraphInputs) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Lengths to probe at, ascending, and the constants too large to be probed around."""
    if inputs.sequence is not None:
        pairs = max(inputs.batch or PADDING_ROWS, PADDING_ROWS) * inputs.sequence**2
        return ((inputs.sequence,), ()) if pairs <= MAX_STATIC_PAIRS else ((), (inputs.sequence,))
    thresholds = graph.thresholds()
    rows = LONG_ROWS if inputs.batch is None else max(inputs.batch, PADDING_ROWS)
    lengths, skipped, spent = set(SMALL_LENGTHS), [], 0
    for constant in thresholds:
        around = {constant - 1, constant, constant + 1, 2 * constant + 3}
        if constant in graph.divisors():  # blocks: a constant may count them, too
            around.add(constant * (sum(thresholds) - constant + 3) + 3)
        pairs = sum(rows * length * length for length in around - lengths)
        if spent + pairs > MAX_PAIRS:
            skipped.append(constant)
            continue
        spent += pairs
        lengths |= around
    together = 2 * sum(set(thresholds) - set(skipped)) + 3  # where several conditions leave something between them
    if spent + rows * together * together <= MAX_PAIRS:
        lengths.add(together)
    return tuple(sorted(lengths)), tuple(skipped)


def paddings(length: int, batch: int | None, rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    """Padding masks [B, S] that together hold every kind of row: full, right, left, holes, one token, none."""
    slots = np.arange(length)
    rows = np.stack(
        [
            np.ones(length, dtype=bool),
            slots < max(1, length // 2),
            slots >= length // 2,
            rng.random(length) < 0.6,
            (slots >= length // 4) & (slots < max(1, length - length // 4)),
            slots == length - 1,
            np.zeros(length, dtype=bool),
            slots == 0,
        ]
    ).astype(np.int64)
    if length > (LONG if batch is None else LONG_STATIC):
        rows = rows[[0, 2, 3]]
    if batch is not None:
        padded = np.concatenate([rows, rows[: -len(rows) % batch]]) if len(rows) % batch else rows
        padded = np.resize(padded, (max(batch, len(padded)), length))
        return [padded[start : start + batch] for start in range(0, len(padded) - batch + 1, batch)]
    if length > LONG:
        return [rows]
    return [rows, rows[:2], np.ones((3, length), dtype=np.int64)]


def probes(graph: MaskGraph, inputs: GraphInputs, length: int) -> list[Probe]:
    """All probes at one length; inputs other than the padding mask change one at a time."""
    rng = np.random.default_rng([SEED, length])
    side = [value for value in graph.inputs if value.name != inputs.attention_mask]
    result = []
    for padding in paddings(length, inputs.batch, rng):
        plain = {value.name or "": _side_values(value, inputs, padding, None) for value in side}
        if any(value.name == inputs.attention_mask for value in graph.inputs):
            mask_input = next(value for value in graph.inputs if value.name == inputs.attention_mask)
            plain[mask_input.name or ""] = padding.astype(_numpy_type(mask_input))
        result.append(Probe(padding, plain, None))
        for value in side:
            name = value.name or ""
            for pool in (SMALL_VALUES, tuple(sorted(graph.numbers() | set(SMALL_VALUES)))):
                changed = {**plain, name: _side_values(value, inputs, padding, (pool, rng))}
                result.append(Probe(padding, changed, name, may_fail=pool is not SMALL_VALUES))
    return result


def _numpy_type(value: ir.Value) -> np.dtype[np.generic]:
    return np.dtype(np.int64) if value.dtype is None else value.dtype.numpy()


def _side_values(
    value: ir.Value,
    inputs: GraphInputs,
    padding: npt.NDArray[np.int64],
    draw: tuple[tuple[int, ...], np.random.Generator] | None,
) -> npt.NDArray[np.generic]:
    """An input that is not the padding mask: counting up along its last axis, or drawn from a pool."""
    shape = _side_shape(value, inputs, padding.shape)
    dtype = _numpy_type(value)
    if dtype.kind not in "iubf" and dtype.name not in ("bfloat16",):
        raise MaskRefused(f"it reads input {value.name} of type {dtype}")
    if draw is None:
        last = shape[-1] if shape else 1
        return np.broadcast_to(np.arange(last) % 2 if dtype.kind == "b" else np.arange(last), shape).astype(dtype)
    pool, rng = draw
    limits = np.iinfo(dtype.str) if dtype.kind in "iu" else None
    fitting = [item for item in pool if limits is None or limits.min <= item <= limits.max]
    return rng.choice(np.array(fitting), size=shape).astype(dtype)


def _side_shape(value: ir.Value, inputs: GraphInputs, sizes: tuple[int, ...]) -> tuple[int, ...]:
    batch, length = sizes
    if value.name in inputs.per_token:
        return batch, length
    if value.shape is None:
        raise MaskRefused(f"it reads input {value.name}, whose shape is unknown")
    shape = []
    for dim in value.shape:
        if isinstance(dim, int):
            shape.append(dim)
        elif dim.value in inputs.batch_symbols:
            shape.append(batch)
        elif dim.value in inputs.sequence_symbols:
            shape.append(length)
        else:
            raise MaskRefused(f"it reads input {value.name}, whose axis {dim.value} is neither batch nor sequence")
    return tuple(shape)
