"""Checks of what a caller feeds: names, dtypes, ranks, shapes. One clear message each, no copies without need."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raggedrt.errors import InputError
from raggedrt.plugins.contract.io_roles import Role
from raggedrt.plugins.runtime.device_tensors import DeviceTensor
from raggedrt.plugins.runtime.signature import Port, Signature

Array = npt.NDArray[Any]
CU_SEQLENS = "cu_seqlens"
"""The input by which packed feeds are known."""


@dataclasses.dataclass(frozen=True)
class PaddedFeeds:
    """Padded arrays, complete and checked. `mask` is None where the graph has no attention mask."""

    arrays: dict[str, Array]
    mask: Array | None
    rows: int
    slots: int


@dataclasses.dataclass(frozen=True)
class PackedFeeds:
    """Sequences end to end. `lengths`: int64 [B]; `tokens`: [T, ...] by name; `rest`: everything not per token."""

    lengths: Array
    tokens: dict[str, Array]
    rest: dict[str, Array]


def check_names(given: Iterable[str], allowed: Iterable[str], required: Iterable[str]) -> None:
    """Compare input names.

    Raises:
        InputError: a name is unknown or missing.
    """
    given, allowed = set(given), list(allowed)
    if unknown := sorted(map(str, given - set(allowed))):
        raise InputError(f"the model has no input {unknown[0]!r}; it takes {', '.join(allowed)}.")
    if missing := [name for name in required if name not in given]:
        raise InputError(f"input {missing[0]!r} is missing; the model takes {', '.join(allowed)}.")


def as_array(port: Port, value: Any, shape: tuple[int | str, ...] | None = None) -> Array:
    """`value` in the input's dtype and with axes as in `shape` (default: the graph's).

    Raises:
        InputError: the dtype cannot be converted without loss, or rank or fixed sizes differ.
    """
    known = type(value) is np.ndarray or isinstance(value, DeviceTensor)
    array = value if known else _to_numpy(port.name, value)
    if array.dtype != port.dtype:
        array = _cast(port, array)
    shape = port.shape if shape is None else shape
    if array.ndim != len(shape) or any(
        isinstance(want, int) and want != got for want, got in zip(shape, array.shape, strict=True)
    ):
        raise InputError(f"input {port.name!r} has shape {list(array.shape)}, expected [{', '.join(map(str, shape))}].")
    return array


def bind_padded(signature: Signature, feeds: Mapping[str, Any]) -> PaddedFeeds:
    """Check padded arrays; fill inputs that have defaults.

    Per-token inputs are [B, S, ...] and the mask [B, S], whatever the graph takes.

    Raises:
        InputError: see `as_array`; also where shapes disagree or a sequence is too long.
    """
    ports = {p.name: p for p in signature.ports.values() if p.role not in (Role.CU_SEQLENS, Role.MAX_SEQLEN)}
    masked = signature.ragged or signature.mask_name in ports
    if signature.ragged:
        # As everywhere in the field, no mask means no padding.
        ports[signature.mask_name] = Port(
            signature.mask_name, Role.ATTENTION_MASK, np.dtype(np.int64), ("batch", "sequence"), (), 1, 0
        )
    check_names(feeds, ports, [p.name for p in ports.values() if p.default is None])
    arrays: dict[str, Array] = {}
    extent: tuple[str, int, int] | None = None
    for port in ports.values():
        if port.name not in feeds:
            continue
        array = as_array(port, feeds[port.name], _padded_shape(signature, port))
        arrays[port.name] = array
        if port.role in (Role.PER_TOKEN, Role.ATTENTION_MASK):
            extent = extent or (port.name, array.shape[0], array.shape[1])
            if array.shape[:2] != extent[1:]:
                raise InputError(
                    f"input {port.name!r} has shape {list(array.shape)}, and {extent[0]!r} has "
                    f"{list(extent[1:])}: batch and sequence length must agree."
                )
    if extent is None:
        raise InputError(f"no per-token input is given; the model takes {', '.join(ports)}.")
    _, rows, slots = extent
    check_length(signature, slots)
    for port in ports.values():
        if port.role is Role.PER_SEQUENCE and port.name in arrays:
            check_rows(port.name, arrays[port.name], rows)
        elif port.name not in arrays:
            arrays[port.name] = filled(port, (rows, slots))
    return PaddedFeeds(arrays, arrays[signature.mask_name] if masked else None, rows, slots)


def bind_lists(signature: Signature, feeds: Mapping[str, Any]) -> PackedFeeds:
    """Check lists of unpadded sequences, one list item per sequence, and lay them end to end.

    Raises:
        InputError: also where lists have different lengths or their items do.
    """
    token_ports = signature.with_role(Role.PER_TOKEN)
    rest_ports = [*signature.with_role(Role.PER_SEQUENCE), *signature.with_role(Role.OTHER)]
    ports = [*token_ports, *rest_ports]
    required = [p.name for p in ports if p.default is None]
    check_names(feeds, [*(p.name for p in ports), signature.mask_name], required)
    given = {p.name: _sequences(p.name, feeds[p.name]) for p in token_ports if p.name in feeds}
    (first, sequences), *others = given.items()
    lengths = np.array([len(s) for s in sequences], np.int64)
    masks = [(signature.mask_name, _mask_sequences(signature, feeds))] if signature.mask_name in feeds else []
    for name, other in [*others, *masks]:
        if [len(s) for s in other] != lengths.tolist():
            raise InputError(f"the sequences of {name!r} are not as many or as long as those of {first!r}.")
    check_length(signature, int(lengths.max()))
    tokens = {p.name: _concatenated(p, given[p.name]) for p in token_ports if p.name in given}
    return _packed(signature, feeds, lengths, tokens)


def bind_ragged(signature: Signature, feeds: Mapping[str, Any], *, filled: bool = False) -> PackedFeeds:
    """Check packed arrays with `cu_seqlens` [B+1] and, if given, `max_seqlen` [M] of which only the length counts.

    `filled`: tokens past the last sequence are there to fill buffers.

    Raises:
        InputError: also where `cu_seqlens` does not describe the tokens, or `max_seqlen` is too short.
    """
    required = [p.name for p in signature.ports.values() if p.default is None and p.role is not Role.MAX_SEQLEN]
    check_names(feeds, signature.ports, required)
    arrays = {p.name: as_array(p, feeds[p.name]) for p in signature.ports.values() if p.name in feeds}
    offsets = next(arrays[p.name] for p in signature.with_role(Role.CU_SEQLENS)).astype(np.int64, copy=False)
    tokens = {p.name: arrays[p.name] for p in signature.with_role(Role.PER_TOKEN) if p.name in arrays}
    counts = {name: len(array) for name, array in tokens.items()}
    lengths = np.diff(offsets)
    ends = set(counts.values())
    wrong = len(ends) > 1 or (min(ends) < offsets[-1] if filled else ends != {offsets[-1]}) if len(offsets) else True
    if wrong or offsets[0] != 0 or (lengths < 0).any():
        raise InputError(
            f"cu_seqlens must start at 0, never fall and end with the token count; it is {_brief(offsets)}, and "
            f"the inputs have {counts} tokens."
        )
    longest = int(lengths.max(initial=0))
    check_length(signature, longest)
    for port in signature.with_role(Role.MAX_SEQLEN):
        if port.name in arrays and len(arrays[port.name]) < longest:
            raise InputError(
                f"{port.name!r} has length {len(arrays[port.name])}, and the longest sequence has {longest} tokens; "
                "its length must not be smaller."
            )
    return _packed(signature, feeds, lengths, tokens)


def filled(port: Port, leading: tuple[int, ...]) -> Array:
    """The default of an input that the caller left out."""
    inner = port.inner if port.role in (Role.PER_TOKEN, Role.PER_SEQUENCE) else port.shape
    if port.role is Role.ATTENTION_MASK:
        inner = ()
    elif port.role is Role.PER_SEQUENCE:
        leading = leading[:1]
    elif port.role is Role.OTHER:
        leading = ()
    sizes = [size for size in inner if isinstance(size, int)]
    if len(sizes) < len(inner):
        raise InputError(f"input {port.name!r} is missing, and its default has no fixed shape; give it.")
    return np.full((*leading, *sizes), port.default, port.dtype)


def check_length(signature: Signature, length: int) -> None:
    """Refuse sequences beyond the position table.

    Raises:
        InputError: `length` in tokens is above the model's limit.
    """
    limit = signature.position_limit
    if limit is not None and length > limit:
        raise InputError(f"a sequence has {length} tokens, and the model has {limit} positions; truncate or split it.")


def check_rows(name: str, array: Array, rows: int) -> None:
    """Compare a per-sequence input with the batch.

    Raises:
        InputError: it has another number of rows.
    """
    if len(array) != rows:
        raise InputError(f"input {name!r} has {len(array)} rows for a batch of {rows} sequences.")


def _packed(signature: Signature, feeds: Mapping[str, Any], lengths: Array, tokens: dict[str, Array]) -> PackedFeeds:
    rows, count = len(lengths), max([int(lengths.sum()), *map(len, tokens.values())])
    for port in signature.with_role(Role.PER_TOKEN):
        if port.name not in tokens:
            tokens[port.name] = filled(port, (count,))
    rest: dict[str, Array] = {}
    for port in (*signature.with_role(Role.PER_SEQUENCE), *signature.with_role(Role.OTHER)):
        rest[port.name] = as_array(port, feeds[port.name]) if port.name in feeds else filled(port, (rows,))
        if port.role is Role.PER_SEQUENCE:
            check_rows(port.name, rest[port.name], rows)
    return PackedFeeds(lengths, tokens, rest)


def _padded_shape(signature: Signature, port: Port) -> tuple[int | str, ...]:
    if signature.ragged and port.role is Role.PER_TOKEN:
        return ("batch", "sequence", *port.inner)
    return port.shape


def _sequences(name: str, value: Any) -> list[Array]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"input {name!r} is {type(value).__name__}, while others are lists of sequences; give lists.")
    if not value:
        raise InputError(f"input {name!r} is an empty list; give one sequence per text.")
    arrays = [_to_numpy(name, item) for item in value]
    if any(array.ndim == 0 for array in arrays):
        raise InputError(f"input {name!r} is one sequence; give a list of sequences, for example [{name}].")
    return arrays


def _mask_sequences(signature: Signature, feeds: Mapping[str, Any]) -> list[Array]:
    masks = _sequences(signature.mask_name, feeds[signature.mask_name])
    if not all(mask.all() for mask in masks):
        raise InputError(
            f"{signature.mask_name!r} has zeros, but lists hold unpadded sequences; leave the padded tokens out, or "
            "give arrays."
        )
    return masks


def _concatenated(port: Port, sequences: Sequence[Array]) -> Array:
    # An empty Python list has no dtype of its own, so it takes no part.
    parts = [s for s in sequences if len(s)]
    if not parts:
        return np.zeros((0, *(size if isinstance(size, int) else 0 for size in port.inner)), port.dtype)
    try:
        return as_array(port, np.concatenate(parts), ("tokens", *port.inner))
    except ValueError:
        raise InputError(f"the sequences of {port.name!r} have different shapes per token; check them.") from None


def _to_numpy(name: str, value: Any) -> Array:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"input {name!r} cannot be read as an array: {error}.") from None


def _cast(port: Port, array: Array) -> Array:
    """Convert without loss: widening within a kind, or integers whose values fit."""
    if isinstance(array, DeviceTensor):
        raise InputError(
            f"input {port.name!r} is {array.dtype} on its device, expected {port.dtype}; convert it there."
        )
    integers = array.dtype.kind in "iub" and port.dtype.kind in "iub"
    same_kind = integers or array.dtype.kind == port.dtype.kind == "f"
    if same_kind and np.can_cast(array.dtype, port.dtype, "safe"):
        return array.astype(port.dtype)
    if same_kind and array.dtype.kind in "iu" and port.dtype.kind in "iu":
        limits = np.iinfo(port.dtype)
        if not array.size or (array.min() >= limits.min and array.max() <= limits.max):
            return array.astype(port.dtype)
        raise InputError(f"input {port.name!r} has values outside {port.dtype}: {array.min()} … {array.max()}.")
    raise InputError(f"input {port.name!r} has dtype {array.dtype}, expected {port.dtype}; convert it.")


def _brief(array: Array) -> str:
    return np.array2string(array, threshold=12, edgeitems=4)
