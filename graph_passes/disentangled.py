"""DeBERTa's position terms as operands of `RaggedAttention`: rel_query, rel_key and one bucket per distance.

The graph looks terms up by an index for every pair of slots. The op looks them up by distance, so the index must depend
on key - query alone, and the same bucket must serve both terms. Both are tested by evaluating the graph's own index.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from raggedrt.graph_passes.axes.rule import PackingRefused
from raggedrt.graph_passes.biases import by_distance
from raggedrt.graph_passes.masks.extract import MaskRefused, extract_mask, mask_model
from raggedrt.graph_passes.masks.feeds import probe_lengths, probes
from raggedrt.graph_passes.masks.grammar import opset_of
from raggedrt.graph_passes.masks.inputs import GraphInputs
from raggedrt.graph_passes.masks.probe import DoesNotRun, evaluator
from raggedrt.graph_passes.packing.region import PackedRegion
from raggedrt.graph_passes.packing.tape import TOKENS, Tape
from raggedrt.graph_passes.sites.site import AttentionSite, DisentangledTerm

IndexTable = npt.NDArray[np.int64]
_INT32 = ir.DataType.INT32


def why_not_by_distance(terms: Sequence[DisentangledTerm], inputs: GraphInputs) -> str | None:
    """The reason why the terms are no function of distance with one bucket for both, or None."""
    if len({term.of_query for term in terms}) != len(terms):
        return "more than one position term of a kind is added"
    tables = []
    for term in terms:
        try:
            tables.append(_buckets(term, inputs))
        except (MaskRefused, DoesNotRun) as failure:
            return f"the index of its position terms ('{term.index.name}') is not understood: {failure}"
    first = tables[0]
    for table in tables[1:]:
        if table.keys() != first.keys() or any(not np.array_equal(table[n], first[n]) for n in table):
            return "its position terms look up different buckets at the same distance"
    return None


def _buckets(term: DisentangledTerm, inputs: GraphInputs) -> dict[int, IndexTable]:
    """By length: the bucket of each distance -(length - 1) … length - 1.

    Raises:
        MaskRefused: the index depends on something else.
    """
    graph = extract_mask(term.index)
    evaluate = evaluator(mask_model(graph, opset_of(term.index)))
    found: dict[int, IndexTable] = {}
    for length in probe_lengths(graph, inputs)[0]:
        for probe in probes(graph, inputs, length):
            index = np.asarray(evaluate(probe.feed))
            if index.shape[-2:] != (length, length) or index.size != length * length:
                raise MaskRefused(f"it has the shape {list(index.shape)} at length {length}")
            square = index.reshape(length, length)
            # Row = the operand's slot: of the key, distance counts the other way.
            square = square if term.of_query else square.T
            table = np.concatenate([square[:0:-1, 0], square[0]])
            distances = np.arange(length)[None, :] - np.arange(length)[:, None]
            if not np.array_equal(table[distances + length - 1], square):
                raise MaskRefused("it is no function of the distance alone")
            if length in found and not np.array_equal(found[length], table):
                raise MaskRefused("it depends on the input's values")
            found[length] = table
    return found


def disentangled_operands(site: AttentionSite, region: PackedRegion) -> dict[str, ir.Value | None]:
    """`rel_query`, `rel_key` [T, N, C] and `rel_bucket` int32 [2S-1]."""
    operands: dict[str, ir.Value | None] = {}
    for term in site.disentangled:
        name = "rel_query" if term.of_query else "rel_key"
        operands[name] = _looked_up(site, term, region, f"{site.output.name}_{name}")
        if "rel_bucket" not in operands:
            operands["rel_bucket"] = _bucket_vector(site, term, region)
    return operands


def _looked_up(site: AttentionSite, term: DisentangledTerm, region: PackedRegion, stem: str) -> ir.Value:
    """The operand times the table, for every token, head and bucket."""
    tape, table = region.tape, region.exact(term.table, site.anchor)
    if not term.table_transposed:
        table = tape.op("Transpose", [table], {"perm": [0, 2, 1]}, stem=stem)
    if table.dtype is None:
        raise PackingRefused(site.anchor, f"the element type of '{term.table.name}' is not known")
    table = tape.op("Mul", [table, tape.number(term.factor, table.dtype)], stem=stem)
    product = tape.op("MatMul", [region.packed(term.operand), table], stem=stem)  # [N, T, C]
    result = tape.op("Transpose", [product], {"perm": [1, 0, 2]}, stem=stem)
    axes = region.analysis.axes_of(term.table)
    columns = None if axes is None else axes[2 if term.table_transposed else 1]
    size = None if columns is None else columns[0].size.static if columns else 1
    if size is not None:
        result.shape = ir.Shape([TOKENS, site.num_heads, size])
    return result


def _bucket_vector(site: AttentionSite, term: DisentangledTerm, region: PackedRegion) -> ir.Value:
    tape, stem = region.tape, f"{term.index.name}_bucket"
    index = region.exact(term.index, site.anchor)
    rank = len(index.shape) if index.shape is not None else None
    if rank is None or not 2 <= rank <= 4:
        raise PackingRefused(site.anchor, f"the rank of the index '{term.index.name}' is not known")
    if rank < 4:
        index = tape.op("Unsqueeze", [index, tape.vector(list(range(4 - rank)))], stem=stem)
    if not term.of_query:
        index = tape.op("Transpose", [index], {"perm": [0, 1, 3, 2]}, stem=stem)
    vector = _flat(tape, by_distance(index, tape, stem), stem)
    return tape.op("Cast", [vector], {"to": _INT32}, stem=stem, dtype=_INT32, shape=["distances"])


def _flat(tape: Tape, value: ir.Value, stem: str) -> ir.Value:
    return tape.op("Reshape", [value, tape.vector([-1])], stem=stem, shape=["distances"])
