"""Which keys a query sees, and what is added to its scores, as standard ops (part of RaggedAttention's body)."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from raggedrt.plugins.body_builder import BodyBuilder
from raggedrt.plugins.ops.ragged_attention.masking import check_positions

_FLOAT = ir.DataType.FLOAT
_INT64 = ir.DataType.INT64


@dataclasses.dataclass(frozen=True)
class Side:
    """Padded slots of the queries (`"q"`) or the keys (`"k"`)."""

    name: str
    batch: ir.Value
    """int64 [1]: B."""
    width: ir.Value
    """int64 [1]: M."""
    tokens: ir.Value
    """int64 [1]: T."""
    lengths: ir.Value
    """int64 [B]."""
    slot: ir.Value
    """int64 [M]: 0, 1, … M - 1."""
    used: ir.Value
    """bool [B, M]: the slot lies within its sequence."""
    token: ir.Value
    """int64 [B, M]: packed row of the slot, T where it is not used."""


def visible_keys(b: BodyBuilder, query: Side, key: Side) -> ir.Value:
    """Bool [B, 1, 1 or Mq, Mk]: the key is in the sequence, its position is not negative, the mask allows it."""
    check_positions(b.form.inputs, dict(b.form.attributes))
    visible = key.used
    if "positions_k" in b.form.inputs:
        visible = b.op("GreaterOrEqual", _positions(b, key), b.constant(0))  # -1 at unused slots
    visible = b.unsqueeze(visible, 1, 2)
    rules = _rules(b, query, key)
    for rule in rules:
        visible = b.op("And", visible, rule)
    return visible


def additive_bias(b: BodyBuilder, query: Side, key: Side) -> ir.Value | None:
    """float32 [B, N, Mq, Mk] or a shape that broadcasts to it; None where nothing is added."""
    terms = []
    if "alibi_slopes" in b.form.inputs:
        distance = b.cast(b.op("Abs", _distance(b, query, key)), _FLOAT)
        terms.append(b.op("Neg", b.op("Mul", distance, b.unsqueeze(b.input("alibi_slopes"), 0, 2, 3))))
    if "distance_bias" in b.form.inputs:
        terms.append(_distance_bias(b, _distance(b, query, key)))
    return None if not terms else terms[0] if len(terms) == 1 else b.op("Add", *terms)


def _positions(b: BodyBuilder, side: Side) -> ir.Value:
    """Original positions at padded slots, -1 at unused ones: int64 [B, M]."""
    positions = b.cast(b.input(f"positions_{side.name}"), _INT64)
    return b.op("Gather", b.concat(positions, b.constant([-1])), side.token, axis=0)


def _places(b: BodyBuilder, side: Side, query: Side, key: Side) -> ir.Value:
    """What masks compare: int64 [B or 1, M]."""
    if f"positions_{side.name}" in b.form.inputs:
        return _positions(b, side)
    places = b.unsqueeze(side.slot, 0)
    if side.name == "q" and b.form.integer("causal") and b.form.cross:
        shift = b.op("Sub", key.lengths, query.lengths)  # aligned at the end
        places = b.op("Add", places, b.unsqueeze(shift, 1))
    return places


def _distance(b: BodyBuilder, query: Side, key: Side) -> ir.Value:
    """Key place minus query place: int64 [B or 1, 1, Mq, Mk]."""
    places_q = b.unsqueeze(_places(b, query, query, key), 1, 3)
    places_k = b.unsqueeze(_places(b, key, query, key), 1, 2)
    return b.op("Sub", places_k, places_q)


def _rules(b: BodyBuilder, query: Side, key: Side) -> list[ir.Value]:
    """Conditions on query and key that must all hold."""
    rules = []
    if b.form.integer("causal"):
        places_q = b.unsqueeze(_places(b, query, query, key), 1, 3)
        places_k = b.unsqueeze(_places(b, key, query, key), 1, 2)
        rules.append(b.op("LessOrEqual", places_k, places_q))
    local = _window(b, query, key)
    if local is not None:
        for position in b.form.integers("global_tokens"):
            for side, axes in ((query, (1, 3)), (key, (1, 2))):
                is_global = b.op("Equal", _places(b, side, query, key), b.constant(position))
                local = b.op("Or", local, b.unsqueeze(is_global, *axes))
        rules.append(local)
    return rules


def _window(b: BodyBuilder, query: Side, key: Side) -> ir.Value | None:
    """Window and dilation, which global tokens are exempt from."""
    left, right, dilation = (b.form.integer(name) for name in ("window_left", "window_right", "dilation"))
    conditions = []
    if left >= 0:
        conditions.append(b.op("GreaterOrEqual", _distance(b, query, key), b.constant(-left)))
    if right >= 0:
        conditions.append(b.op("LessOrEqual", _distance(b, query, key), b.constant(right)))
    if dilation > 1:
        remainder = b.op("Mod", _distance(b, query, key), b.constant(dilation))
        conditions.append(b.op("Equal", remainder, b.constant(0)))
    local = None
    for condition in conditions:
        local = condition if local is None else b.op("And", local, condition)
    return local


def _distance_bias(b: BodyBuilder, distance: ir.Value) -> ir.Value:
    """distance_bias [1|N, 2P-1] looked up by key-query distance: [B or 1, 1|N, Mq, Mk]."""
    table = b.cast(b.input("distance_bias"), _FLOAT)
    size = b.dim(table, 1)
    centre = b.op("Div", size, b.constant([2]))  # P - 1
    last = b.op("Sub", size, b.constant([1]))
    # Unused slots have distances outside the table; what they read is masked.
    index = b.op("Max", b.op("Min", b.op("Add", distance, centre), last), b.constant([0]))
    flat = b.op("Squeeze", index, b.constant([1]))  # [B or 1, Mq, Mk]
    return b.op("Transpose", b.op("Gather", table, flat, axis=1), perm=[1, 0, 2, 3])
