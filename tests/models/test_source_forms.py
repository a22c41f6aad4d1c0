from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from raggedrt.errors import InputError
from raggedrt.models import hub
from raggedrt.models.code_sources import call_factory, is_factory
from raggedrt.models.onnx_file import onnx_digest
from raggedrt.models.resolve import resolve
from raggedrt.models.sentence_transformers import pooling_modes, read_modules

pytestmark = pytest.mark.none


def small_model() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.arange(400, dtype=np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [400])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [400])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize(
    ("source", "expected"),
    [("org/name", True), ("org/name-v2.1", True), ("name", False), ("./a/b", False), ("/a/b", False), ("a/b/c", False)],
)
def test_hub_id_form(source: str, expected: bool) -> None:
    assert hub.is_hub_id(source) is expected


def test_an_existing_path_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not hub.is_hub_id("org/name")


@pytest.mark.parametrize(
    ("source", "expected"), [("a.b:c", True), ("a:c.d", True), ("a.b", False), ("a/b:c", False), ("C:\\x", False)]
)
def test_factory_form(source: str, expected: bool) -> None:
    assert is_factory(source) is expected


def test_factory_is_found_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_factories_for_a_test.py").write_text(
        "def make():\n    return 7\n\ndef broken():\n    return 1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    assert call_factory("own_factories_for_a_test:make") == 7
    with pytest.raises(InputError, match="the factory failed: ZeroDivisionError"):
        call_factory("own_factories_for_a_test:broken")
    with pytest.raises(InputError, match="can be imported from here"):
        call_factory("own_factories_for_a_test:missing")
    with pytest.raises(InputError, match="can be imported from here"):
        call_factory("no_such_module_anywhere:make")


def test_onnx_source(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(small_model(), str(path))
    resolved = resolve(path)
    assert (resolved.kind, resolved.model, resolved.path) == ("onnx", None, path)
    assert resolved.digest == onnx_digest(path)
    with pytest.raises(InputError, match="dtype is fixed"):
        resolve(path, dtype="fp16")


@pytest.mark.parametrize(
    ("content", "says"), [(None, "no such file"), (b"\xff\xfe garbage", "cannot be read"), (b"", "without")]
)
def test_bad_onnx_source(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        resolve(path)


def test_external_data_counts_and_stays_inside(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(small_model(), str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    before = onnx_digest(path)
    (tmp_path / "m.data").write_bytes(bytes(1600))
    assert onnx_digest(path) != before
    (tmp_path / "m.data").unlink()
    with pytest.raises(InputError, match=r"'m\.data' is missing"):
        onnx_digest(path)
    model = onnx.load(str(path), load_external_data=False)
    for location in ("../m.data", "/etc/hostname"):
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "location":
                entry.value = location
        path.write_bytes(model.SerializeToString())
        with pytest.raises(InputError, match="outside the model's folder"):
            onnx_digest(path)


def test_external_data_through_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "inside" / "m.onnx"
    path.parent.mkdir()
    onnx.save(small_model(), str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    (path.parent / "m.data").rename(tmp_path / "elsewhere")
    (path.parent / "m.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="outside the model's folder"):
        onnx_digest(path)


def test_wrong_words() -> None:
    with pytest.raises(InputError, match="no such file or directory"):
        resolve("nothing-of-this-name")
    with pytest.raises(InputError, match="Unknown dtype 'int8'"):
        resolve("x", dtype="int8")
    with pytest.raises(InputError, match="--revision applies to Hub ids"):
        resolve("nothing-of-this-name", revision="main")


def test_pickled_program_needs_permission(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"x")
    with pytest.raises(InputError, match="--allow-pickle"):
        resolve(tmp_path / "m.pt2")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "expected a list of modules"),
        ('[{"path": ""}]', "expected a list of modules"),
        ("[]", "found nothing"),
        ('[{"type": "a.CLIPModel", "path": ""}]', "found CLIPModel"),
        ('[{"type": "a.Transformer", "path": "../x"}]', "outside the model directory"),
    ],
)
def test_bad_modules_json(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(InputError, match=says):
        read_modules(tmp_path)


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ("mean",)),
        ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, ("cls", "max")),
        ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
        ({"pooling_mode": ["mean", "max"]}, ("mean", "max")),
        ({}, ("mean",)),
    ],
)
def test_pooling_modes(config: dict[str, object], modes: tuple[str, ...]) -> None:
    assert pooling_modes(config) == modes
