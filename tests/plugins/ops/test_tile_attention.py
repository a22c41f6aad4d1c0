"""Attention over random tile lists: body and reference agree, whatever the sizes, paddings and head groups."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.op_models import case_model, run_case
from helpers.tolerances import ATTENTION, assert_close
from raggedrt.plugins.layout.build import from_mask
from raggedrt.plugins.ops.arrays import Array
from raggedrt.plugins.ops.case import MASK_GROUPS, Case, Group
from raggedrt.plugins.ops.ragged_attention.cases import Problem, random_tiles
from raggedrt.plugins.ops.ragged_attention.reference import reference

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort_cpu


@dataclasses.dataclass(frozen=True)
class Sparse:
    """A problem with a tile list of its own block size; calling it generates the inputs."""

    problem: Problem
    block_size: int
    sequences: int
    groups: int
    by_head_group: bool

    def __call__(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Array]:
        """Inputs by name."""
        shape = (self.sequences, self.groups, self.problem.width, self.problem.width)
        heads = rng.integers(0, self.groups, self.problem.heads) if self.by_head_group else None
        layout = from_mask(random_tiles(rng, shape), self.block_size, head_group=heads)
        return self.problem(rng, dtype) | layout.tensors()


@st.composite
def sparse_cases(draw: st.DrawFn) -> Case:
    """Calls of RaggedAttention with a tile list."""
    kv_heads, batch = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    problem = Problem(
        draw(st.sampled_from(sorted(MASK_GROUPS))),
        batch,
        draw(st.integers(1, 40)),
        heads=heads,
        kv_heads=kv_heads,
        positions=draw(st.booleans()),
        plan=draw(st.sampled_from([{}, {"keep_slots": [0]}, {"capacity": 8}])),
        extra=draw(st.sampled_from([(), ("bias",), ("alibi_slopes", "head_sink")])),
    )
    size, by_head_group = draw(st.sampled_from([8, 16, 24])), draw(st.booleans())
    groups = draw(st.integers(1, 3)) if by_head_group else draw(st.sampled_from([1, heads]))
    attributes = {"num_heads": heads, "kv_num_heads": kv_heads, "block_size": size, "causal": draw(st.integers(0, 1))}
    sparse = Sparse(problem, size, draw(st.sampled_from([1, batch])), groups, by_head_group)
    return Case("sparse", Group.CORRECTNESS, sparse, attributes, ("lse",))


@settings(derandomize=True, max_examples=40, deadline=None)
@given(sparse_cases(), st.sampled_from([17, 18, 20, 23, 24]), st.integers(0, 1000))
def test_body_and_reference_agree(case: Case, opset: int, seed: int) -> None:
    inputs = case.inputs(np.dtype(np.float32), seed)
    expected = reference(inputs, case.attributes, compute=np.float64)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = case_model("RaggedAttention", case, inputs, opset)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for name, output in run_case(session, inputs, expected).items():
        assert_close(output, expected[name], ATTENTION[output.dtype], name)
