"""Transfer rules of ops that only regroup or permute axes."""

from __future__ import annotations

import typing

import onnx_ir as ir

from raggedrt.graph_passes.axes.atoms import Atom, Axes, Size, axis_size, product, regroup
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.axes.rule import Packed, PackingRefused, dropped_axis, packed_axis_number, require_axes

if typing.TYPE_CHECKING:
    from raggedrt.graph_passes.axes.analysis import AxisAnalysis

_INFERRED = Size(-1)
_COPIED = Size(0)


class _View:
    """A view that is not a permutation becomes one Reshape on packed tokens."""

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        source = node.inputs[0]
        if source is None:
            raise PackingRefused(node, "the operand is missing")
        axes = require_axes(node, region.analysis.axes_of(node.outputs[0]), "the output")
        return [region.reshaped(node, region.packed(source), axes)]


class Reshape(_View):
    """Regroups atoms; targets may come from Shape arithmetic."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        axes, target = analysis.axes_of(node.inputs[0]), analysis.content_of(node.inputs[1])
        if axes is None or target is None:
            return [None]
        copies = not int_attribute(node, "allowzero", 0)
        sizes: list[Size | None] = []
        for number, size in enumerate(target.elements):
            copied = size == _COPIED and copies and number < len(axes)
            sizes.append(axis_size(axes[number]) if copied else size)
        return [_regrouped(axes, sizes)]


def _regrouped(axes: Axes, sizes: list[Size | None]) -> Axes | None:
    unknown = [number for number, size in enumerate(sizes) if size is None or size == _INFERRED]
    if len(unknown) > 1:
        return None
    targets = [size if size is not None else _INFERRED for size in sizes]
    if unknown:
        known = product(size for number, size in enumerate(targets) if number != unknown[0])
        inferred = product(axis_size(axis) for axis in axes).divided_by(known)
        if inferred is None:
            return None
        targets[unknown[0]] = inferred
    atoms: list[Atom] = [atom for axis in axes for atom in axis]
    return regroup(atoms, targets)


class Transpose:
    """Permutes axes."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        axes = analysis.axes_of(node.inputs[0])
        return [None if axes is None else tuple(axes[number] for number in permutation(node, len(axes)))]

    def pack(self, node: ir.Node, region: Packed) -> list[ir.Value]:
        source = node.inputs[0]
        axes = require_axes(node, region.analysis.axes_of(source))
        if source is None:
            raise PackingRefused(node, "the operand is missing")
        dropped = dropped_axis(axes)
        order = [packed_axis_number(axes, number) for number in permutation(node, len(axes)) if number != dropped]
        return region.emit(node, [region.packed(source)], {"perm": order})


def permutation(node: ir.Node, rank: int) -> tuple[int, ...]:
    """`perm`, which by default reverses the axes."""
    attribute = node.attributes.get("perm")
    return tuple(reversed(range(rank))) if attribute is None else tuple(attribute.as_ints())


class Flatten(_View):
    """Two axes: those before `axis` and the rest."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        axes = analysis.axes_of(node.inputs[0])
        if axes is None:
            return [None]
        number = (
            int_attribute(node, "axis", 1) % (len(axes) + 1)
            if int_attribute(node, "axis", 1) >= 0
            else (int_attribute(node, "axis", 1) + len(axes))
        )
        head = tuple(atom for axis in axes[:number] for atom in axis)
        return [(head, tuple(atom for axis in axes[number:] for atom in axis))]


class Unsqueeze(_View):
    """Inserts axes of size one."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        axes, numbers = analysis.axes_of(node.inputs[0]), view_axes(node, analysis)
        if axes is None or numbers is None:
            return [None]
        rank = len(axes) + len(numbers)
        new = {number % rank for number in numbers}
        rest = iter(axes)
        return [tuple(() if number in new else next(rest) for number in range(rank))]


class Squeeze(_View):
    """Removes axes of size one."""

    def infer(self, node: ir.Node, analysis: AxisAnalysis) -> list[Axes | None]:
        axes, numbers = analysis.axes_of(node.inputs[0]), view_axes(node, analysis)
        if axes is None:
            return [None]
        if numbers is None:
            return [None] if len(node.inputs) > 1 and node.inputs[1] is not None else [tuple(a for a in axes if a)]
        gone = {number % len(axes) for number in numbers}
        return [tuple(axis for number, axis in enumerate(axes) if number not in gone)]


def view_axes(node: ir.Node, analysis: AxisAnalysis) -> list[int] | None:
    """`axes` of Squeeze, Unsqueeze and the reductions: an attribute in old opsets, an input in new ones."""
    attribute = node.attributes.get("axes")
    if attribute is not None:
        return list(attribute.as_ints())
    return analysis.static_ints(node.inputs[1]) if len(node.inputs) > 1 else None
