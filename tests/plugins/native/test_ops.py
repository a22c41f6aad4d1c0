"""Every op of the library against the reference: each case, element type, instruction set and thread count."""

from __future__ import annotations

import ctypes
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

from helpers.op_models import case_model, run_case
from helpers.tolerances import ATTENTION, EXACT, Tolerance, assert_close
from raggedrt.plugins.contract.capability import CAPABILITIES
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.node import required_features
from raggedrt.plugins.ops.arrays import NUMPY_TYPES, Array
from raggedrt.plugins.ops.case import Case, Group
from raggedrt.plugins.ops.catalog import CASES, REFERENCES
from raggedrt.plugins.ops.ragged_attention.cases import Problem
from raggedrt.plugins.runtime.library import library_info

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort_cpu

EXACTLY = {"AttentionPlan", "BlockMask", "PackingPlan", "PackTokens", "UnpackTokens"}
"""Ops without arithmetic on floats."""
ISAS = ("avx512", "avx2", "generic")


def served(op: str, case: Case) -> bool:
    inputs = case.inputs(np.dtype(np.float32))
    features = required_features(op, set(inputs), set(case.outputs), case.attributes)
    return not CAPABILITIES["ort-cpu"].missing(features)


SERVED = [
    (op, case)
    for op in (*sorted(EXACTLY), "RaggedAttention", "MergeAttentionStates")
    for case in CASES[op]
    if case.group is not Group.PERFORMANCE and served(op, case)
]
# Sizes around the kernels' tiles of 48 queries and 64 keys, 12-row blocks and 4, 8 and 16 lanes.
TILE_LENGTHS = (1, 2, 12, 13, 47, 48, 49, 63, 64, 65, 96, 129, 200, 0)
SHORT_KEYS = (7, 0, 64, 1, 65, 48, 3, 128, 63, 20, 200, 100, 31, 5)
LONG = (700, 3, 290)


def _attention(problem: Problem, **attributes: int | float) -> Case:
    heads = {"num_heads": problem.heads, "kv_num_heads": problem.kv_heads}
    name = "_".join(f"{key}{value}" for key, value in attributes.items())
    return Case(name, Group.CORRECTNESS, problem, {**heads, **attributes}, ("lse",))


TILED = {
    "tiles": _attention(Problem(lengths=TILE_LENGTHS, heads=2, kv_heads=2, head_size=32)),
    "tiles_causal": _attention(Problem(lengths=TILE_LENGTHS, heads=2, kv_heads=2, head_size=32), causal=1),
    "tiles_cross": _attention(
        Problem(lengths=TILE_LENGTHS, lengths_k=SHORT_KEYS, heads=2, kv_heads=2, head_size=16), causal=0
    ),
    "tiles_cross_causal": _attention(
        Problem(lengths=TILE_LENGTHS, lengths_k=SHORT_KEYS, heads=2, kv_heads=2, head_size=16), causal=1
    ),
    "grouped_causal": _attention(Problem(lengths=TILE_LENGTHS, heads=6, kv_heads=2, head_size=24), causal=1),
    "multi_query": _attention(Problem(lengths=TILE_LENGTHS, heads=5, kv_heads=1, head_size=40)),
    "long": _attention(Problem(lengths=LONG, heads=3, kv_heads=3, head_size=64), scale=0.2),
    "long_causal": _attention(Problem(lengths=LONG, heads=2, kv_heads=1, head_size=64), causal=1),
    "holes": _attention(Problem("holes", 3, 150, heads=2, kv_heads=2, head_size=32, positions=True)),
    "holes_causal": _attention(Problem("holes", 3, 150, heads=2, kv_heads=2, head_size=32, positions=True), causal=1),
    "left_kept_causal": _attention(
        Problem("left", 3, 150, heads=2, kv_heads=2, head_size=32, positions=True, plan={"keep_slots": [0, 70, -1]}),
        causal=1,
    ),
    "value_head_size": _attention(Problem(lengths=(70, 5), heads=2, kv_heads=2, head_size=32, value_head_size=72)),
    "large_scores": _attention(Problem(lengths=(100, 65), heads=2, kv_heads=2, head_size=32, magnitude=12.0)),
    **{
        f"head_size_{size}": _attention(Problem(lengths=(70, 33, 1), heads=2, kv_heads=2, head_size=size), causal=1)
        for size in (8, 16, 24, 40, 72, 80, 96, 128, 136, 256)
    },
}


def session(
    op: str, case: Case, inputs: dict[str, Array], library: pathlib.Path, threads: int = 1
) -> ort.InferenceSession:
    model = case_model(op, case, inputs, 20)
    del model.functions[:]  # the native kernel or nothing
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def check(op: str, case: Case, element: ElementType, library: pathlib.Path, threads: int = 1) -> None:
    inputs = case.inputs(NUMPY_TYPES[element])
    expected = REFERENCES[op](inputs, case.attributes, compute=np.float64)
    outputs = run_case(session(op, case, inputs, library, threads), inputs, expected)
    for name, output in outputs.items():
        tolerance = EXACT if op in EXACTLY else _scaled(ATTENTION[output.dtype], inputs)
        assert_close(output, expected[name], tolerance, f"{op} {case.name} {name}")


