"""Scores and operands whose batch and head axes are merged, `[B*N, S, H]`: reshapes in between, terms added there."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import Axes, Kind
from raggedrt.graph_passes.axes.views import permutation
from raggedrt.graph_passes.masks.inputs import MaskAxes, Polarity
from raggedrt.graph_passes.sites.mask_terms import scalar
from raggedrt.graph_passes.sites.site import DisentangledTerm, MaskTerm

_SWAPPED = (0, 2, 1)
_BATCH_AND_HEADS = [Kind.BATCH, Kind.FEATURE]


def only_regroups(reshape: ir.Node, analysis: AxisAnalysis) -> bool:
    """Whether a Reshape does nothing but merge (or split again) the batch and head axes of scores."""
    before, after = (analysis.axes_of(value) for value in (reshape.inputs[0], reshape.outputs[0]))
    if before is None or after is None or {len(before), len(after)} - {3, 4}:
        return False
    flat = [[atom for axis in axes for atom in axis] for axes in (before, after)]
    return flat[0] == flat[1] and before[-2:] == after[-2:]


def unmerged(term: MaskTerm, analysis: AxisAnalysis) -> MaskTerm | None:
    """A mask that was built with a head axis of its own and then merged, as it was before, or a number per key."""
    node, merged = term.value.producer(), analysis.axes_of(term.value)
    if (
        merged is not None
        and len(merged) == 3
        and not merged[1]
        and [atom.kind for atom in merged[0]] == _BATCH_AND_HEADS
    ):
        return dataclasses.replace(term, axes=MaskAxes.MERGED_HEADS_KEYS)
    if node is None or node.op_type != "Reshape" or node.inputs[0] is None or not only_regroups(node, analysis):
        return None
    axes = analysis.axes_of(node.inputs[0])
    return dataclasses.replace(term, value=node.inputs[0]) if axes is not None and len(axes) == 4 else None


def disentangled(term: MaskTerm, query: ir.Value, key: ir.Value, analysis: AxisAnalysis) -> DisentangledTerm | None:
    """Read `GatherElements(operand table^T, index) * factor`, transposed where the operand is the key."""
    if term.polarity is not Polarity.ADDITIVE:
        return None
    value, factor = _unscaled(term.value, term.factor)
    node = value.producer()
    of_query = True
    if node is not None and node.op_type == "Transpose" and permutation(node, 3) == _SWAPPED:
        value, inner = _unscaled(node.inputs[0], 1.0)
        node, factor, of_query = value.producer(), factor * inner, False
    if node is None or node.op_type != "GatherElements" or node.inputs[0] is None or node.inputs[1] is None:
        return None
    if node.attributes.get_int("axis", 0) not in (-1, 2):
        return None
    product = node.inputs[0].producer()
    operand = query if of_query else key
    if product is None or product.op_type != "MatMul" or not _same(product.inputs[0], operand):
        return None
    table = _table(product.inputs[1], analysis)
    source = product.inputs[0]
    if table is None or source is None:
        return None
    return DisentangledTerm(of_query, source, *table, _unrepeated(node.inputs[1]), factor)


def _unscaled(value: ir.Value | None, factor: float) -> tuple[ir.Value, float]:
    while value is not None and (node := value.producer()) is not None and node.op_type in ("Mul", "Div"):
        number = scalar(node.inputs[1])
        if number is None or number == 0.0 or node.inputs[0] is None:
            break
        factor = factor * number if node.op_type == "Mul" else factor / number
        value = node.inputs[0]
    return value if value is not None else ir.Value(name="absent"), factor


def _same(value: ir.Value | None, operand: ir.Value) -> bool:
    """The operand, or what its transposed form was made from."""
    node = operand.producer()
    transposed = node is not None and node.op_type == "Transpose" and permutation(node, 3) == _SWAPPED
    return value is operand or (transposed and node is not None and value is node.inputs[0])


def _table(value: ir.Value | None, analysis: AxisAnalysis) -> tuple[ir.Value, bool] | None:
    """The table [N, C, H] behind Transpose and a repetition for every sequence, and whether it is [N, H, C] there."""
    transposed = True
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Transpose" and permutation(node, 3) == _SWAPPED:
            transposed = not transposed
        elif node.op_type not in ("Tile", "Expand", "Identity"):
            break
        value = node.inputs[0]
    axes: Axes | None = analysis.axes_of(value)
    return (value, transposed) if value is not None and axes is not None and len(axes) == 3 else None


def _unrepeated(index: ir.Value) -> ir.Value:
    """The index before it was repeated for every sequence and head."""
    while (node := index.producer()) is not None and node.op_type in ("Expand", "Tile", "Cast"):
        if node.inputs[0] is None:
            break
        index = node.inputs[0]
    return index
