"""Every op as a TensorRT plugin, driven as TensorRT drives it, against the references.

Needs TensorRT's headers (TENSORRT_ROOT), not TensorRT. Kernels run in the emulated driver, or on a GPU.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest

from helpers.cuda_setup import EMULATED_CAPABILITY, emulated_driver, emulated_pack
from helpers.op_models import case_model
from helpers.plugin_host import PluginError, drive, environment, plugin_attributes
from helpers.tolerances import ATTENTION, EXACT, assert_close
from raggedrt.errors import TargetError
from raggedrt.graph_passes.attention_plans import plan_attention
from raggedrt.plugins.contract.abi import Feature
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.native import emulated
from raggedrt.plugins.native.plugin_library import build_plugin_library, tensorrt_headers
from raggedrt.plugins.ops.arrays import NUMPY_TYPES, Array
from raggedrt.plugins.ops.case import Case, Group
from raggedrt.plugins.ops.catalog import CASES, REFERENCES
from raggedrt.plugins.ops.ragged_attention.cases import TILE, Problem
from raggedrt.plugins.registry import BY_NAME
from raggedrt.plugins.tensorrt.form import to_plugins

PLAN = "AttentionPlan"
"""What it makes is read by attentions alone, so it is tested with them."""
ROWS = [
    pytest.param(op, case, id=f"{op}-{case.name}")
    for op, cases in CASES.items()
    for case in cases
    if case.group is not Group.PERFORMANCE and op != PLAN
]
ATTENTIONS = [row for row in ROWS if row.values[0] == "RaggedAttention"]


def _on_tensor_cores(name: str, problem: Problem, **attributes: int) -> Case:
    """Head sizes of the kernels that read work lists; the others divide their work by rows."""
    sized = dataclasses.replace(problem, heads=2, kv_heads=2, head_size=32)
    return Case(name, Group.CORRECTNESS, sized, {"num_heads": 2, "kv_num_heads": 2, **attributes})


PLANNED = [
    _on_tensor_cores("lengths", Problem(lengths=(130, 0, 65, 64, 1))),
    _on_tensor_cores("causal_left", Problem("left", batch=2, width=90, positions=True), causal=1),
    _on_tensor_cores("window", Problem(lengths=(200, 3)), window_left=16, window_right=16),
    _on_tensor_cores("cross_lengths", Problem(lengths=(3, 0, 70), lengths_k=(0, 9, 100)), causal=1),
    _on_tensor_cores("tiles", Problem(width=70, batch=2, tiles=(1, 1)), block_size=TILE),
    _on_tensor_cores("tiles_holes", Problem("holes", 2, 70, positions=True, tiles=(2, 1)), block_size=TILE),
]
SERVED = (ElementType.FLOAT16, ElementType.FLOAT)


def _library_in(folder: pathlib.Path) -> pathlib.Path:
    """A copy of the plugin library, which keeps its own driver and packs."""
    try:
        tensorrt_headers()
    except TargetError as error:
        pytest.skip(str(error))
    return pathlib.Path(shutil.copy(build_plugin_library(), folder))


@pytest.fixture(scope="module")
def emulated_plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """Plugins whose launcher finds the emulated driver and a pack for it."""
    folder = tmp_path_factory.mktemp("emulated")
    library = _library_in(folder)
    emulated_driver()
    emulated_pack(folder, EMULATED_CAPABILITY)
    with environment(RAGGEDRT_CUDA_DRIVER=str(emulated.build_runtime()), RAGGEDRT_KERNEL_PACKS=str(folder)):
        yield library


@pytest.fixture(scope="module")
def device_plugins(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Plugins on the machine's GPU, with packs from where users have theirs."""
    return _library_in(tmp_path_factory.mktemp("device"))


def element_of(case: Case) -> ElementType:
    return next(element for element in (*SERVED, *case.element_types) if element in case.element_types)


