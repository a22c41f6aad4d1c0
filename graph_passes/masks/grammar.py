"""Read a mask's graph as a formula: which comparisons and padding reads make a key visible."""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.graph_passes.masks.elements import Branch, Element, is_condition, truth_of
from raggedrt.graph_passes.masks.extract import MaskGraph
from raggedrt.graph_passes.masks.formula import FALSE, TRUE, Formula, Unreadable, all_of, any_of, negate
from raggedrt.graph_passes.masks.inputs import MASKED_AT_MOST, GraphInputs, MaskAxes, Polarity
from raggedrt.graph_passes.masks.poly import Poly
from raggedrt.graph_passes.masks.reader import Reader
from raggedrt.graph_passes.masks.tensors import SymbolicTensor


def read_mask(graph: MaskGraph, polarity: Polarity, axes: MaskAxes, inputs: GraphInputs) -> Formula:
    """The formula over b, q, k under which a key is visible.

    Raises:
        Unreadable: an op, an index or a number that this grammar does not have.
    """
    reader = Reader(inputs)
    try:
        for node in graph.nodes:
            reader.read_node(node)
        element = _pair_element(reader.tensor_of(graph.output), axes, reader)
        return _visible(element, polarity)
    except RecursionError as error:
        raise Unreadable("its expressions are nested too deeply") from error


def _pair_element(tensor: SymbolicTensor, axes: MaskAxes, reader: Reader) -> Element:
    """The element that meets the score of batch b, query q, key k."""
    labels = axes.value[-len(tensor.dims) :] if tensor.dims else ""
    if len(tensor.dims) > len(axes.value):
        raise Unreadable(f"a mask of rank {len(tensor.dims)}")
    index = []
    for label, dim in zip(labels, tensor.dims, strict=True):
        if dim.constant == 1:
            index.append(Poly.number(0))
        elif dim == reader.extents.get(label) or label == "n":
            index.append(Poly.variable(label))
        else:
            raise Unreadable(f"the {label} axis of the mask has size {dim}")
    element = tensor.at(tuple(index))
    if axes is MaskAxes.KEY_LENGTHS:
        raise Unreadable("key lengths are read by probing only")
    return element


def _visible(element: Element, polarity: Polarity) -> Formula:
    if isinstance(element, Branch):
        return any_of(
            all_of(element.condition, _visible(element.then, polarity)),
            all_of(negate(element.condition), _visible(element.otherwise, polarity)),
        )
    if polarity is not Polarity.ADDITIVE:
        keep = truth_of(element)
        return keep if polarity is Polarity.BOOL_KEEP else negate(keep)
    value = element.constant if isinstance(element, Poly) else element
    if is_condition(element) or not isinstance(value, int | float):
        raise Unreadable(f"it adds {element}")
    if value == 0:
        return TRUE
    if value <= MASKED_AT_MOST:
        return FALSE
    raise Unreadable(f"it adds {value}")


def opset_of(mask: ir.Value) -> int:
    """The default-domain opset of the graph that a mask is in."""
    node = mask.producer()
    graph = node.graph if node is not None else mask.graph
    return graph.opset_imports.get("", 20) if graph is not None else 20
