"""ONNX Runtime's adapters of the CUDA kernels against the references: in the emulated driver, and on a GPU.

In the emulator a library is used whose CUDA adapters serve the CPU provider and copy its tensors to emulated device
memory. On a GPU it is the op library as it ships.
"""

from __future__ import annotations

import concurrent.futures
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from helpers.cuda_setup import EMULATED_CAPABILITY, emulated_driver, emulated_pack
from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_runs import LENGTHS, padded_feed, rewritten, run, tolerance_of
from helpers.op_models import case_model, run_case
from helpers.plugin_host import environment
from helpers.project import compiler
from helpers.tolerances import ATTENTION, EXACT, assert_close
from raggedrt.graph_passes.masks.short_spec import parse_mask
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.native import emulated
from raggedrt.plugins.native.build import build_library, find_ort_headers
from raggedrt.plugins.ops.arrays import NUMPY_TYPES
from raggedrt.plugins.ops.case import Case, Group
from raggedrt.plugins.ops.catalog import CASES, REFERENCES
from raggedrt.plugins.runtime.ort import ort_session

ort = pytest.importorskip("onnxruntime")

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
OWN_FORM = {"AttentionPlan", "BlockMask"}
"""What they put out is between the ops of one back end; they are tested through attention."""
ROWS = [
    pytest.param(op, case, id=f"{op}-{case.name}")
    for op, cases in CASES.items()
    for case in cases
    if case.group is not Group.PERFORMANCE and op not in OWN_FORM
]
APPROXIMATE = {"accept_approximation": True}
HALVES = (ElementType.FLOAT16, ElementType.FLOAT)


@pytest.fixture(scope="module")
def emulated_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    if compiler() is None or find_ort_headers() is None:
        pytest.skip("no C++ compiler, or no ONNX Runtime headers (raggedrt doctor --build-ops)")
    folder = tmp_path_factory.mktemp("adapters")
    library = build_library(folder, extra_flags=("-DRAGGEDRT_CUDA_ON_CPU_PROVIDER",))
    emulated_driver()
    emulated_pack(folder, EMULATED_CAPABILITY)
    with environment(RAGGEDRT_CUDA_DRIVER=str(emulated.build_runtime()), RAGGEDRT_KERNEL_PACKS=str(folder)):
        yield library


def session_of(model: onnx.ModelProto, library: pathlib.Path, provider: str, *, alone: bool = False) -> Any:
    """`alone`: no node may run on another provider."""
    options = ort.SessionOptions()
    if alone and provider == CUDA:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.register_custom_ops_library(str(library))
    providers = [provider] if provider == CPU else [(provider, {"use_tf32": "0"}), CPU]
    session = ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    assert session.get_providers()[0] == provider
    return session


def check(library: pathlib.Path, provider: str, op: str, case: Case) -> None:
    element = next(element for element in (*HALVES, *case.element_types) if element in case.element_types)
    inputs = case.inputs(NUMPY_TYPES[element])
    expected = REFERENCES[op](inputs, case.attributes, compute=np.float64)
    session = session_of(case_model(op, case, inputs, 20), library, provider, alone=True)
    for name, found in run_case(session, inputs, expected).items():
        want = expected[name]
        limit = ATTENTION.get(want.dtype, EXACT) if op in ("RaggedAttention", "MergeAttentionStates") else EXACT
        assert_close(found, want, limit, f"{op}.{case.name}.{name}")


@pytest.mark.emulated
@pytest.mark.parametrize(("op", "case"), ROWS)
def test_an_op_computes_what_the_reference_does(emulated_library: pathlib.Path, op: str, case: Case) -> None:
    check(emulated_library, CPU, op, case)
    assert emulated_driver().take_error() == ""


