"""Between layouts: padded [B, S, ...], packed [T, ...] and lists of sequences; zeros wherever there is no token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from raggedrt.errors import InputError
from raggedrt.plugins.contract.io_roles import Role
from raggedrt.plugins.runtime.feeds import Array, PackedFeeds, PaddedFeeds
from raggedrt.plugins.runtime.signature import Port, Signature

Outputs = dict[str, Any]
Call = Callable[[dict[str, Array]], Outputs]


def valid_slots(lengths: Array, slots: int) -> Array:
    """Right padding: bool [B, S], true at the first `lengths[b]` slots of each row."""
    return np.asarray(np.arange(slots) < lengths[:, None])


def pad(signature: Signature, batch: PackedFeeds) -> PaddedFeeds:
    """Packed tokens to right-padded rows, as long as the longest sequence or the graph's fixed length.

    Raises:
        InputError: the graph has no mask and lengths differ, or its shape is fixed and another one is needed.
    """
    rows, slots = len(batch.lengths), max(1, int(batch.lengths.max()))
    token_ports = signature.with_role(Role.PER_TOKEN)
    for port in token_ports:
        fixed_rows, fixed_slots = port.shape[:2]
        slots = max(slots, fixed_slots) if isinstance(fixed_slots, int) else slots
        if any(isinstance(size, int) and size != needed for size, needed in ((fixed_rows, rows), (fixed_slots, slots))):
            raise InputError(
                f"the model takes {fixed_rows} sequences of at most {fixed_slots} tokens, and {rows} sequences of at "
                f"most {slots} are given."
            )
    valid = valid_slots(batch.lengths, slots)
    masks = signature.with_role(Role.ATTENTION_MASK)
    if not masks and not valid.all():
        raise InputError("the model has no attention mask, so all sequences of a batch must have the same length.")
    arrays = dict(batch.rest)
    for port in token_ports:
        arrays[port.name] = _scatter(batch.tokens[port.name], valid, port.pad_value)
    mask = None
    for port in masks:
        mask = arrays[port.name] = valid.astype(port.dtype)
    return PaddedFeeds(arrays, mask, rows, slots)


def pack(signature: Signature, batch: PaddedFeeds) -> PackedFeeds:
    """Right-padded rows to packed tokens.

    Raises:
        InputError: a row is padded on the left or has holes, so packing would shift its positions.
    """
    mask = batch.mask
    if mask is None:
        raise InputError(f"padded arrays need {signature.mask_name!r} [batch, sequence] beside them.")
    valid = mask != 0
    lengths = np.count_nonzero(valid, axis=1)
    if not np.array_equal(valid, valid_slots(lengths, batch.slots)):
        raise InputError(
            f"{signature.mask_name!r} has left padding or holes, and this bundle (ragged I/O) counts positions from "
            "each sequence's first token; pad on the right, give lists of sequences, or convert with --io padded."
        )
    tokens = {p.name: batch.arrays[p.name][valid] for p in signature.with_role(Role.PER_TOKEN)}
    rest = {p.name: batch.arrays[p.name] for r in (Role.PER_SEQUENCE, Role.OTHER) for p in signature.with_role(r)}
    return PackedFeeds(lengths, tokens, rest)


def unpack(signature: Signature, outputs: Outputs, lengths: Array, slots: int) -> Outputs:
    """Per-token outputs [T, ...] to [B, S, ...], zero at padded slots."""
    valid = valid_slots(lengths, slots)
    return {n: _scatter(v, valid, 0) if _per_token(signature, n) else v for n, v in outputs.items()}


def split(signature: Signature, outputs: Outputs, lengths: Array) -> Outputs:
    """Per-token outputs [T, ...] to one view [n, ...] per sequence."""
    ends = np.cumsum(lengths)[:-1]
    return {n: np.split(v, ends) if _per_token(signature, n) else v for n, v in outputs.items()}


def unpad(signature: Signature, outputs: Outputs, lengths: Array) -> Outputs:
    """Per-token outputs [B, S, ...] to one view [n, ...] per sequence."""
    counts = lengths.tolist()
    return {
        n: [row[:count] for row, count in zip(v, counts, strict=True)] if _per_token(signature, n) else v
        for n, v in outputs.items()
    }


def zero_rows(signature: Signature, outputs: Outputs, rows: Array) -> None:
    """Zero what belongs to some rows (their numbers), in place."""
    for name, role in signature.roles.items():
        if role in (Role.PER_TOKEN, Role.PER_SEQUENCE):
            outputs[name][rows] = 0


def blank_padded(signature: Signature, batch: PaddedFeeds, call: Call) -> Outputs:
    """Outputs of a padded batch without tokens, their shapes learnt from padding tokens, as few as the model takes."""
    arrays = {
        p.name: _blank(signature, p, batch.arrays[p.name]) if p.role is not Role.OTHER else batch.arrays[p.name]
        for p in signature.ports.values()
    }
    leading = {Role.PER_TOKEN: (batch.rows, batch.slots), Role.PER_SEQUENCE: (batch.rows,)}
    return _zeros_like(signature, call(arrays), leading, token_axes=2)


def blank_packed(signature: Signature, batch: PackedFeeds, call: Call) -> Outputs:
    """Outputs of a packed batch without tokens, their shapes learnt from padding tokens, as few as the model takes."""
    arrays: dict[str, Array] = {}
    ports = signature.ports.values()
    offsets = _offsets([_lead(signature, port, 1)[0] for port in ports if port.role is Role.PER_TOKEN], signature)
    for port in ports:
        if port.role is Role.CU_SEQLENS:
            arrays[port.name] = offsets.astype(port.dtype)
        elif port.role is Role.MAX_SEQLEN:
            arrays[port.name] = np.zeros(max(int(np.diff(offsets).max()), _lead(signature, port, 1)[0]), port.dtype)
        elif port.role is Role.OTHER:
            arrays[port.name] = batch.rest[port.name]
        else:
            arrays[port.name] = _blank(signature, port, {**batch.tokens, **batch.rest}[port.name])
    leading = {Role.PER_TOKEN: (0,), Role.PER_SEQUENCE: (len(batch.lengths),)}
    return _zeros_like(signature, call(arrays), leading, token_axes=1)


def _offsets(tokens: Sequence[int], signature: Signature) -> Array:
    """So many tokens as sequences of about the same length, as few as the model takes."""
    sequences = max((_lead(signature, port, 1)[0] - 1 for port in signature.with_role(Role.CU_SEQLENS)), default=1)
    return np.linspace(0, max(tokens, default=1), max(1, sequences) + 1).astype(np.int64)


def _blank(signature: Signature, port: Port, like: Array) -> Array:
    axes = 1 if port.role is Role.PER_SEQUENCE or signature.ragged else 2
    value = 1 if port.role is Role.ATTENTION_MASK else port.pad_value
    return np.full(_lead(signature, port, axes) + like.shape[axes:], value, port.dtype)


def _lead(signature: Signature, port: Port, axes: int) -> tuple[int, ...]:
    """The least leading axes of an input."""
    return signature.least.get(port.name, (1,) * axes)[:axes]


def _zeros_like(
    signature: Signature, outputs: Outputs, leading: Mapping[Role, tuple[int, ...]], token_axes: int
) -> Outputs:
    blank = dict(outputs)
    for name, role in signature.roles.items():
        if role in leading:
            inner = outputs[name].shape[token_axes if role is Role.PER_TOKEN else 1 :]
            blank[name] = np.zeros((*leading[role], *inner), outputs[name].dtype)
    return blank


def _scatter(packed: Array, valid: Array, fill: int | float) -> Array:
    padded = np.full((*valid.shape, *packed.shape[1:]), fill, packed.dtype)
    padded[valid] = packed
    return padded


def _per_token(signature: Signature, name: str) -> bool:
    return signature.roles[name] is Role.PER_TOKEN
