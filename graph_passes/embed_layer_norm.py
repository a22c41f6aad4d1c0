"""Take `com.microsoft.EmbedLayerNormalization` (onnxruntime.transformers.optimizer writes it) apart.

    sum = word[ids] + position[position_ids or slot] + segment[segment_ids];  output = LayerNormalization(sum)

Its second output counts the ones of each row of its mask (zeros without one): the key lengths of fused attention.
"""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.graph_passes.respell import respell

OP = ("com.microsoft", "EmbedLayerNormalization")
_INT32, _INT64, _BOOL = ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL
_IDS, _SEGMENTS, _WORD, _POSITION, _SEGMENT, _GAMMA, _BETA, _MASK, _POSITIONS = range(9)


def take_embeddings_apart(graph: ir.Graph) -> int:
    """Replace every EmbedLayerNormalization; returns how many."""
    return respell(graph, {OP}, _embedding)


def _embedding(node: ir.Node, tape: Tape) -> list[ir.Value | None] | None:
    inputs = [*node.inputs, *[None] * (9 - len(node.inputs))]
    ids, words, table, gamma, beta = (inputs[number] for number in (_IDS, _WORD, _POSITION, _GAMMA, _BETA))
    if ids is None or words is None or table is None or gamma is None or beta is None:
        return None
    stem = f"{node.outputs[0].name}_embedding"
    total = tape.op("Gather", [words, ids], {"axis": 0}, stem=stem, dtype=words.dtype)
    positions = inputs[_POSITIONS]
    if positions is None:
        length = tape.op("Shape", [ids], {"start": 1, "end": 2}, stem=f"{stem}_length", dtype=_INT64, shape=[1])
        zero = tape.vector([0])
        found = tape.op("Slice", [table, zero, length, zero], stem=f"{stem}_positions", dtype=table.dtype)
    else:
        found = tape.op("Gather", [table, positions], {"axis": 0}, stem=f"{stem}_positions", dtype=table.dtype)
    total = tape.op("Add", [total, found], stem=stem)
    segments, segment_table = inputs[_SEGMENTS], inputs[_SEGMENT]
    if segments is not None and segment_table is not None:
        rows = tape.op("Gather", [segment_table, segments], {"axis": 0}, stem=f"{stem}_segments", dtype=words.dtype)
        total = tape.op("Add", [total, rows], stem=stem)
    epsilon = node.attributes.get_float("epsilon", 1e-12)
    attributes = {"axis": -1, "epsilon": epsilon}
    output = tape.op("LayerNormalization", [total, gamma, beta], attributes, stem=stem, dtype=words.dtype)
    return [output, _lengths(node, ids, inputs[_MASK], tape), total]


def _lengths(node: ir.Node, ids: ir.Value, mask: ir.Value | None, tape: Tape) -> ir.Value | None:
    """Int32 [B]: how many elements of each row of the mask are one."""
    if len(node.outputs) < 2 or not node.outputs[1].name:
        return None
    stem = f"{node.outputs[1].name}_lengths"
    if mask is None:
        batch = tape.op("Shape", [ids], {"start": 0, "end": 1}, stem=stem, dtype=_INT64, shape=[1])
        zero = {"value": ir.tensor([0], dtype=_INT32)}
        return tape.op("ConstantOfShape", [batch], zero, stem=stem, dtype=_INT32, shape=["batch"])
    if mask.dtype is None:
        return None
    ones = tape.op("Equal", [mask, tape.number(1, mask.dtype)], stem=stem, dtype=_BOOL, shape=mask.shape)
    counted = tape.op("Cast", [ones], {"to": _INT32}, stem=stem, dtype=_INT32, shape=mask.shape)
    return tape.op("ReduceSum", [counted, tape.vector([1])], {"keepdims": 0}, stem=stem, dtype=_INT32, shape=["batch"])