def plugin_node(op: str, case: Case, inputs: dict[str, Array]) -> ir.Node:
    """The case's node in plugin form, with the inputs named as in the definition."""
    model = ir.from_proto(case_model(op, case, {name: _plain(array) for name, array in inputs.items()}, 20))
    to_plugins(model)
    return next(node for node in model.graph if "present" in node.attributes)


def _plain(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def check(library: pathlib.Path, op: str, case: Case) -> None:
    """A plugin's outputs against the reference."""
    inputs = case.inputs(NUMPY_TYPES[element_of(case)])
    node = plugin_node(op, case, inputs)
    expected = REFERENCES[op](inputs, case.attributes, compute=np.float64)
    fed = [inputs[_definition_name(value, inputs)] for value in node.inputs]
    names = [str(value.name).removeprefix("node_") for value in node.outputs]
    results = drive(node.op_type, plugin_attributes(node), fed, len(names), library=library)
    for name, found in zip(names, results, strict=True):
        want = expected[name]
        limit = ATTENTION.get(want.dtype, EXACT) if op in ("RaggedAttention", "MergeAttentionStates") else EXACT
        assert_close(found, want, limit, f"{op}.{case.name}.{name}")


@pytest.mark.tensorrt
@pytest.mark.parametrize(("op", "case"), ROWS)
def test_a_plugin_computes_what_the_reference_does(emulated_plugins: pathlib.Path, op: str, case: Case) -> None:
    check(emulated_plugins, op, case)


@pytest.mark.cuda
@pytest.mark.parametrize(("op", "case"), ROWS)
def test_a_plugin_on_a_device_computes_what_the_reference_does(
    device_plugins: pathlib.Path, op: str, case: Case
) -> None:
    check(device_plugins, op, case)


def check_with_plan(library: pathlib.Path, case: Case) -> None:
    """An attention that reads the work list of an AttentionPlan, both as plugins, against the reference."""
    inputs = case.inputs(NUMPY_TYPES[element_of(case)])
    given = {name: _plain(array) for name, array in inputs.items()}
    model = ir.from_proto(case_model("RaggedAttention", case, given, 20))
    assert plan_attention(model.graph) == 1
    to_plugins(model)
    plan, attention = (node for node in model.graph if "present" in node.attributes)
    assert plan.op_type == PLAN
    fed = [inputs[_definition_name(value, inputs)] for value in plan.inputs]
    (work_list,) = drive(PLAN, plugin_attributes(plan), fed, 1, library=library)
    assert attention.inputs[-1] is plan.outputs[0]
    fed = [*(inputs[_definition_name(value, inputs)] for value in attention.inputs[:-1]), work_list]
    expected = REFERENCES["RaggedAttention"](inputs, case.attributes, compute=np.float64)
    names = [str(value.name).removeprefix("node_") for value in attention.outputs]
    results = drive(attention.op_type, plugin_attributes(attention), fed, len(names), library=library)
    for name, found in zip(names, results, strict=True):
        want = expected[name]
        assert_close(found, want, ATTENTION.get(want.dtype, EXACT), f"{case.name}.{name}")


WITH_PLAN = pytest.mark.parametrize(
    "case", [*(row.values[1] for row in ATTENTIONS), *PLANNED], ids=lambda case: case.name
)


@pytest.mark.tensorrt
@WITH_PLAN
def test_an_attention_takes_the_work_list_of_a_plan(emulated_plugins: pathlib.Path, case: Case) -> None:
    check_with_plan(emulated_plugins, case)


@pytest.mark.cuda
@WITH_PLAN
def test_an_attention_takes_the_work_list_of_a_plan_on_a_device(device_plugins: pathlib.Path, case: Case) -> None:
    check_with_plan(device_plugins, case)


@pytest.mark.tensorrt
def test_a_work_list_of_other_lengths_is_refused(emulated_plugins: pathlib.Path) -> None:
    case = PLANNED[0]
    inputs = case.inputs(np.dtype(np.float32))
    model = ir.from_proto(case_model("RaggedAttention", case, inputs, 20))
    plan_attention(model.graph)
    to_plugins(model)
    attention = next(node for node in model.graph if node.op_type == "RaggedAttention")
    fed = [*(inputs[_definition_name(value, inputs)] for value in attention.inputs[:-1]), np.zeros(12, np.int32)]
    with pytest.raises(PluginError, match="the work list has 12 integers, expected"):
        drive("RaggedAttention", plugin_attributes(attention), fed, 1, library=emulated_plugins)


def _definition_name(value: ir.Value | None, inputs: dict[str, Array]) -> str:
    assert value is not None
    assert value.name in inputs
    return str(value.name)


@pytest.mark.tensorrt
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"abi": 99}, r"op ABI version 99 is not the library's"),
        ({"features": 1 << 30}, r"feature \(bit 30\) is not served"),
        ({"num_heads": 0}, "num_heads must be a positive multiple of kv_num_heads"),
        ({"unknown": 1}, "field 'unknown' is not one of this plugin"),
        ({"present": 0}, "input 'query' is missing"),
        ({"scale": 1}, "field 'scale' must be one float"),
    ],
)
def test_what_a_creator_refuses(emulated_plugins: pathlib.Path, changed: dict[str, object], message: str) -> None:
    case = CASES["RaggedAttention"][0]
    inputs = case.inputs(np.dtype(np.float32))
    node = plugin_node("RaggedAttention", case, inputs)
    attributes = plugin_attributes(node) | changed
    fed = [inputs[_definition_name(value, inputs)] for value in node.inputs]
    with pytest.raises(PluginError, match=message):
        drive(node.op_type, attributes, fed, 0, library=emulated_plugins)


