"""The batches of a benchmark: rows of drawn or measured lengths, and as many tokens without any padding."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from raggedrt.batches import Array, Row, pack_rows, pad_rows
from raggedrt.errors import InputError
from raggedrt.export.padding_cases import InputSpec
from raggedrt.lengths import draw_lengths
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.runtime.session import Session
from raggedrt.tokenizing import read_texts, tokenize

DEFAULT_LONGEST = 128
"""Tokens of the longest sequence of a workload where nobody says more."""


@dataclasses.dataclass(frozen=True)
class Demand:
    """What the batches should look like; lengths in tokens, `lengths` as in `draw_lengths`."""

    lengths: str
    batch_size: int
    batches: int
    max_length: int
    by_length: bool
    seed: int


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch: its rows, and the same right-padded with a mask."""

    rows: Sequence[Row]
    padded: dict[str, Array]
    valid: Array

    def padded_for(self, session: Session) -> dict[str, Array]:
        """Padded arrays that `session` takes, whatever I/O its bundle has."""
        names = {role.name for role in session.inputs} | {session.bundle.manifest.mask_input}
        return {name: array for name, array in self.padded.items() if name in names}

    def timed_for(self, session: Session) -> dict[str, Array]:
        """What a server would feed: padded arrays, or packed tokens where the bundle has ragged I/O."""
        if session.bundle.manifest.io == "padded":
            return self.padded_for(session)
        names = {role.name for role in session.inputs}
        return {name: array for name, array in pack_rows(self.rows).items() if name in names}


@dataclasses.dataclass(frozen=True)
class Workload:
    """The batches that are timed, and `full` ones with (nearly) the same number of tokens in rows of one length."""

    batches: list[Batch]
    full: list[Batch]
    described: str

    def facts(self) -> dict[str, Any]:
        """Counts for the report."""
        valid = sum(int(batch.valid.sum()) for batch in self.batches)
        slots = sum(batch.valid.size for batch in self.batches)
        return {
            "lengths": self.described,
            "batches": len(self.batches),
            "batch_size": len(self.batches[0].rows),
            "longest": max(batch.valid.shape[1] for batch in self.batches),
            "valid_tokens": valid,
            "padded_tokens": slots,
            "fill": valid / slots,
            "full_row_tokens": sum(batch.valid.size for batch in self.full),
        }


def longest_sequence(bundle: Bundle, asked: int | None) -> int:
    """The longest sequence of a workload, in tokens: what is asked, else a usual length that the model has.

    Raises:
        InputError: the model has fewer positions.
    """
    limit = bundle.manifest.position_limit
    if asked is None:
        return min(DEFAULT_LONGEST, limit or DEFAULT_LONGEST)
    if limit is not None and asked > limit:
        raise InputError(f"--max-length {asked}: the model has {limit} positions; give at most {limit}")
    return asked


def make_workload(
    bundle: Bundle, specs: Sequence[InputSpec], demand: Demand, texts: str | os.PathLike[str] | None
) -> Workload:
    """Rows of drawn lengths with random tokens, or the tokenised lines of the file `texts`.

    Raises:
        InputError: the model takes no sequences, or the texts cannot be tokenised.
    """
    per_token = [spec for spec in specs if spec.role != "mask" and tuple(spec.axes[:2]) == ("batch", "sequence")]
    if not per_token:
        raise InputError(f"{bundle.path}: the model takes no sequences of tokens, so there is no padding to measure")
    rng = np.random.default_rng(demand.seed)
    count = demand.batch_size * demand.batches
    if texts is None:
        described = f"{demand.lengths} of {demand.max_length}"
        rows = [_row(per_token, n, rng) for n in draw_lengths(demand.lengths, count, demand.max_length, rng)]
    else:
        path = pathlib.Path(texts)
        described = f"texts of {path.name}, at most {demand.max_length} tokens"
        encoded = tokenize(bundle, read_texts(path)[:count], demand.max_length)
        rows = [{spec.name: _column(spec, row) for spec in per_token} for row in encoded]
    if demand.by_length:
        rows.sort(key=_length)
    pads = {record.name: record.pad_value for record in bundle.manifest.inputs}
    mask = next((spec for spec in specs if spec.role == "mask"), None)
    batches = [_batch(rows[i : i + demand.batch_size], pads, mask) for i in range(0, len(rows), demand.batch_size)]
    full = [_batch(list(_full_rows(batch, per_token, rng)), pads, mask) for batch in batches]
    return Workload(batches, full, described)


def _length(row: Row) -> int:
    return len(next(iter(row.values())))


def _row(specs: Sequence[InputSpec], length: int, rng: np.random.Generator) -> Row:
    return {spec.name: _values(spec, length, rng) for spec in specs}


def _values(spec: InputSpec, length: int, rng: np.random.Generator) -> Array:
    shape = (length, *(size for size in spec.axes[2:] if isinstance(size, int)))
    if spec.dtype.kind == "f":
        return rng.standard_normal(shape).astype(spec.dtype)
    return rng.integers(spec.low, max(spec.high, spec.low + 1), shape).astype(spec.dtype)


def _column(spec: InputSpec, row: Row) -> Array:
    given = row.get(spec.name)
    return np.zeros(_length(row), spec.dtype) if given is None else given.astype(spec.dtype)


def _full_rows(batch: Batch, specs: Sequence[InputSpec], rng: np.random.Generator) -> Iterable[Row]:
    tokens = int(batch.valid.sum())
    length = max(1, round(tokens / len(batch.rows)))
    return (_row(specs, length, rng) for _ in range(max(1, round(tokens / length))))


def _batch(rows: Sequence[Row], pads: dict[str, int | float], mask: InputSpec | None) -> Batch:
    lengths = np.array([_length(row) for row in rows])
    valid = np.arange(lengths.max()) < lengths[:, None]
    padded = pad_rows(rows, pads)
    if mask is not None:
        padded[mask.name] = valid.astype(mask.dtype)
    return Batch(rows, padded, valid)
