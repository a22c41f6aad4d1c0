"""Which keys a query sees, and what is added to its scores, as standard ops (part of RaggedAttention's body)."""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.plugins.body_builder import BodyBuilder
from raggedrt.plugins.ops.ragged_attention.body_relative import disentangled_terms
from raggedrt.plugins.ops.ragged_attention.body_slots import Slots
from raggedrt.plugins.ops.ragged_attention.body_tiles import in_tiles
from raggedrt.plugins.ops.ragged_attention.masking import check_positions

_FLOAT = ir.DataType.FLOAT
_INT64 = ir.DataType.INT64


def visible_keys(b: BodyBuilder, queries: Slots, keys: Slots) -> ir.Value:
    """Whether the key is in the sequence, its position is not negative, and the mask allows it.

    Returns:
        bool [B, 1 or Mq, Mk]; [1 or N, B, Mq, Mk] with a tile list.
    """
    check_positions(b.form.inputs, dict(b.form.attributes))
    visible = keys.used
    if "positions_k" in b.form.inputs:
        visible = b.op("And", visible, b.op("GreaterOrEqual", _positions(b, "k", keys), b.constant(0)))
    visible = b.unsqueeze(visible, 1)
    for rule in _rules(b, queries, keys):
        visible = b.op("And", visible, rule)
    if "tile_ptr" in b.form.inputs:
        visible = b.op("And", visible, in_tiles(b, *_places(b, queries, keys), queries.batch))
    return visible


def additive_bias(b: BodyBuilder, queries: Slots, keys: Slots) -> ir.Value | None:
    """float32 [N, B, Mq, Mk] or a shape that broadcasts to it; None where nothing is added."""
    terms = []
    if "bias" in b.form.inputs:
        terms.append(_bias(b, queries, keys))
    if "distance_bias" in b.form.inputs:
        terms.append(_distance_bias(b, _distance(b, queries, keys)))
    if "alibi_slopes" in b.form.inputs:
        distance = b.cast(b.op("Abs", _distance(b, queries, keys)), _FLOAT)
        terms.append(b.op("Neg", b.op("Mul", distance, b.unsqueeze(b.input("alibi_slopes"), 1, 2, 3))))
    if "rel_bucket" in b.form.inputs:
        terms += disentangled_terms(b, queries, keys, _distance(b, queries, keys))
    total = None
    for term in terms:
        total = term if total is None else b.op("Add", total, term)
    return total


def _positions(b: BodyBuilder, side: str, slots: Slots) -> ir.Value:
    """Original positions at padded slots: int64 [B, M]; those of unused slots mean nothing."""
    positions = b.cast(b.input(f"positions_{side}"), _INT64)
    if slots.zero_row:
        positions = b.concat(positions, b.constant([-1]))
    return b.op("Gather", positions, slots.token, axis=0)


def _places(b: BodyBuilder, queries: Slots, keys: Slots) -> tuple[ir.Value, ir.Value]:
    """What masks compare: query places int64 [1 or B, Mq, 1] and key places [1 or B, 1, Mk]."""
    if "positions_q" in b.form.inputs:
        place_q = _positions(b, "q", queries)
    else:
        place_q = b.unsqueeze(queries.slot, 0)
        if b.form.integer("causal") and b.form.cross:  # aligned at the end
            place_q = b.op("Add", place_q, b.unsqueeze(b.op("Sub", keys.lengths, queries.lengths), 1))
    has_positions = "positions_k" in b.form.inputs
    place_k = _positions(b, "k", keys) if has_positions else b.unsqueeze(keys.slot, 0)
    return b.unsqueeze(place_q, 2), b.unsqueeze(place_k, 1)


def _distance(b: BodyBuilder, queries: Slots, keys: Slots) -> ir.Value:
    """Key place minus query place: int64 [1 or B, Mq, Mk]."""
    place_q, place_k = _places(b, queries, keys)
    return b.op("Sub", place_k, place_q)


def _rules(b: BodyBuilder, queries: Slots, keys: Slots) -> list[ir.Value]:
    """Conditions on query and key that must all hold. Global tokens are exempt from window and dilation."""
    rules = []
    if b.form.integer("causal"):
        place_q, place_k = _places(b, queries, keys)
        rules.append(b.op("LessOrEqual", place_k, place_q))
    local = _window(b, queries, keys)
    if local is not None:
        for position in b.form.integers("global_tokens"):
            for place in _places(b, queries, keys):
                local = b.op("Or", local, b.op("Equal", place, b.constant(position)))
        rules.append(local)
    return rules


def _window(b: BodyBuilder, queries: Slots, keys: Slots) -> ir.Value | None:
    """Bool [1 or B, Mq, Mk] of window and dilation; None without them."""
    left, right, dilation = (b.form.integer(name) for name in ("window_left", "window_right", "dilation"))
    conditions = []
    if left >= 0:
        conditions.append(b.op("GreaterOrEqual", _distance(b, queries, keys), b.constant(-left)))
    if right >= 0:
        conditions.append(b.op("LessOrEqual", _distance(b, queries, keys), b.constant(right)))
    if dilation > 1:
        remainder = b.op("Mod", _distance(b, queries, keys), b.constant(dilation))
        conditions.append(b.op("Equal", remainder, b.constant(0)))
    local = None
    for condition in conditions:
        local = condition if local is None else b.op("And", local, condition)
    return local


def _clip(b: BodyBuilder, index: ir.Value, size: ir.Value) -> ir.Value:
    """`index` within 0..size-1: unused slots and hidden keys have places outside the table, and are masked later."""
    return b.op("Max", b.op("Min", index, b.op("Sub", size, b.constant([1]))), b.constant([0]))


def _bias(b: BodyBuilder, queries: Slots, keys: Slots) -> ir.Value:
    """Bias [1|B, 1|N, S, S] looked up by positions: [1|N, B, Mq, Mk]."""
    bias = b.cast(b.input("bias"), _FLOAT)
    planes, size = b.dim(bias, 0), b.dim(bias, 3)
    table = b.reshape(b.op("Transpose", bias, perm=[1, 0, 2, 3]), b.dim(bias, 1), b.product(planes, size, size))
    plane = b.unsqueeze(_clip(b, b.range(queries.batch), planes), 1, 2)  # [B, 1, 1]
    place_q, place_k = (_clip(b, place, size) for place in _places(b, queries, keys))
    row = b.op("Add", b.op("Mul", plane, size), place_q)
    return b.op("Gather", table, b.op("Add", b.op("Mul", row, size), place_k), axis=1)


def _distance_bias(b: BodyBuilder, distance: ir.Value) -> ir.Value:
    """distance_bias [1|N, 2P-1] looked up by key-query distance: [1|N, 1 or B, Mq, Mk]."""
    table = b.cast(b.input("distance_bias"), _FLOAT)
    size = b.dim(table, 1)
    centre = b.op("Div", size, b.constant([2]))  # P - 1
    return b.op("Gather", table, _clip(b, b.op("Add", distance, centre), size), axis=1)