def _scaled(tolerance: Tolerance, inputs: dict[str, Array]) -> Tolerance:
    """Large scores lose absolute accuracy before the softmax: the error of a float32 score grows with its size."""
    if "query" not in inputs or not inputs["query"].size:
        return tolerance
    magnitude = float(np.abs(inputs["query"].astype(np.float64)).std())
    return tolerance if magnitude < 2 else Tolerance(tolerance.atol * magnitude**2, tolerance.rtol)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, library: pathlib.Path) -> Iterator[str]:
    if request.param not in library_info(library).isa:
        pytest.skip(f"this CPU has no {request.param}")
    select = ctypes.CDLL(str(library)).raggedrt_select_isa
    assert select(request.param.encode()) == 1
    yield request.param
    assert select(None) == 1


@pytest.mark.parametrize(
    ("op", "case", "element"),
    [(op, case, element) for op, case in SERVED for element in case.element_types],
    ids=lambda value: value.name if isinstance(value, Case | ElementType) else None,
)
def test_declared_cases_in_every_element_type(op: str, case: Case, element: ElementType, library: pathlib.Path) -> None:
    check(op, case, element, library)


@pytest.mark.parametrize("name", TILED)
def test_attention_around_tile_edges(name: str, isa: str, library: pathlib.Path) -> None:
    check("RaggedAttention", TILED[name], ElementType.FLOAT, library)


@pytest.mark.parametrize("element", [ElementType.FLOAT16, ElementType.BFLOAT16])
@pytest.mark.parametrize("name", ["tiles", "tiles_cross_causal", "multi_query", "value_head_size", "head_size_136"])
def test_half_precision_around_tile_edges(name: str, element: ElementType, isa: str, library: pathlib.Path) -> None:
    check("RaggedAttention", TILED[name], element, library)


@pytest.mark.parametrize("case", CASES["MergeAttentionStates"], ids=lambda case: case.name)
def test_merge_with_every_instruction_set(case: Case, isa: str, library: pathlib.Path) -> None:
    for element in case.element_types:
        check("MergeAttentionStates", case, element, library)


@pytest.mark.parametrize("name", ["long", "long_causal", "tiles", "holes_causal", "grouped_causal"])
def test_two_threads_compute_the_same(name: str, library: pathlib.Path) -> None:
    case = TILED[name]
    inputs = case.inputs(np.dtype(np.float32))
    one, two = (session("RaggedAttention", case, inputs, library, threads) for threads in (1, 2))
    feed = {value.name: inputs[value.name] for value in one.get_inputs()}
    for alone, shared in zip(one.run(None, feed), two.run(None, feed), strict=True):
        np.testing.assert_array_equal(alone, shared)
    check("RaggedAttention", case, ElementType.FLOAT, library, threads=2)


def test_one_long_sequence_is_shared_by_threads(library: pathlib.Path) -> None:
    """Long enough that its packed keys and values become common to all workers."""
    problem = Problem(lengths=(1500, 40), heads=2, kv_heads=1, head_size=64, value_head_size=32)
    check("RaggedAttention", _attention(problem, causal=1), ElementType.FLOAT, library, threads=2)
    check("RaggedAttention", _attention(problem), ElementType.BFLOAT16, library, threads=2)


def test_keys_past_the_end_are_not_read(library: pathlib.Path) -> None:
    """Rows past cu_seqlens[B] may hold anything, NaN included."""
    case = _attention(Problem(lengths=(5, 50, 30), heads=2, kv_heads=2, head_size=32))
    inputs = case.inputs(np.dtype(np.float32))
    expected = REFERENCES["RaggedAttention"](inputs, case.attributes, compute=np.float64)["output"]
    for name in ("query", "key", "value"):
        garbage = np.full((20, inputs[name].shape[1]), np.nan, np.float32)
        inputs[name] = np.concatenate([inputs[name], garbage])
    output, lse = session("RaggedAttention", case, inputs, library).run(
        ["output", "lse"], {k: v for k, v in inputs.items() if k not in ("cu_seqlens_k", "max_seqlen_k")}
    )
    assert_close(output[:85], expected, ATTENTION[np.dtype(np.float32)], "output")
    assert not output[85:].any()
    assert np.isneginf(lse[:, 85:]).all()


def test_nan_in_a_query_stays_in_its_row(isa: str, library: pathlib.Path) -> None:
    case = _attention(Problem(lengths=(60,), heads=1, kv_heads=1, head_size=32))
    inputs = case.inputs(np.dtype(np.float32))
    inputs["query"][7, 3] = np.nan
    output = run_case(
        session("RaggedAttention", case, inputs, library),
        inputs,
        REFERENCES["RaggedAttention"](inputs, case.attributes),
    )["output"]
    assert np.isnan(output[7]).all()
    assert np.isfinite(np.delete(output, 7, axis=0)).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_large_copies_are_shared_by_threads(threads: int, library: pathlib.Path) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((64, 128, 96)).astype(np.float32)
    index = np.flatnonzero(rng.random(64 * 128) < 0.4).astype(np.int32)
    pack = Case("large", Group.CORRECTNESS, lambda _rng, _dtype: {"x": x, "token_index": index})
    check("PackTokens", pack, ElementType.FLOAT, library, threads)
    packed = x.reshape(-1, 96)[index]
    key_position = np.where(rng.random(len(index)) < 0.1, -1, index).astype(np.int32)
    like = np.zeros((64, 128), np.int64)
    inputs = {"packed": packed, "token_index": index, "like": like, "key_position": key_position}
    unpack = Case("large", Group.CORRECTNESS, lambda _rng, _dtype: inputs)
    check("UnpackTokens", unpack, ElementType.FLOAT, library, threads)