GRAPHS = {
    "padding": ({}, {}),
    "half": ({"dtype": ir.DataType.FLOAT16}, {}),
    "ragged": ({}, {"io": "ragged"}),
    "pooled at the last slot": ({"head": "slot", "slot": -1}, {}),
    "window and positions": ({"mask": "window", "rope": True, "positions": "none", "attention": "sdpa"}, {}),
    "grouped query": ({"kv_heads": 2, "attention": "sdpa"}, {}),
    "causal": ({"mask": "causal_padding"}, {"io": "ragged"}),
    "tiles": ({}, {"sparsity": parse_mask("bigbird(block=8, window=1, global=1, random=1, seed=3)"), **APPROXIMATE}),
    "tiles of own lengths": ({}, {"sparsity": parse_mask("prefix(2)|window(1)"), "io": "ragged", **APPROXIMATE}),
}


def check_graph(library: pathlib.Path, provider: str, spec: EncoderSpec, config: dict[str, Any]) -> None:
    """A rewritten graph with AttentionPlan, BlockMask and all else, against its function bodies."""
    pair = rewritten(build_encoder(spec), target="ort-cuda", **config)
    if config.get("io") == "ragged":
        lengths = [length for length in LENGTHS if length]
        ids = np.random.default_rng(0).integers(3, 20, sum(lengths))
        feed = {spec.names[0]: ids, "cu_seqlens": np.cumsum([0, *lengths]).astype(np.int32)}
        feed["max_seqlen"] = np.zeros(max(lengths), np.float32)
    else:
        feed = padded_feed(spec)
    expected = run(ort_session(pair.model, native=False), feed)
    actual = run(session_of(ir.to_proto(pair.model), library, provider), feed)
    assert "AttentionPlan" in pair.ops
    for name, want in expected.items():
        assert_close(actual[name], want, tolerance_of(want.dtype), name)


@pytest.mark.emulated
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_computes_what_its_function_bodies_do(emulated_library: pathlib.Path, name: str) -> None:
    changes, config = GRAPHS[name]
    check_graph(emulated_library, CPU, EncoderSpec(**changes), config)
    assert emulated_driver().take_error() == ""


@pytest.mark.cuda
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_on_a_device_computes_what_its_function_bodies_do(op_library: pathlib.Path, name: str) -> None:
    changes, config = GRAPHS[name]
    check_graph(op_library, CUDA, EncoderSpec(**changes), config)


@pytest.mark.emulated
def test_a_failing_device_is_an_error_that_names_the_op(emulated_library: pathlib.Path) -> None:
    case = CASES["PackTokens"][0]
    inputs = case.inputs(np.dtype(np.float32))
    session = session_of(case_model("PackTokens", case, inputs, 20), emulated_library, CPU)
    expected = REFERENCES["PackTokens"](inputs, case.attributes, compute=np.float64)
    emulated_driver().fail("cuLaunchKernel", 701)
    with pytest.raises(Exception, match="PackTokens"):
        run_case(session, inputs, expected)
    assert_close(run_case(session, inputs, expected)["packed"], expected["packed"], EXACT)


@pytest.mark.emulated
def test_staged_plans_do_not_mix_when_sessions_run_at_once(emulated_library: pathlib.Path) -> None:
    case = next(case for case in CASES["PackingPlan"] if case.group is Group.CORRECTNESS)
    inputs = case.inputs(np.dtype(np.float32))
    sessions = [session_of(case_model("PackingPlan", case, inputs, 20), emulated_library, CPU) for _ in range(2)]
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, 2, (5, 37)).astype(inputs["attention_mask"].dtype) for _ in range(24)]

    def one(number: int) -> None:
        feed = {**inputs, "attention_mask": masks[number]}
        feed = {name: array for name, array in feed.items() if name == "attention_mask"}
        expected = REFERENCES["PackingPlan"](feed, case.attributes, compute=np.float64)
        for name, found in run_case(sessions[number % 2], feed, expected).items():
            assert_close(found, expected[name], EXACT, name)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(len(masks))))


@pytest.mark.cuda
@pytest.mark.parametrize(("op", "case"), ROWS)
def test_an_op_on_a_device_computes_what_the_reference_does(op_library: pathlib.Path, op: str, case: Case) -> None:
    check(op_library, CUDA, op, case)
