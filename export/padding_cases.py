"""Feeds for verification: every kind of padding, with values in which every input matters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raggedrt.errors import InputError
from raggedrt.export.numerics import Case

Layout = Callable[[np.random.Generator, int, int], NDArray[np.bool_]]


@dataclass(frozen=True)
class InputSpec:
    """How to make values for one input.

    Attributes:
        name: Name of the input.
        dtype: Its dtype.
        axes: Per axis "batch", "sequence", or a fixed size.
        role: "mask" is 1 at valid slots; "ids" takes the padding id at padded slots; "values" is anything else.
        low: Smallest integer value.
        high: One more than the largest integer value.
    """

    name: str
    dtype: np.dtype[Any]
    axes: tuple[Literal["batch", "sequence"] | int, ...]
    role: Literal["mask", "ids", "values"] = "values"
    low: int = 0
    high: int = 2


def _lengths(rng: np.random.Generator, batch: int, sequence: int) -> NDArray[np.int64]:
    """Returns [batch] lengths: one full row, one of length 1, the others random."""
    lengths = rng.integers(1, sequence + 1, batch)
    lengths[0] = sequence
    lengths[-1] = 1 if batch > 1 else sequence
    return lengths


def _full(rng: np.random.Generator, batch: int, sequence: int) -> NDArray[np.bool_]:
    return np.ones((batch, sequence), dtype=np.bool_)


def _right(rng: np.random.Generator, batch: int, sequence: int) -> NDArray[np.bool_]:
    return np.asarray(np.arange(sequence)[None, :] < _lengths(rng, batch, sequence)[:, None])


def _left(rng: np.random.Generator, batch: int, sequence: int) -> NDArray[np.bool_]:
    return np.ascontiguousarray(_right(rng, batch, sequence)[:, ::-1])


def _holes(rng: np.random.Generator, batch: int, sequence: int) -> NDArray[np.bool_]:
    """Random slots are invalid, the first one of the last row among them; every row keeps a token."""
    valid = rng.random((batch, sequence)) < 0.6
    valid[-1, 0] = sequence == 1
    valid[:, -1] = True
    return valid


def _empty_row(rng: np.random.Generator, batch: int, sequence: int) -> NDArray[np.bool_]:
    valid = _right(rng, batch, sequence)
    if batch > 1:
        valid[-1] = False
    return valid


# name, batch, sequence (tokens), layout. Lengths differ so that a per-token axis can be recognised.
LAYOUTS: tuple[tuple[str, int, int, Layout], ...] = (
    ("full", 3, 24, _full),
    ("right padding", 3, 17, _right),
    ("left padding", 3, 19, _left),
    ("holes", 2, 21, _holes),
    ("one token", 2, 1, _full),
    ("empty row", 3, 12, _empty_row),
    ("one long row", 1, 72, _full),
)


def padding_cases(
    specs: Sequence[InputSpec],
    *,
    pad_token_id: int = 0,
    position_limit: int | None = None,
    long_length: int | None = None,
    seed: int = 0,
) -> list[Case]:
    """Returns one case per layout; layouts that need padding are left out where no input is a mask.

    Args:
        specs: The inputs.
        pad_token_id: What padded slots of "ids" inputs hold.
        position_limit: Longest sequence, in tokens.
        long_length: A length that is tried as well, without padding, with it on either side and with holes.
        seed: Of the random generator.
    """
    rng = np.random.default_rng(seed)
    batch_fixed, sequence_fixed = _fixed_size(specs, 0), _fixed_size(specs, 1)
    has_mask = any(spec.role == "mask" for spec in specs)
    cases = []
    long = [(f"long rows, {name}", 2, long_length, layout) for name, _, _, layout in LAYOUTS[:4] if long_length]
    for name, batch, length, layout in (*LAYOUTS, *long):
        sequence = sequence_fixed or min(length, position_limit or length)
        if (sequence_fixed and name in ("one token", "one long row")) or (not has_mask and layout is not _full):
            continue
        valid = layout(rng, batch_fixed or batch, sequence)
        feeds = {spec.name: _values(rng, spec, valid, pad_token_id) for spec in specs}
        cases.append(Case(name, feeds, valid))
    return cases


def sample_case(specs: Sequence[InputSpec], length: int, *, pad_token_id: int = 0, seed: int = 1) -> Case:
    """Returns one batch of two rows padded on the right, the longer one of `length` tokens (or the inputs' own).

    Args:
        specs: The inputs.
        length: Tokens of the longest row.
        pad_token_id: What padded slots of "ids" inputs hold.
        seed: Of the random generator.
    """
    rng = np.random.default_rng(seed)
    sequence = _fixed_size(specs, 1) or length
    valid = np.ones((_fixed_size(specs, 0) or 2, sequence), dtype=np.bool_)
    if len(valid) > 1 and any(spec.role == "mask" for spec in specs):
        valid[-1, max(1, 3 * sequence // 4) :] = False
    feeds = {spec.name: _values(rng, spec, valid, pad_token_id) for spec in specs}
    return Case(f"sample of {sequence} tokens", feeds, valid)


def _fixed_size(specs: Sequence[InputSpec], axis: int) -> int | None:
    """Returns the size that the mask or the ids fix for an axis, None where it is dynamic."""
    for spec in specs:
        if spec.role != "values" and len(spec.axes) > axis:
            size = spec.axes[axis]
            return size if isinstance(size, int) else None
    return None


def _values(rng: np.random.Generator, spec: InputSpec, valid: NDArray[np.bool_], pad_token_id: int) -> NDArray[Any]:
    """Returns random values of the right shape."""
    sizes = {"batch": valid.shape[0], "sequence": valid.shape[1]}
    shape = tuple(axis if isinstance(axis, int) else sizes[axis] for axis in spec.axes)
    if spec.role == "mask":
        if shape != valid.shape:
            raise InputError(f"Input '{spec.name}': expected a mask [batch, sequence], found the axes {spec.axes}.")
        return valid.astype(spec.dtype)
    if spec.dtype.kind == "f":
        return rng.standard_normal(shape).astype(spec.dtype)
    if spec.dtype.kind == "b":
        return rng.random(shape) < 0.5
    values = rng.integers(spec.low, max(spec.high, spec.low + 1), shape)
    if spec.role == "ids" and shape == valid.shape:
        other = spec.low if pad_token_id != spec.low else min(spec.low + 1, spec.high - 1)
        values = np.where(values == pad_token_id, other, values)
        values = np.where(valid, values, pad_token_id)
    return values.astype(spec.dtype)
