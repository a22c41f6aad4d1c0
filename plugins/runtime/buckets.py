"""Buckets of packed tokens: sequences of padding tokens fill a batch up, so that few shapes occur.

A sequence cannot see another one, so the values of the batch do not change.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from raggedrt.errors import InputError
from raggedrt.plugins.runtime.device_tensors import DeviceTensor
from raggedrt.plugins.runtime.signature import Port

Array = npt.NDArray[Any]
LEAST_LONGEST = 16
"""Tokens of the smallest bucket of longest sequences; the others are powers of two."""


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A filled batch.

    Attributes:
        filler: lengths of the sequences that are appended, int64 [F], none of them empty.
        longest: bucket of the longest sequence; no sequence is longer.
    """

    filler: Array
    longest: int


def check_capacity(capacity: int, limit: int | None) -> None:
    """Check the option `capacity`.

    Raises:
        InputError: it is no positive number, or the model has one position only.
    """
    if not isinstance(capacity, int) or isinstance(capacity, bool) or capacity < 1:
        raise InputError(f"capacity is {capacity!r}; give a number of tokens, for example 1024.")
    if limit is not None and limit < 2:
        raise InputError("capacity needs a model with at least two positions.")


def bucket_of(lengths: Array, capacity: int, limit: int | None) -> Bucket:
    """Sequences that fill a batch up to a multiple of `capacity` tokens; how many depends on the longest bucket alone.

    Args:
        lengths: int64 [B], tokens of each sequence.
        capacity: tokens; the total becomes a multiple of it.
        limit: longest sequence that the model takes.
    """
    longest = max(LEAST_LONGEST, 1 << (int(lengths.max(initial=1)) - 1).bit_length())
    longest = longest if limit is None else min(longest, limit)
    # Each filler has a token at least, and capacity - 1 more tokens must find room.
    count = max(1, -(-(capacity - 1) // (longest - 1)))
    total = int(lengths.sum())
    missing = -(-(total + count) // capacity) * capacity - total
    filler = np.full(count, missing // count, np.int64)
    filler[: missing % count] += 1
    return Bucket(filler, longest)


def filled_up(port: Port, tokens: Array | DeviceTensor, count: int) -> Array | DeviceTensor:
    """Packed tokens and padding tokens after them, `count` in all; tensors of a device have to have them already.

    Raises:
        InputError: a tensor of a device has another size.
    """
    if len(tokens) == count:
        return tokens
    if isinstance(tokens, DeviceTensor):
        raise InputError(
            f"input {port.name!r} has {len(tokens)} tokens on its device, and the bucket {count}; fill it up to "
            "Session.bucket_tokens(lengths)."
        )
    padding = np.full((count - len(tokens), *tokens.shape[1:]), port.pad_value, tokens.dtype)
    return np.concatenate([tokens, padding])


def filled_rows(port: Port, rows: Array | DeviceTensor, occupied: Array, filler: int) -> Array | DeviceTensor:
    """Inputs per sequence without those of empty sequences, and rows of zeros for the sequences that fill up.

    Raises:
        InputError: a tensor of a device would have to change.
    """
    if occupied.all() and not filler:
        return rows
    if isinstance(rows, DeviceTensor):
        raise InputError(f"input {port.name!r} has one row per sequence; give it on the host with capacity.")
    return np.concatenate([rows[occupied], np.zeros((filler, *rows.shape[1:]), rows.dtype)])
