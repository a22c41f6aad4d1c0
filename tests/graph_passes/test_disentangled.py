from __future__ import annotations

import dataclasses

import onnx_ir as ir
import pytest

from helpers.graph_writer import GraphWriter
from raggedrt.graph_passes.disentangled import why_not_by_distance
from raggedrt.graph_passes.masks.inputs import GraphInputs
from raggedrt.graph_passes.sites.site import DisentangledTerm

pytestmark = pytest.mark.ort_cpu
INPUTS = GraphInputs("attention_mask", ("input_ids",))
REACH = 3


class IndexGraph(GraphWriter):
    def __init__(self) -> None:
        super().__init__(20, ir.DataType.FLOAT, 0)
        self.ids = self.input("input_ids", ["batch", "sequence"])
        self.input("attention_mask", ["batch", "sequence"])
        length = self.op.Squeeze(self.op.Shape(self.ids, start=1, end=2))
        slots = self.op.Range(self.ints(0), length, self.ints(1))
        self.rows = self.op.Unsqueeze(slots, self.ints([1]))
        self.columns = self.op.Unsqueeze(slots, self.ints([0]))

    def bucket(self, distance: ir.Value) -> ir.Value:
        return self.op.Clip(self.op.Add(distance, self.ints(REACH)), self.ints(0), self.ints(2 * REACH - 1))

    def terms(self, *indices: tuple[bool, ir.Value]) -> list[DisentangledTerm]:
        self.model({f"index_{number}": index for number, (_, index) in enumerate(indices)})
        return [DisentangledTerm(of_query, self.ids, self.ids, False, index, 1.0) for of_query, index in indices]


def test_opposite_signs_look_up_the_same_bucket() -> None:
    graph = IndexGraph()
    ahead, back = graph.op.Sub(graph.rows, graph.columns), graph.op.Sub(graph.columns, graph.rows)
    query, key = graph.terms((True, graph.bucket(ahead)), (False, graph.bucket(back)))
    assert why_not_by_distance([query, key], INPUTS) is None
    same_sign = dataclasses.replace(query, of_query=False)
    assert "different buckets at the same distance" in str(why_not_by_distance([query, same_sign], INPUTS))
    assert "more than one position term" in str(why_not_by_distance([query, query], INPUTS))


def test_an_index_by_slot_is_no_index_by_distance() -> None:
    graph = IndexGraph()
    index = graph.op.Mul(graph.rows, graph.op.Add(graph.columns, graph.ints(1)))
    assert "no function of the distance" in str(why_not_by_distance(graph.terms((True, index)), INPUTS))


def test_an_index_that_reads_the_input_is_refused() -> None:
    graph = IndexGraph()
    first = graph.op.ReduceMax(graph.ids, keepdims=0)
    index = graph.op.Add(graph.bucket(graph.op.Sub(graph.rows, graph.columns)), first)
    assert "input" in str(why_not_by_distance(graph.terms((True, index)), INPUTS))
