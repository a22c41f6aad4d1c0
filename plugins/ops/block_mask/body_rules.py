"""One rule of an analytic mask as standard ops, over whole tiles and over pairs (part of BlockMask's body)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from raggedrt.plugins.body_builder import BodyBuilder
from raggedrt.plugins.contract.mask_rules import UNBOUNDED, Rule


@dataclasses.dataclass(frozen=True)
class Positions:
    """First and last position of each tile row or column, int64; empty where last < first."""

    first: ir.Value
    last: ir.Value


def tile_bounds(
    b: BodyBuilder, rule: Rule, queries: Positions, keys: Positions, length: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Whether the rule may hold somewhere in a tile and whether it surely holds everywhere in it."""
    units = _units(b, rule, length)
    maybe, surely, inner = [], [], []
    for positions, bounds in ((queries, rule.query), (keys, rule.key)):
        first, last = (_in_units(b, rule, place) for place in (positions.first, positions.last))
        begin, end = _ends(b, bounds, units)
        if begin is not None:
            surely.append(b.op("GreaterOrEqual", first, begin))
        if end is not None:
            surely.append(b.op("Less", last, end))
        low = first if begin is None else b.op("Max", first, begin)
        high = last if end is None else b.op("Min", last, b.op("Sub", end, b.constant(1)))
        if begin is not None or end is not None:
            maybe.append(b.op("LessOrEqual", low, high))
        inner.append((low, high, first, last))
    (low_q, high_q, first_q, last_q), (low_k, high_k, first_k, last_k) = inner
    least, most, step = rule.distance
    if most < UNBOUNDED:
        maybe.append(b.op("LessOrEqual", b.op("Sub", low_k, high_q), b.constant(most)))
        surely.append(b.op("LessOrEqual", b.op("Sub", last_k, first_q), b.constant(most)))
    if least > -UNBOUNDED:
        maybe.append(b.op("GreaterOrEqual", b.op("Sub", high_k, low_q), b.constant(least)))
        surely.append(b.op("GreaterOrEqual", b.op("Sub", first_k, last_q), b.constant(least)))
    if max(rule.query[2], rule.key[2], step) > 1:
        surely = [b.constant(False, ir.DataType.BOOL)]
    return all_of(b, maybe), all_of(b, surely)


def pairs_hold(b: BodyBuilder, rule: Rule, query: ir.Value, key: ir.Value, length: ir.Value) -> ir.Value:
    """Whether the rule holds for positions: bool, a shape that broadcasts."""
    units = _units(b, rule, length)
    q, k = _in_units(b, rule, query), _in_units(b, rule, key)
    conditions = [*_within(b, q, rule.query, units), *_within(b, k, rule.key, units)]
    low, high, step = rule.distance
    if rule.distance != (-UNBOUNDED, UNBOUNDED, 1):
        distance = b.op("Sub", k, q)
        if low > -UNBOUNDED:
            conditions.append(b.op("GreaterOrEqual", distance, b.constant(low)))
        if high < UNBOUNDED:
            conditions.append(b.op("LessOrEqual", distance, b.constant(high)))
        if step > 1:
            conditions.append(b.op("Equal", b.op("Mod", distance, b.constant(step)), b.constant(0)))
    return all_of(b, conditions)


def all_of(b: BodyBuilder, conditions: Sequence[ir.Value]) -> ir.Value:
    """And of all; true of none."""
    result = None
    for condition in conditions:
        result = condition if result is None else b.op("And", result, condition)
    return b.constant(True, ir.DataType.BOOL) if result is None else result


def _units(b: BodyBuilder, rule: Rule, length: ir.Value) -> ir.Value:
    """Units in the sequence, the last one maybe not whole."""
    return b.op("Div", b.op("Add", length, b.constant(rule.unit - 1)), b.constant(rule.unit))


def _in_units(b: BodyBuilder, rule: Rule, position: ir.Value) -> ir.Value:
    """Position // unit; -1, the last position of a tile of an empty sequence, may become 0: such tiles are outside."""
    return position if rule.unit == 1 else b.op("Div", position, b.constant(rule.unit))


def _ends(b: BodyBuilder, bounds: tuple[int, int, int], units: ir.Value) -> list[ir.Value | None]:
    """Begin and end as values; None where they bound nothing."""
    return [
        None if number == free else b.op("Add", units, b.constant(number)) if number < 0 else b.constant(number)
        for number, free in zip(bounds, (0, UNBOUNDED), strict=False)
    ]


def _within(b: BodyBuilder, value: ir.Value, bounds: tuple[int, int, int], units: ir.Value) -> list[ir.Value]:
    begin, end = _ends(b, bounds, units)
    conditions = []
    if begin is not None:
        conditions.append(b.op("GreaterOrEqual", value, begin))
    if end is not None:
        conditions.append(b.op("Less", value, end))
    if bounds[2] > 1:
        offset = value if begin is None else b.op("Sub", value, begin)
        conditions.append(b.op("Equal", b.op("Mod", offset, b.constant(bounds[2])), b.constant(0)))
    return conditions