@pytest.mark.tensorrt
def test_shapes_that_contradict_each_other_are_refused_before_a_launch(emulated_plugins: pathlib.Path) -> None:
    case = CASES["RaggedAttention"][0]
    inputs = case.inputs(np.dtype(np.float32))
    node = plugin_node("RaggedAttention", case, inputs)
    fed = [inputs[_definition_name(value, inputs)] for value in node.inputs]
    fed[1] = fed[1][:, :-1]
    with pytest.raises(PluginError, match=r"query, key and value must be \[Tq, N\*H\]"):
        drive(node.op_type, plugin_attributes(node), fed, 1, library=emulated_plugins)


@pytest.mark.tensorrt
def test_workspace_serves_every_shape_of_a_profile(emulated_plugins: pathlib.Path) -> None:
    """Few queries with many keys are computed in splits, whose partial results the largest shape does not need."""
    rng = np.random.default_rng(0)
    heads, head_size, keys = 2, 32, 640
    cu = np.array([0, 4], np.int32), np.array([0, keys], np.int32)
    query = rng.standard_normal((4, heads * head_size)).astype(np.float16)
    key, value = (rng.standard_normal((keys, heads * head_size)).astype(np.float16) for _ in range(2))
    inputs: dict[str, Array] = {
        "query": query, "key": key, "value": value, "cu_seqlens_q": cu[0], "cu_seqlens_k": cu[1],
        "max_seqlen_q": np.zeros(4, np.float32), "max_seqlen_k": np.zeros(keys, np.float32),
    }  # fmt: skip
    attributes = {"num_heads": heads, "abi": 1, "features": 0, "present": (1 << 7) - 1}
    largest = [(4096, 64), (4096, 64), (4096, 64), (9,), (9,), (4096,), (4096,)]
    expected = REFERENCES["RaggedAttention"](inputs, {"num_heads": heads}, compute=np.float64)["output"]
    (found,) = drive("RaggedAttention", attributes, list(inputs.values()), 1, largest=largest, library=emulated_plugins)
    assert_close(found, expected, ATTENTION[expected.dtype])


