"""Make a graph easy to read: no foreign local functions, no Constant nodes, no shape questions to the network."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnxscript import optimizer

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import BATCH_SYMBOL, TOKEN_SYMBOL, Size
from raggedrt.graph_passes.element_types import infer_element_types
from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.graph_passes.sites.torch_op import TORCH_DOMAIN

logger = logging.getLogger(__name__)

FOLD_ELEMENTS = 1 << 16
"""Largest tensor that constant folding may read or make; weights are left alone."""

SMALL_CONSTANT = 64
"""Elements of the largest initializer that is compared with others."""


def clean(model: ir.Model) -> None:
    """Inline local functions, lift and fold constants, merge equal nodes, drop identities and dead nodes.

    Shape inference follows, so that later passes know element types; symbolic dimensions are kept.
    """
    steps: Sequence[ir.passes.InPlacePass] = (
        common_passes.InlinePass(lambda function: function.domain != TORCH_DOMAIN),  # those are attention
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common_passes.RemoveInitializersFromInputsPass(),
    )
    for step in steps:
        step(model)
    fold(model)
    for step in (
        # Exporters repeat small constants; equal nodes are found only on one constant.
        common_passes.DeduplicateInitializersPass(size_limit=SMALL_CONSTANT),
        common_passes.CommonSubexpressionEliminationPass(),
        common_passes.RemoveUnusedNodesPass(),
    ):
        step(model)
    infer_types(model)


def fold(model: ir.Model) -> None:
    """Compute what depends on constants only, and drop identities."""
    with _without_folding_notes():
        optimizer.fold_constants(model, input_size_limit=FOLD_ELEMENTS, output_size_limit=FOLD_ELEMENTS)
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    drop_identities(model.graph)


@contextlib.contextmanager
def _without_folding_notes() -> Iterator[None]:
    """A node that the reference evaluator cannot compute stays as it is, which is no news to a user."""
    notes = logging.getLogger("onnxscript.optimizer._constant_folding")
    level = notes.level
    notes.setLevel(logging.ERROR)
    try:
        yield
    finally:
        notes.setLevel(level)


def infer_types(model: ir.Model) -> None:
    """Infer shapes and element types of every value."""
    common_passes.ShapeInferencePass()(model)
    infer_element_types(model.graph)


def drop_identities(graph: ir.Graph) -> None:
    """Remove Identity nodes of the main graph, except those that give an output its name.

    onnx_ir's pass lets two outputs share a name and empties subgraphs that return an outer value.
    """
    for node in list(graph):
        if node.op_type != "Identity" or node.domain or node.inputs[0] is None:
            continue
        if not node.outputs[0].is_graph_output():
            ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
            graph.remove(node, safe=True)


def ask_inputs_for_shapes(graph: ir.Graph, analysis: AxisAnalysis, anchor: ir.Value) -> int:
    """Replace `Shape` of network values by shapes of the graph input `anchor` [batch, sequence].

    Exporters size masks and reshapes by the shape of activations (`Shape(inputs_embeds)`); after this nothing but real
    data flows from the network into shape arithmetic.

    Returns:
        How many Shape nodes were replaced.
    """
    tape = Tape(graph)
    dims: dict[str, ir.Value] = {}
    replaced = 0
    for node in list(graph):
        if node.op_type != "Shape" or node.domain or node.inputs[0] is anchor:
            continue
        content = analysis.content_of(node.outputs[0])
        if content is None or not content.elements or not all(_known(element) for element in content.elements):
            continue
        parts = [_element(element, tape, dims, anchor) for element in content.elements if element is not None]
        shape = [len(parts)]
        new = parts[0] if len(parts) == 1 else tape.op("Concat", parts, {"axis": 0}, stem="shape", shape=shape)
        ir.convenience.replace_all_uses_with(node.outputs[0], new, replace_graph_outputs=True)
        replaced += 1
    if replaced:
        tape.join(before=next(iter(graph)))
    return replaced


def _known(size: Size | None) -> bool:
    return size is not None and not size.plus and set(size.symbols) <= {BATCH_SYMBOL, TOKEN_SYMBOL}


def _element(size: Size, tape: Tape, dims: dict[str, ir.Value], anchor: ir.Value) -> ir.Value:
    """Int64 [1]: the size, computed from the anchor's shape."""
    factors = [tape.vector([size.coefficient])] if size.coefficient != 1 or not size.symbols else []
    for symbol in size.symbols:
        if symbol not in dims:
            number = 0 if symbol == BATCH_SYMBOL else 1
            bounds = {"start": number, "end": number + 1}
            dims[symbol] = tape.op("Shape", [anchor], bounds, stem=symbol, dtype=ir.DataType.INT64, shape=[1])
        factors.append(dims[symbol])
    result = factors[0]
    for factor in factors[1:]:
        result = tape.op("Mul", [result, factor], stem="shape_product", shape=[1])
    return result
