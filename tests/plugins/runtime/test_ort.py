"""ort_session: every form of model, what it refuses, and the guard that stands before ONNX Runtime."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from helpers.tolerances import Tolerance, assert_close
from helpers.toy_bundles import Array, reference, toy_model
from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.bundle.model_facts import OPS_METADATA, model_facts
from raggedrt.plugins.runtime import model_input
from raggedrt.plugins.runtime.ort import ort_session
from raggedrt.plugins.runtime.ort_errors import first_line

pytestmark = pytest.mark.ort_cpu

IDS = np.array([[3, 4, 5, 1]])
FEEDS = {"input_ids": IDS, "attention_mask": np.array([[1, 1, 1, 0]]), "token_type_ids": np.array([[0, 1, 0, 0]])}


def check(session: onnxruntime.InferenceSession) -> None:
    hidden, pooled = session.run(None, FEEDS)
    want = reference(IDS[0, :3], FEEDS["token_type_ids"][0, :3], np.arange(3))
    assert_close(hidden[0, :3], want[0], Tolerance(1e-5, 1e-5))
    assert_close(pooled[0], want[1], Tolerance(1e-5, 1e-5))


def saved(folder: pathlib.Path) -> pathlib.Path:
    """The toy in `folder`, its weights in a file beside it."""
    folder.mkdir(exist_ok=True)
    model = ir.from_proto(toy_model("padded"))
    ir.save(model, folder / "m.onnx", external_data="m.data", size_threshold_bytes=256)
    return folder / "m.onnx"


def test_a_path_keeps_its_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a")
    check(ort_session(path, native=False))
    monkeypatch.chdir(tmp_path)
    check(ort_session("a/m.onnx", native=False))


def test_links_of_a_download_cache_are_followed(tmp_path: pathlib.Path) -> None:
    saved(tmp_path / "blobs")
    (tmp_path / "m.onnx").symlink_to("blobs/m.onnx")
    (tmp_path / "m.data").symlink_to("blobs/m.data")
    check(ort_session(tmp_path / "m.onnx", native=False))


def test_protos_and_ir_models(tmp_path: pathlib.Path) -> None:
    check(ort_session(toy_model("padded"), native=False))
    check(ort_session(ir.from_proto(toy_model("padded")), native=False))
    path = saved(tmp_path / "a")
    check(ort_session(ir.load(path), native=False))
    proto = onnx.load(path, load_external_data=False)
    check(ort_session(proto, native=False, external_data_dir=tmp_path / "a"))
    with pytest.raises(InputError, match=r"external data \('m.data'\); give its path"):
        ort_session(proto, native=False)


def test_an_ir_model_with_weights_in_several_folders(tmp_path: pathlib.Path) -> None:
    model, other = ir.load(saved(tmp_path / "a")), ir.load(saved(tmp_path / "b"))
    model.graph.initializers["places"].const_value = other.graph.initializers["places"].const_value
    check(ort_session(model, native=False))


def test_models_beyond_a_protobuf_message_pass_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_input, "MAX_PROTO_BYTES", 256)
    check(ort_session(toy_model("padded"), native=False))
    check(ort_session(ir.from_proto(toy_model("padded")), native=False))


def test_the_model_given_is_left_as_it_was() -> None:
    proto, model = toy_model("padded"), ir.from_proto(toy_model("padded"))
    before = proto.SerializeToString(deterministic=True), ir.to_proto(model).SerializeToString(deterministic=True)
    ort_session(proto, native=False)
    ort_session(model, native=False)
    after = proto.SerializeToString(deterministic=True), ir.to_proto(model).SerializeToString(deterministic=True)
    assert after == before


@pytest.mark.parametrize(
    ("data", "message"),
    [(None, "cannot be read"), (b"", "no ONNX model"), (b"junk" * 20, "not an ONNX model"), ("half", "not an ONNX")],
)
def test_files_that_are_no_model(tmp_path: pathlib.Path, data: Any, message: str) -> None:
    whole = toy_model("padded").SerializeToString()
    if data is not None:
        (tmp_path / "m.onnx").write_bytes(whole[: len(whole) // 2] if data == "half" else data)
    with pytest.raises(InputError, match=message):
        ort_session(tmp_path / "m.onnx", native=False)


def test_things_that_are_no_model(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"is a directory; give the ONNX file"):
        ort_session(tmp_path, native=False)
    with pytest.raises(InputError, match="not as int"):
        ort_session(3, native=False)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="holds no graph"):
        ort_session(onnx.ModelProto(), native=False)


def test_invalid_graphs_are_explained_in_one_line() -> None:
    model = toy_model("padded")
    model.graph.node.append(onnx.helper.make_node("Add", ["nowhere", "nowhere"], ["z"], name="stray"))
    with pytest.raises(InputError, match="ONNX Runtime refuses") as caught:
        ort_session(model, native=False)
    assert "\n" not in str(caught.value)
    assert "[ONNXRuntimeError]" not in str(caught.value)


def test_missing_and_foreign_external_data(tmp_path: pathlib.Path) -> None:
    path = saved(tmp_path / "a")
    model = onnx.load(path, load_external_data=False)
    (tmp_path / "a" / "m.data").rename(tmp_path / "m.data")
    with pytest.raises(InputError, match=r"'m.data', which is missing"):
        ort_session(path, native=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../m.data" if entry.key == "location" else entry.value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="outside its folder"):
        ort_session(path, native=False)


def test_options(tmp_path: pathlib.Path) -> None:
    model = toy_model("padded")
    assert ort_session(model, native=False, threads=2).get_session_options().intra_op_num_threads == 2
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for _ in range(2):  # the caller may use one object for many sessions
        session = ort_session(model, native=False, session_options=options)
        assert session.get_session_options().log_severity_level == 3
    with pytest.raises(InputError, match="threads and session_options are both given"):
        ort_session(model, native=False, session_options=options, threads=2)
    with pytest.raises(InputError, match="threads is 0"):
        ort_session(model, native=False, threads=0)
    with pytest.raises(InputError, match="not 'no'"):
        ort_session(model, native="no")  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="no RocketExecutionProvider"):
        ort_session(model, native=False, providers=["RocketExecutionProvider"])
    with pytest.raises(InputError, match="should be the same length"):
        ort_session(model, native=False, provider_options=[{}, {}])


def test_a_node_without_body_needs_the_library() -> None:
    with pytest.raises(InputError, match=r"\(PackingPlan\) has no function body.*doctor --build-ops"):
        ort_session(toy_model("padded", bodies=False), native=False)


def promise(model: onnx.ModelProto, text: str) -> onnx.ModelProto:
    onnx.helper.set_model_props(model, {OPS_METADATA: text})
    return model


def test_inlined_ops_are_noticed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ort_session(promise(toy_model("padded"), '{"RaggedAttention": 1, "PackTokens": 2}'), native=False)
    with pytest.warns(UserWarning, match="promises 6 RaggedAttention nodes and the graph has 1"):
        ort_session(promise(toy_model("padded"), '{"RaggedAttention": 6}'), native=False)


@pytest.mark.parametrize("text", ["", "[]", '{"RaggedAttention": "6"}', "[" * 10_000])
def test_metadata_that_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no JSON object of counts"):
        ort_session(promise(toy_model("padded"), text), native=False)


def test_nodes_in_subgraphs_and_functions_are_found() -> None:
    model = toy_model("padded")
    node = onnx.helper.make_node("RaggedAttention", ["x"], ["y"], "deep", domain="raggedrt", abi=7, features=1)
    branch = onnx.helper.make_graph([node], "branch", [], [])
    outer = onnx.helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch)
    imports = [onnx.helper.make_opsetid("", 20)]
    model.functions.append(onnx.helper.make_function("other", "F", ["x"], ["z"], [outer], imports))
    deep = [n for n in model_facts(model).nodes if n.name == "deep"]
    assert [(n.abi, n.features, n.has_body) for n in deep] == [(7, 1, False)] * 2


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("[ONNXRuntimeError] : 1 : FAIL : Load model failed:bad node", "Load model failed:bad node."),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: "
            "/src/onnxruntime/core/f.cc:123 void onnxruntime::F(int, const char*) const n >= 0 was false.\nmore",
            "Exception during initialization: n >= 0 was false.",
        ),
        ("\n\n  plain\nmore", "plain."),
        ("", "no reason given."),
    ],
)  # fmt: skip
def test_first_line(message: str, line: str) -> None:
    assert first_line(message) == line


def test_feeds_reach_the_plain_session() -> None:
    session = ort_session(toy_model("padded"), native=False)
    assert type(session) is onnxruntime.InferenceSession
    values: list[Array] = session.run(["pooled"], FEEDS)
    assert values[0].shape == (1, 8)


def test_a_plain_session_takes_and_gives_bfloat16() -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BFLOAT16, ["n"]) for name in "xy")
    graph = onnx.helper.make_graph([node], "copy", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    session = ort_session(model, native=False)
    assert isinstance(session, onnxruntime.InferenceSession)
    array = np.array([1.5, -2.0, 0.0], ml_dtypes.bfloat16)
    for names in (None, ["y"]):
        (got,) = session.run(names, {"x": array})
        assert got.dtype == array.dtype
        assert np.array_equal(got, array)
