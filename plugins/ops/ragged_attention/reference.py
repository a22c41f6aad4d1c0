"""Reference of RaggedAttention in numpy: one sequence and one head at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from raggedrt.errors import RaggedRTError
from raggedrt.plugins.ops.arrays import Array, Attributes, Inputs
from raggedrt.plugins.ops.ragged_attention.masking import check_positions, check_tiles
from raggedrt.plugins.ops.ragged_attention.reference_tiles import visible_in_tiles

_DEFAULTS: dict[str, object] = {
    "kv_num_heads": 0, "scale": 0.0, "softcap": 0.0, "causal": 0, "window_left": -1, "window_right": -1,
    "global_tokens": (), "dilation": 1, "block_size": 0,
}  # fmt: skip


def reference(inputs: Inputs, attributes: Attributes, *, compute: npt.DTypeLike = np.float32) -> dict[str, Array]:
    """The op's outputs by name; `lse` is always among them.

    Rows past the last sequence (capacity) are 0, with lse -inf. With `head_sink` the lse counts the sink.

    Args:
        inputs: Arrays by input name, as in the definition.
        attributes: Values by attribute name, defaults left out.
        compute: Type of the arithmetic.

    Raises:
        RaggedRTError: Inputs that belong together are not all there.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    options = {**_DEFAULTS, **attributes}
    check_positions(given, options)
    check_tiles(given, options)
    heads = _integer(options, "num_heads")
    group = heads // (_integer(options, "kv_num_heads") or heads)
    query, key, value = (
        _split(given[n], h, compute) for n, h in zip(_QKV, (heads, *[heads // group] * 2), strict=True)
    )
    output = np.zeros((*query.shape[:2], value.shape[2]), compute)  # [Tq, N, Hv]
    lse = np.full((heads, len(query)), -np.inf, compute)  # [N, Tq]
    for row, rows_q, rows_k in _sequences(given):
        place_q, place_k = _places(given, options, rows_q, rows_k)
        visible = _visible(given, options, rows_k, place_q, place_k)  # [Lq, Lk]
        for head in range(heads):
            scores = _scale(options, query.shape[2]) * (query[rows_q, head] @ key[rows_k, head // group].T)  # [Lq, Lk]
            scores = _capped(scores, options) + _bias(given, row, head, place_q, place_k).astype(compute)
            scores = scores + _disentangled(given, head, rows_q, rows_k, place_k - place_q).astype(compute)
            in_tiles = visible_in_tiles(given, _integer(options, "block_size"), row, head, place_q, place_k)
            scores = np.where(visible & in_tiles, scores, -np.inf)
            weights, lse[head, rows_q] = _softmax(scores, given.get("head_sink"), head)
            output[rows_q, head] = weights @ value[rows_k, head // group]
    return {
        "output": output.reshape(len(output), heads * value.shape[2]).astype(given["query"].dtype),
        "lse": lse.astype(np.float32),
    }


_QKV = ("query", "key", "value")


def _integer(options: Mapping[str, object], name: str) -> int:
    value = options[name]
    if not isinstance(value, int):
        raise RaggedRTError(f"RaggedAttention has {name}={value!r}, expected an integer.")
    return value


def _number(options: Mapping[str, object], name: str) -> float:
    value = options[name]
    if not isinstance(value, int | float):
        raise RaggedRTError(f"RaggedAttention has {name}={value!r}, expected a number.")
    return float(value)


def _split(packed: Array, heads: int, compute: npt.DTypeLike) -> Array:
    """[T, heads*H] as [T, heads, H]."""
    return packed.astype(compute).reshape(len(packed), heads, packed.shape[1] // heads)


def _sequences(given: Mapping[str, Array]) -> Iterator[tuple[int, slice, slice]]:
    """Number, query rows and key rows of each sequence."""
    bounds_q, bounds_k = given["cu_seqlens_q"].tolist(), given["cu_seqlens_k"].tolist()
    for row in range(len(bounds_q) - 1):
        yield row, slice(bounds_q[row], bounds_q[row + 1]), slice(bounds_k[row], bounds_k[row + 1])


def _places(
    given: Mapping[str, Array], options: Mapping[str, object], rows_q: slice, rows_k: slice
) -> tuple[Array, Array]:
    """What masks compare, for queries [Lq, 1] and keys [1, Lk]: original positions, else indices in the sequence."""
    length_q, length_k = rows_q.stop - rows_q.start, rows_k.stop - rows_k.start
    place_q, place_k = np.arange(length_q), np.arange(length_k)
    if "positions_q" in given:
        place_q = given["positions_q"][rows_q].astype(np.int64)
    elif "positions_k" not in given and options["causal"]:
        place_q = place_q + (length_k - length_q)  # aligned at the end
    if "positions_k" in given:
        place_k = given["positions_k"][rows_k].astype(np.int64)
    return place_q[:, None], place_k[None, :]


def _visible(
    given: Mapping[str, Array], options: Mapping[str, object], rows_k: slice, place_q: Array, place_k: Array
) -> Array:
    """Bool [Lq, Lk]. Global tokens are exempt from window and dilation, not from causality."""
    distance = place_k - place_q
    local = np.ones(distance.shape, bool)
    left, right = _integer(options, "window_left"), _integer(options, "window_right")
    if left >= 0:
        local &= distance >= -left
    if right >= 0:
        local &= distance <= right
    local &= distance % _integer(options, "dilation") == 0
    everywhere = np.asarray(options["global_tokens"], np.int64)
    visible = local | np.isin(place_q, everywhere) | np.isin(place_k, everywhere)
    if options["causal"]:
        visible &= distance <= 0
    if "positions_k" in given:
        visible &= given["positions_k"][rows_k][None, :] >= 0
    return visible


def _scale(options: Mapping[str, object], head_size: int) -> float:
    return _number(options, "scale") or float(head_size) ** -0.5


def _capped(scores: Array, options: Mapping[str, object]) -> Array:
    cap = _number(options, "softcap")
    return cap * np.tanh(scores / cap) if cap else scores


def _bias(given: Mapping[str, Array], row: int, head: int, place_q: Array, place_k: Array) -> Array:
    """What is added to the scores of one sequence and head: [Lq, Lk] or [1, 1]. Masked keys may read any entry."""
    distance = place_k - place_q
    total = np.zeros((1, 1))
    if "bias" in given:
        bias = given["bias"]
        plane = bias[min(row, bias.shape[0] - 1), min(head, bias.shape[1] - 1)].astype(np.float64)  # [S, S]
        total = total + plane[place_q.clip(0), place_k.clip(0)]
    if "distance_bias" in given:
        table = given["distance_bias"]
        line = table[min(head, len(table) - 1)].astype(np.float64)  # [2P - 1], distance 0 in the middle
        total = total + line[(distance + len(line) // 2).clip(0, len(line) - 1)]
    if "alibi_slopes" in given:
        total = total - given["alibi_slopes"][head].astype(np.float64) * np.abs(distance)
    return total


def _disentangled(given: Mapping[str, Array], head: int, rows_q: slice, rows_k: slice, distance: Array) -> Array:
    """Terms by content and relative position: [Lq, Lk] or [1, 1]."""
    total = np.zeros((1, 1))
    if "rel_bucket" in given:
        table = given["rel_bucket"].astype(np.int64)  # [2P - 1], distance 0 in the middle
        bucket = table[(distance + len(table) // 2).clip(0, len(table) - 1)]  # [Lq, Lk]
    if "rel_query" in given:
        total = total + np.take_along_axis(given["rel_query"][rows_q, head].astype(np.float64), bucket, axis=1)
    if "rel_key" in given:
        total = total + np.take_along_axis(given["rel_key"][rows_k, head].astype(np.float64), bucket.T, axis=1).T
    return total


def _softmax(scores: Array, head_sink: Array | None, head: int) -> tuple[Array, Array]:
    """Weights [Lq, Lk] and logarithm of their denominator [Lq]; 0 and -inf for a row that sees nothing."""
    seen: Array = np.any(scores > -np.inf, axis=1)  # [Lq]
    top = np.where(seen, scores.max(axis=1, initial=-np.inf), 0)  # [Lq]
    sink = -np.inf if head_sink is None else head_sink[head].astype(scores.dtype)
    top = np.maximum(top, sink) if head_sink is not None else top
    weights = np.exp(scores - top[:, None])
    total = weights.sum(axis=1) + np.exp(sink - top)
    lse = np.where(seen, top + np.log(np.where(seen, total, 1)), -np.inf)
    return np.where(seen[:, None], weights / np.where(seen, total, 1)[:, None], 0), lse
