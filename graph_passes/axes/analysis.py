"""Run the axis analysis over a graph: axes, small integer contents and padded-slot values of every tensor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from raggedrt.graph_passes.axes import contents, padded_slots, rules
from raggedrt.graph_passes.axes.atoms import BATCH_SYMBOL, TOKEN_SYMBOL, Atom, Axes, Axis, Kind, Size, feature
from raggedrt.graph_passes.axes.contents import Content
from raggedrt.graph_passes.masks.inputs import GraphInputs

MAX_CONTENT = 64
"""Longest integer vector whose elements are followed; shape arithmetic is far shorter."""


@dataclasses.dataclass
class AxisAnalysis:
    """Facts per value, for one graph. A value without an entry in `axes` (or with None) is not understood."""

    inputs: GraphInputs
    batch: Atom
    token: Atom
    axes: dict[ir.Value, Axes | None] = dataclasses.field(default_factory=dict)
    contents: dict[ir.Value, Content] = dataclasses.field(default_factory=dict)
    padded: dict[ir.Value, float] = dataclasses.field(default_factory=dict)
    """The one number that every padded slot of the value holds in the original, where that is known."""
    low: dict[ir.Value, float] = dataclasses.field(default_factory=dict)
    """A number so low that nothing compares with it, which was added to (or put into) every padded slot."""

    def axes_of(self, value: ir.Value | None) -> Axes | None:
        """Axes of a value, constants included."""
        if value is None:
            return None
        if value not in self.axes and value.producer() is None:
            self._enter_constant(value)
        return self.axes.get(value)

    def content_of(self, value: ir.Value | None) -> Content | None:
        """The elements of a small integer tensor as symbolic sizes."""
        if value is None:
            return None
        self.axes_of(value)
        return self.contents.get(value)

    def padded_of(self, value: ir.Value | None) -> float | None:
        """The number at every padded slot, or None where slots may differ."""
        if value is None:
            return None
        self.axes_of(value)
        return self.padded.get(value)

    def low_of(self, value: ir.Value | None) -> float | None:
        """What hides the value at padded slots from sums of exponentials and maxima; None where nothing does."""
        number = self.padded_of(value)
        if number is not None:
            return number if number <= padded_slots.LOW_AT_MOST else None
        return None if value is None else self.low.get(value)

    def static_ints(self, value: ir.Value | None) -> list[int] | None:
        """The elements of a small integer tensor, where all are plain integers."""
        content = self.content_of(value)
        if content is None:
            return None
        integers = [element.static for element in content.elements if element is not None]
        known = [integer for integer in integers if integer is not None]
        return known if len(known) == len(content.elements) else None

    def size_atom(self, size: Size) -> Atom | None:
        """The batch or token atom of that (symbolic) size."""
        return next((atom for atom in (self.batch, self.token) if atom.size == size and size.symbols), None)

    def axis_of_size(self, size: Size) -> Axis:
        """An axis made by arithmetic on lengths: slots (or rows) where there are as many, else features."""
        atom = self.size_atom(size)
        return (atom,) if atom is not None else feature(size)  # of size one: none

    def repeated_axis(self, size: Size) -> Axis:
        """An axis along which nothing varies; `[B*S, ...]` has rows for slots, whatever the order of their numbers."""
        if size == self.batch.size * self.token.size and self.batch.size.symbols and self.token.size.symbols:
            return (self.batch, self.token)
        atom = self.size_atom(size)
        return (atom,) if atom is not None else feature(size, repeat=True)

    def _enter_constant(self, value: ir.Value) -> None:
        tensor = value.const_value
        if tensor is None:
            return
        shape = [int(dim) for dim in tensor.shape.numpy()]
        self.axes[value] = tuple(feature(Size(dim)) for dim in shape)
        elements = math.prod(shape)
        if elements == 1:
            self.padded[value] = float(np.asarray(tensor.numpy()).reshape(()))
        if len(shape) <= 1 and elements <= MAX_CONTENT and contents.is_integer(tensor.dtype):
            array = np.asarray(tensor.numpy()).reshape(-1)
            self.contents[value] = Content(tuple(Size(int(item)) for item in array), scalar=not shape)


Visit = Callable[[ir.Node, "AxisAnalysis"], None]


def analyse(graph: ir.Graph, inputs: GraphInputs, visit: Visit | None = None) -> AxisAnalysis:
    """Analyse every value of the main graph (nodes must be in topological order).

    `visit` is called after each node; it may correct what the rows say (attention sites know their output's axes).
    """
    batch_size = Size(1, (BATCH_SYMBOL,)) if inputs.batch is None else Size(inputs.batch)
    token_size = Size(1, (TOKEN_SYMBOL,)) if inputs.sequence is None else Size(inputs.sequence)
    result = AxisAnalysis(inputs, Atom(Kind.BATCH, batch_size, "batch"), Atom(Kind.TOKEN, token_size, "token"))
    for value in graph.inputs:
        _enter_input(result, value)
    for node in list(graph):
        infer_node(result, node)
        if visit is not None:
            visit(node, result)
    return result


def infer_node(analysis: AxisAnalysis, node: ir.Node) -> None:
    """Derive facts about a node's outputs from its inputs'."""
    rule = rules.rule_for(node)
    outputs: list[Axes | None] = rule.infer(node, analysis) if rule is not None else []
    for index, output in enumerate(node.outputs):
        analysis.axes[output] = outputs[index] if index < len(outputs) else None
    if not node.outputs:
        return
    content = contents.infer(node, analysis)
    if content is not None:
        analysis.contents[node.outputs[0]] = content
        analysis.axes[node.outputs[0]] = content.axes()
    constant = padded_slots.infer(node, analysis)
    if constant is not None:
        analysis.padded[node.outputs[0]] = constant
    low = padded_slots.infer_low(node, analysis)
    if low is not None:
        analysis.low[node.outputs[0]] = low


def _enter_input(analysis: AxisAnalysis, value: ir.Value) -> None:
    if value.shape is None:
        return
    names = analysis.inputs
    per_token = value.name == names.attention_mask or value.name in names.per_token
    axes: list[Axis] = []
    for number, dim in enumerate(value.shape):
        if per_token and number < 2:
            axes.append((analysis.batch if number == 0 else analysis.token,))
        elif isinstance(dim, int):
            axes.append(feature(Size(dim)))
        elif dim.value in names.batch_symbols:
            axes.append((analysis.batch,))
        elif dim.value in names.sequence_symbols:
            axes.append((analysis.token,))
        else:
            axes.append(feature(Size(1, (f"{value.name}:{number}",))))
    analysis.axes[value] = tuple(axes)
    if value.name == names.attention_mask:
        analysis.padded[value] = 0.0
