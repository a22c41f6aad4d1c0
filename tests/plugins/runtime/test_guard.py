"""The ABI guard: a node is refused by name, bit and library version before ONNX Runtime sees it."""

from __future__ import annotations

import dataclasses
import pathlib
import warnings

import onnx
import onnxruntime
import pytest

from helpers.toy_bundles import toy_bundle, toy_draft, toy_model
from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.bundle.model_facts import ModelFacts, OpNode
from raggedrt.plugins.bundle.writer import write_bundle
from raggedrt.plugins.contract.abi import ABI_VERSION, Feature
from raggedrt.plugins.runtime.guard import check_library, feature_names
from raggedrt.plugins.runtime.library import LibraryInfo
from raggedrt.plugins.runtime.ort import ort_session
from raggedrt.plugins.runtime.session import Session

pytestmark = pytest.mark.ort_cpu

INFO = LibraryInfo("0.9", 1, {"PackTokens": Feature(0), "RaggedAttention": Feature.CAUSAL | Feature.LSE}, "", ())
GOOD = OpNode("node_1", "RaggedAttention", 1, int(Feature.CAUSAL), has_body=True)


@pytest.fixture
def library(op_library: pathlib.Path) -> pathlib.Path:
    return op_library


def facts(**changes: object) -> ModelFacts:
    return ModelFacts((dataclasses.replace(GOOD, **changes),), (), {})  # type: ignore[arg-type]


def test_an_op_of_its_own_body_needs_no_library() -> None:
    check_library(facts(op_type="BlockMask"), INFO, "m.onnx")


def test_what_the_library_knows_passes() -> None:
    check_library(facts(), INFO, "m.onnx")
    with pytest.raises(TargetError):
        check_library(facts(features=int(Feature.CAUSAL | Feature.SINK)), INFO, "m.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": 3 | 1 << 16}, r"m.onnx: node 'node_1' \(RaggedAttention\) uses GROUPED_QUERY \(bit 1\), SINK"),
        ({"features": 1 << 40}, "uses bit 40, which the op library 0.9 does not know"),
        ({"abi": 2}, "needs op ABI 2, and the op library 0.9 has 1"),
        ({"abi": 0}, "needs op ABI 0"),
        ({"op_type": "BlockMask", "has_body": False}, "the op library 0.9 has no such op"),
    ],
)
def test_what_it_does_not_know_is_a_matter_of_the_machine(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        check_library(facts(**changes), INFO, "m.onnx")


@pytest.mark.parametrize("changes", [{"abi": None}, {"features": None}, {"features": -1}])
def test_nodes_without_guard_attributes_are_bad_input(changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match="lacks the attributes abi and features"):
        check_library(facts(**changes), INFO, "m.onnx")


def test_feature_names() -> None:
    assert feature_names(0) == ""
    assert feature_names(int(Feature.CAUSAL) | 1 << 50) == "CAUSAL (bit 0), bit 50"


def with_features(name: str, value: int) -> onnx.ModelProto:
    """The toy whose attention node carries another guard attribute."""
    model = toy_model("padded")
    node = next(n for n in model.graph.node if n.op_type == "RaggedAttention")
    next(a for a in node.attribute if a.name == name).i = value
    return model


def test_sessions_check_before_they_load(library: pathlib.Path, tmp_path: pathlib.Path) -> None:
    unknown = with_features("features", 1 << 40)
    with pytest.raises(TargetError, match="uses bit 40"):
        ort_session(unknown)
    with pytest.raises(TargetError, match=f"needs op ABI {ABI_VERSION + 1}"):
        ort_session(with_features("abi", ABI_VERSION + 1), native=True)
    bundle = write_bundle(tmp_path / "out", toy_draft("padded"), {"model.onnx": unknown.SerializeToString()})
    with pytest.raises(TargetError, match="uses bit 40"):
        Session(bundle)
    assert ort_session(unknown, native=False).get_inputs()


def test_the_library_serves_where_there_is_one(library: pathlib.Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ort_session(toy_model("padded")).get_inputs()
        # Without bodies only the library can serve.
        assert ort_session(toy_model("padded", bodies=False), native=True).get_inputs()


def test_one_options_object_serves_many_sessions(library: pathlib.Path) -> None:
    options = onnxruntime.SessionOptions()
    for _ in range(3):
        assert ort_session(toy_model("padded", bodies=False), native=True, session_options=options).get_inputs()


def test_a_library_inside_a_bundle_loads_only_if_trusted(library: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def contents(name: str) -> dict[str, bytes | pathlib.Path]:
        (tmp_path / "no_library.so").write_bytes(b"\x7fELF and nothing that can be loaded")
        source = library if name == "good" else tmp_path / "no_library.so"
        return {"model.onnx": toy_model("padded").SerializeToString(), "lib/libraggedrt_ops.so": source}

    good = write_bundle(tmp_path / "good", toy_draft("padded"), contents("good"))
    assert good.session(trust_bundle=True).native
    evil = write_bundle(tmp_path / "evil", toy_draft("padded"), contents("evil"))
    assert evil.session().native
    with pytest.raises(TargetError, match=str(evil.path)):
        evil.session(trust_bundle=True)


def test_without_a_library(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> pathlib.Path:
        raise TargetError("no op library was found")

    monkeypatch.setattr("raggedrt.plugins.runtime.ort.op_library_path", none)
    with pytest.warns(UserWarning, match="runs on function bodies, which are slow"):
        assert not toy_bundle(tmp_path / "out").session().native
    with pytest.raises(TargetError, match="no op library"):
        ort_session(toy_model("padded"), native=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ort_session(toy_model("padded"), native=False)
