"""Undo the repetition of key/value heads (grouped-query attention): the op reads each head where it is."""

from __future__ import annotations

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import Atom, axis_size, product
from raggedrt.graph_passes.sites.site import HeadLayout, Operand

_VIEWS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def unrepeated(operand: Operand, analysis: AxisAnalysis) -> tuple[Operand, int]:
    """The operand before its heads were repeated, and how many heads it then has.

    Head n of the repeated tensor must be head n // repeat of the original (repeat is the fastest factor of the head
    axis); anything else is left as it is.
    """
    axes = analysis.axes_of(operand.value)
    if axes is None or len(operand.layout.heads) != 1:
        return operand, 0
    head_axis = axes[operand.layout.heads[0]]
    plain = operand, axis_size(head_axis).static or 0
    if not head_axis or not head_axis[-1].repeat or any(atom.repeat for atom in head_axis[:-1]):
        return plain
    kept, repeat = head_axis[:-1], head_axis[-1]
    value = operand.value
    while (node := value.producer()) is not None and node.op_type in _VIEWS and node.inputs[0] is not None:
        value = node.inputs[0]
    source = None if node is None or node.op_type != "Expand" else node.inputs[0]
    source_axes = analysis.axes_of(source)
    if source is None or source_axes is None or any(repeat in axis for axis in source_axes):
        return plain
    heads = tuple(number for number, axis in enumerate(source_axes) if axis and set(axis) <= set(kept))
    features = [number for number, axis in enumerate(source_axes) if axis == axes[operand.layout.feature]]
    found: list[Atom] = [atom for number in heads for atom in source_axes[number]]
    if found != list(kept) or len(features) != 1:
        return plain
    return Operand(source, HeadLayout(heads, features[0])), product(atom.size for atom in kept).static or 0