def _attention(offsets: Array, *, positions: Array | None = None) -> tuple[dict[str, object], list[Array]]:
    """Attributes and inputs of an attention of two heads over 64 rows."""
    rows = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float16)
    carrier = np.zeros(64, np.float32)
    inputs = [rows, rows, rows, offsets, offsets, carrier, carrier]
    given = [] if positions is None else [positions, positions]
    features = 0 if positions is None else int(Feature.POSITIONS | Feature.CAUSAL)
    attributes = {"num_heads": 2, "abi": 1, "features": features, "present": (1 << (7 + len(given))) - 1}
    return attributes | ({} if positions is None else {"causal": 1}), [*inputs, *given]


@pytest.mark.tensorrt
@pytest.mark.parametrize(
    "offsets",
    [(5, 900, -7, 33, 100000), (0, 20, 10, 30, 64), (0, 10, 20, 30, 65), (-1, 0, 1, 2, 3), (7,) * 4 + (2**31 - 1,)],
    ids=str,
)
def test_a_builder_may_time_an_attention_on_anything(emulated_plugins: pathlib.Path, offsets: tuple[int, ...]) -> None:
    """The emulated device faults at an access outside of a tensor."""
    attributes, inputs = _attention(np.array(offsets, np.int32))
    drive("RaggedAttention", attributes, inputs, 1, library=emulated_plugins, building=True)


@pytest.mark.tensorrt
@pytest.mark.parametrize("op", CASES)
@pytest.mark.parametrize("bounds", [(-100, 100_000), (-(2**31), 2**31 - 1)], ids=["near", "far"])
def test_a_builder_may_time_every_plugin_on_anything(
    emulated_plugins: pathlib.Path, op: str, bounds: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    for case in CASES[op]:
        if case.group is Group.PERFORMANCE:
            continue
        inputs = case.inputs(np.dtype(np.float32))
        node = plugin_node(op, case, inputs)
        fed = [inputs[_definition_name(value, inputs)] for value in node.inputs]
        anything = [rng.integers(*bounds, a.shape).astype(a.dtype) if a.dtype.kind == "i" else a for a in fed]
        drive(node.op_type, plugin_attributes(node), anything, 1, library=emulated_plugins, building=True)


@pytest.mark.tensorrt
@pytest.mark.parametrize("item", [(0, 0, 65, 0), (9, 0, 1, 0), (0, 30, 64, 0), (0, -1, 1, 0), (0, 0, 1, 3)], ids=str)
def test_a_builder_may_time_an_attention_on_any_work_list(
    emulated_plugins: pathlib.Path, item: tuple[int, ...]
) -> None:
    offsets = np.array([0, 20, 40, 50, 64], np.int32)
    attributes, inputs = _attention(offsets)
    size = 4 + 4 * (64 // 64 + 4)
    work_list = np.zeros(size, np.int32)
    work_list[0], work_list[4:8] = 1, item
    place = next(n for n, tensor in enumerate(BY_NAME["RaggedAttention"].inputs) if tensor.name == "work_list")
    attributes |= {"present": int(attributes["present"]) | 1 << place, "features": int(Feature.WORK_LIST)}
    drive("RaggedAttention", attributes, [*inputs, work_list], 1, library=emulated_plugins, building=True)


@pytest.mark.tensorrt
def test_what_a_builder_times_on_real_values_is_computed(emulated_plugins: pathlib.Path) -> None:
    """An engine that is used without having been serialised runs the plugins of its network."""
    for positions in (None, np.arange(64, dtype=np.int32)):
        attributes, inputs = _attention(np.array([0, 20, 20, 63, 64], np.int32), positions=positions)
        names = [tensor.name for tensor in BY_NAME["RaggedAttention"].inputs]
        named = dict(zip(names, inputs, strict=False))
        expected = REFERENCES["RaggedAttention"](named, attributes, compute=np.float64)["output"]
        (found,) = drive("RaggedAttention", attributes, inputs, 1, library=emulated_plugins, building=True)
        assert_close(found, expected, ATTENTION[expected.dtype])
