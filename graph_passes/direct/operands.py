"""Where the rows of an operand lie in the graph already: heads and features of a slot side by side, not yet split."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import Atom, Axes, Axis, Kind, axis_of
from raggedrt.graph_passes.sites.site import Operand

_VIEWS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")
_SPLIT, _KEY = 2, 4
"""A split axis has two parts, with keys (key, size, size, number of the part) (`atoms.regroup`)."""


@dataclasses.dataclass(frozen=True)
class RowSource:
    """A value that holds the rows of an operand.

    Attributes:
        value: what is read.
        order: its axes as batch, slots, heads, features; None where it lies in that order.
        sized: a value whose first axis is the batch and whose axis `slots` are the slots.
    """

    value: ir.Value
    order: tuple[int, ...] | None
    sized: ir.Value
    slots: int


def row_source(operand: Operand, analysis: AxisAnalysis) -> RowSource | None:
    """Follow views back to where rows lie in order; None where it is not known which axis holds slots."""
    value, axes = operand.value, analysis.axes_of(operand.value)
    rank = len(axes) if axes is not None else len(value.shape) if value.shape is not None else 0
    order = _order(operand, axes, rank)
    if order is None:
        return None
    slots = order[1]
    found = None if axes is None else _before_views(value, _atoms(axes[number] for number in order), analysis)
    if found is None or axes is None:
        in_order = list(order) == list(range(rank))
        return RowSource(value, None if in_order else order, value, slots)
    found_axes = analysis.axes_of(found)
    if found_axes is not None and len(found_axes) > _SPLIT and found_axes[:2] == (axes[0], axes[slots]):
        return RowSource(found, None, found, 1)
    return RowSource(found, None, value, slots)


def _order(operand: Operand, axes: Axes | None, rank: int) -> tuple[int, ...] | None:
    """Axes as batch, slots, heads, features; axes of size one come last but one."""
    heads, feature = operand.layout.heads, operand.layout.feature
    others = [number for number in range(rank) if number not in (*heads, feature)]
    if not others or others[0] != 0:
        return None
    slot = others[1] if len(others) == _SPLIT else None
    if axes is not None and (token := axis_of(axes, Kind.TOKEN)) is not None:
        slot = token
    if slot is None or slot not in others[1:]:
        return None
    rest = [number for number in others[1:] if number != slot]
    if rest and (axes is None or any(axes[number] for number in rest)):
        return None
    return (0, slot, *heads, *rest, feature)


def _before_views(value: ir.Value, wanted: list[Atom], analysis: AxisAnalysis) -> ir.Value | None:
    """The earliest ancestor through views that holds the same elements in the wanted order."""
    found, current = None, value
    while True:
        axes = analysis.axes_of(current)
        if axes is None:
            return found
        if _atoms(iter(axes)) == wanted:
            found = current
        node = current.producer()
        if node is None or node.domain or node.op_type not in _VIEWS or node.inputs[0] is None:
            return found
        current = node.inputs[0]


def _atoms(axes: Iterable[Axis]) -> list[Atom]:
    """Factors, slowest first; what a Reshape split is whole again where its parts stand side by side."""
    merged: list[Atom] = []
    for atom in (atom for axis in axes for atom in axis):
        merged.append(atom)
        while len(merged) >= _SPLIT and (whole := _whole(merged[-2], merged[-1])) is not None:
            merged[-2:] = [whole]
    return merged


def _whole(front: Atom, back: Atom) -> Atom | None:
    """The feature of which these two are the parts, as `atoms.regroup` names them."""
    if not isinstance(front.key, tuple) or not isinstance(back.key, tuple) or front.repeat != back.repeat:
        return None
    if len(front.key) != _KEY or front.key[:-1] != back.key[:-1] or (front.key[-1], back.key[-1]) != (0, 1):
        return None
    return Atom(Kind.FEATURE, front.size * back.size, front.key[0], front.repeat)
