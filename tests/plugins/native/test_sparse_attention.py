"""Masks and score terms of the native RaggedAttention against the reference, alone and combined at random."""

from __future__ import annotations

import ctypes
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.op_models import case_model, run_case
from helpers.tolerances import ATTENTION, assert_close
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.layout.build import from_mask
from raggedrt.plugins.ops.arrays import NUMPY_TYPES, Array
from raggedrt.plugins.ops.case import Case, Group, padding_mask, random_values
from raggedrt.plugins.ops.packing_plan.reference import reference as packing_plan
from raggedrt.plugins.ops.ragged_attention.reference import reference
from raggedrt.plugins.runtime.library import library_info

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort_cpu

ISAS = ("avx512", "avx2", "generic")
_BUCKETS = 7


@dataclasses.dataclass(frozen=True)
class Sparse:
    """One call: sequences, heads, and what masks and changes its scores."""

    lengths: tuple[int, ...] = (150, 1, 64)
    lengths_k: tuple[int, ...] = ()
    """Key lengths where they differ; without positions."""
    padding: str = ""
    """Kind of `padding_mask` that positions come from; none: no positions, lengths as given."""
    keep: tuple[int, ...] = ()
    heads: int = 2
    kv_heads: int = 2
    head_size: int = 16
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    block_size: int = 0
    """Of a random tile list; 0: none."""
    density: float = 0.3
    """Share of tiles that are not empty."""
    sequences: int = 1
    """Of the tile list: 1, or one for each."""
    groups: int = 1
    grouped: bool = False
    """Whether head_group is given."""
    extra: tuple[str, ...] = ()
    broadcast: bool = False
    """Biases shared by sequences and heads."""
    seed: int = 0

    def case(self) -> Case:
        """As a test case of the op."""
        attributes = {"num_heads": self.heads, "kv_num_heads": self.kv_heads, **self.attributes}
        if self.block_size:
            attributes["block_size"] = self.block_size
        return Case("sparse", Group.CORRECTNESS, self.inputs, attributes, ("lse",))

    def inputs(self, _rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Array]:
        """Inputs by name."""
        rng = np.random.default_rng(self.seed)
        made = self._sequences(rng)
        width = max(1, len(made["max_seqlen_q"]), len(made["max_seqlen_k"]))
        rows = {"query": made["cu_seqlens_q"][-1], "key": made["cu_seqlens_k"][-1]}
        made["query"] = random_values(rng, (rows["query"], self.heads * self.head_size), dtype)
        for name in ("key", "value"):
            made[name] = random_values(rng, (rows["key"], self.kv_heads * self.head_size), dtype)
        if self.block_size:
            made |= self._tiles(rng, width, len(made["cu_seqlens_q"]) - 1)
        return made | self._terms(rng, dtype, width, len(made["cu_seqlens_q"]) - 1, rows)

    def _sequences(self, rng: np.random.Generator) -> dict[str, Array]:
        made = {}
        if not self.padding:
            for side, lengths in (("q", self.lengths), ("k", self.lengths_k or self.lengths)):
                made[f"cu_seqlens_{side}"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
                made[f"max_seqlen_{side}"] = np.zeros(max(lengths, default=0), np.float32)
            return made
        mask = padding_mask(rng, self.padding, len(self.lengths), max(self.lengths))
        plan = packing_plan({"attention_mask": mask}, {"keep_slots": list(self.keep)} if self.keep else {})
        for side, positions in (("q", "position"), ("k", "key_position")):
            made[f"cu_seqlens_{side}"] = plan["cu_seqlens"]
            made[f"max_seqlen_{side}"] = np.zeros(mask.shape[1], np.float32)
            made[f"positions_{side}"] = plan[positions]
        return made

    def _tiles(self, rng: np.random.Generator, width: int, batch: int) -> dict[str, Array]:
        size = self.block_size
        blocks = -(-width // size)
        shape = (batch if self.sequences > 1 else 1, self.groups, blocks, blocks)
        kind = rng.integers(0, 2, shape) + 1
        kind[rng.random(shape) >= self.density] = 0
        kind = kind.repeat(size, -2).repeat(size, -1)[..., :width, :width]
        bits = rng.random(kind.shape) < rng.choice([0.03, 0.5, 0.97])
        mask = np.select([kind == 0, kind == 1], [False, True], bits)
        if not batch and self.sequences > 1:
            mask = mask[:0]
        tensors = from_mask(mask, size).tensors()
        if self.grouped:
            tensors["head_group"] = rng.integers(0, self.groups, self.heads).astype(np.int32)
        return tensors

    def _terms(
        self, rng: np.random.Generator, dtype: np.dtype[Any], width: int, batch: int, rows: Mapping[str, int]
    ) -> dict[str, Array]:
        batch, heads = (1, 1) if self.broadcast else (max(batch, 1), self.heads)
        span = int(rng.choice([width, max(1, width // 3)]))
        shapes = {
            "bias": (batch, heads, width, width),
            "distance_bias": (heads, 2 * span - 1),
            "rel_query": (rows["query"], self.heads, _BUCKETS),
            "rel_key": (rows["key"], self.heads, _BUCKETS),
        }
        made = {name: random_values(rng, shapes[name], dtype) for name in self.extra if name in shapes}
        if "rel_query" in made or "rel_key" in made:
            made["rel_bucket"] = rng.integers(0, _BUCKETS, 2 * span - 1).astype(np.int32)
        for name, values in (("head_sink", rng.standard_normal(self.heads)), ("alibi_slopes", rng.random(self.heads))):
            if name in self.extra:
                made[name] = values.astype(np.float32)
        return made


def check(
    sparse: Sparse, library: pathlib.Path, element: ElementType = ElementType.FLOAT, threads: Sequence[int] = (1,)
) -> None:
    case = sparse.case()
    inputs = case.inputs(NUMPY_TYPES[element])
    expected = reference(inputs, case.attributes, compute=np.float64)
    results = []
    for count in threads:
        model = case_model("RaggedAttention", case, inputs, 20)
        del model.functions[:]
        options = ort.SessionOptions()
        options.intra_op_num_threads = count
        options.register_custom_ops_library(str(library))
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results.append(run_case(session, inputs, expected))
        for name, output in results[-1].items():
            assert_close(output, expected[name], ATTENTION[output.dtype], name)
    for name in results[0]:
        np.testing.assert_array_equal(results[0][name], results[-1][name])


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, library: pathlib.Path) -> Iterator[str]:
    if request.param not in library_info(library).isa:
        pytest.skip(f"this CPU has no {request.param}")
    select = ctypes.CDLL(str(library)).raggedrt_select_isa
    assert select(request.param.encode()) == 1
    yield request.param
    assert select(None) == 1


_GLOBAL = {"window_left": 20, "window_right": 9, "global_tokens": [0, 70, 71, 149]}
_BIASES = ("bias", "distance_bias", "alibi_slopes", "rel_query", "rel_key", "head_sink")
NAMED = {
    "window": Sparse(attributes={"window_left": 33, "window_right": 5}),
    "window_one_side": Sparse(attributes={"window_left": 7}, padding="left"),
    "window_holes_kept": Sparse(attributes={"window_left": 30, "window_right": 0}, padding="holes", keep=(0, -1)),
    "window_cross_causal": Sparse((90, 3, 200), (200, 40, 70), attributes={"window_left": 50, "causal": 1}),
    "window_of_nothing": Sparse((40,), (40,), attributes={"window_left": 0, "dilation": 3, "window_right": 0}),
    "dilated": Sparse(attributes={"window_left": 60, "window_right": 60, "dilation": 7}, padding="left"),
    "dilated_far": Sparse((300, 5), attributes={"dilation": 100, "causal": 1}),
    "dilated_holes": Sparse(attributes={"dilation": 3, "global_tokens": [4]}, padding="holes"),
    "global": Sparse(attributes=_GLOBAL),
    "global_causal_left": Sparse(attributes={**_GLOBAL, "causal": 1}, padding="left"),
    "global_grouped": Sparse(attributes=_GLOBAL, heads=6, kv_heads=2, padding="holes"),
    "global_everywhere": Sparse((70,), attributes={"window_left": 0, "global_tokens": list(range(70))}),
    "global_without_window": Sparse(attributes={"global_tokens": [0, 5]}),
    **{f"tiles_{size}": Sparse((290, 7, 128), block_size=size) for size in (8, 16, 24, 32, 64, 128)},
    "tiles_left": Sparse((290, 7, 128), block_size=64, padding="left", sequences=3, density=0.6),
    "tiles_holes": Sparse((290, 7, 128), block_size=32, padding="holes", keep=(3,), density=0.6),
    "tiles_groups": Sparse((150, 80), block_size=16, heads=6, kv_heads=2, groups=3, grouped=True),
    "tiles_per_head": Sparse((150, 80), block_size=64, heads=4, kv_heads=2, groups=4, sequences=2),
    "tiles_and_window": Sparse((150, 80), block_size=16, attributes={**_GLOBAL, "causal": 1}, density=0.7),
    "tiles_cross": Sparse((90, 3, 130), (130, 40, 70), block_size=24, attributes={"causal": 1}, density=0.7),
    "tiles_none": Sparse((90, 3), block_size=16, density=0.0),
    "terms": Sparse(extra=_BIASES, attributes={"softcap": 3.0}),
    "terms_shared": Sparse(extra=_BIASES, broadcast=True, attributes={"causal": 1}, padding="left"),
    "terms_holes": Sparse(extra=_BIASES, padding="holes", keep=(0, -1), attributes={"softcap": 30.0}),
    "terms_grouped": Sparse(extra=_BIASES, heads=6, kv_heads=2, attributes={"softcap": 1.0}),
    "terms_cross": Sparse((90, 3, 130), (130, 40, 70), extra=_BIASES, attributes={"causal": 1}),
    "everything": Sparse(
        (150, 1, 80), extra=_BIASES, heads=4, block_size=16, density=0.8, attributes={**_GLOBAL, "softcap": 2.0}
    ),
    "empty_rows": Sparse((60, 60, 60), padding="empty_row", attributes=_GLOBAL, extra=("head_sink",)),
    "length_1": Sparse((60, 60, 60), padding="length_1", block_size=8, density=0.8, extra=("bias",)),
    "no_token": Sparse((60,), padding="no_token", block_size=8, attributes={"window_left": 3}),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_masks_and_terms(name: str, isa: str, library: pathlib.Path) -> None:
    check(NAMED[name], library, threads=(1, 2))


@pytest.mark.parametrize("name", ["tiles_left", "terms", "terms_holes", "everything"])
def test_in_half_precision(name: str, isa: str, library: pathlib.Path) -> None:
    for element in (ElementType.FLOAT16, ElementType.BFLOAT16):
        check(NAMED[name], library, element)


@st.composite
def _masks(draw: st.DrawFn) -> dict[str, Any]:
    attributes: dict[str, Any] = {"causal": draw(st.integers(0, 1))}
    attributes["window_left"] = draw(st.sampled_from([-1, -1, 0, 5, 40, 130]))
    attributes["window_right"] = draw(st.sampled_from([-1, -1, 0, 5, 40, 130]))
    attributes["dilation"] = draw(st.sampled_from([1, 1, 1, 2, 5, 64, 65]))
    attributes["global_tokens"] = draw(st.lists(st.sampled_from([0, 1, 2, 63, 64, 100, 159, 500]), max_size=4))
    attributes["softcap"] = draw(st.sampled_from([0.0, 0.0, 4.0]))
    return attributes


@st.composite
def _problems(draw: st.DrawFn) -> Sparse:
    kv_heads, group = draw(st.integers(1, 2)), draw(st.sampled_from([1, 1, 3]))
    heads = kv_heads * group
    lengths = tuple(draw(st.lists(st.integers(0, 160), min_size=1, max_size=3)))
    groups = draw(st.sampled_from([1, heads]))
    return Sparse(
        lengths=lengths,
        lengths_k=draw(st.sampled_from([(), tuple(reversed(lengths))])),
        padding=draw(st.sampled_from(["", "", "left", "right", "holes", "empty_row"])) if max(lengths) else "",
        keep=draw(st.sampled_from([(), (0,), (1, -1)])),
        heads=heads,
        kv_heads=kv_heads,
        head_size=draw(st.sampled_from([8, 16, 40])),
        attributes=draw(_masks()),
        block_size=draw(st.sampled_from([0, 0, 8, 16, 32, 40, 64, 128])),
        density=draw(st.sampled_from([0.2, 0.9])),
        sequences=draw(st.integers(1, 2)),
        groups=groups,
        grouped=groups > 1 and draw(st.booleans()),
        extra=tuple(draw(st.lists(st.sampled_from(_BIASES), unique=True, max_size=3))),
        broadcast=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(sparse=_problems())
def test_random_combinations(sparse: Sparse, library: pathlib.Path) -> None:
    check(sparse, library, threads=(1, 2))


def test_rows_of_the_lowest_bias_are_averages(isa: str, library: pathlib.Path) -> None:
    """The lowest float is a bias, not a mask: softmax of equal scores."""
    sparse = Sparse((70,), extra=("bias",), heads=1, kv_heads=1)
    case = sparse.case()
    inputs = case.inputs(np.dtype(np.float32))
    inputs["bias"][..., 5, :] = np.finfo(np.float32).min
    inputs["bias"][..., 6, :] = -np.inf
    model = case_model("RaggedAttention", case, inputs, 20)
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    output = run_case(session, inputs, {"output": inputs["query"], "lse": np.zeros(1, np.float32)})["output"]
    np.testing.assert_allclose(output[5], inputs["value"].mean(axis=0), atol=1e-5)
    assert not output[6].any()


def test_a_long_window_is_split_among_threads(library: pathlib.Path) -> None:
    attributes = {"window_left": 64, "window_right": 64, "global_tokens": [0]}
    check(Sparse((1700, 40), heads=2, kv_heads=1, attributes=attributes), library, threads=(1, 2))
