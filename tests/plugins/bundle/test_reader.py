"""A bundle that somebody changed, by accident or by intent, is refused before anything in it is used."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import onnx
import pytest

from helpers.toy_bundles import toy_bundle, toy_draft
from raggedrt.errors import InputError
from raggedrt.plugins.bundle import reader
from raggedrt.plugins.bundle.manifest import ShapeProfile
from raggedrt.plugins.bundle.reader import open_bundle

pytestmark = pytest.mark.none


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return toy_bundle(tmp_path_factory.mktemp("pristine") / "out").path


@pytest.fixture
def bundle(pristine: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(pristine, tmp_path / "out"))


def seal(bundle: pathlib.Path, change: Callable[[dict[str, Any]], None] = lambda content: None) -> None:
    """Rewrite the manifest as an attacker would: files hashed anew, then `change`, then a right digest."""
    place = bundle / "manifest.json"
    content = json.loads(place.read_bytes())
    del content["digest"]
    for name in content["files"]:
        data = (bundle / name).read_bytes() if (bundle / name).is_file() else b""
        content["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change(content)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    place.write_text(json.dumps({**content, "digest": hashlib.sha256(canonical.encode()).hexdigest()}))


def listed(bundle: pathlib.Path, name: str) -> Callable[[dict[str, Any]], None]:
    """A change that lists `name` with the content it has, wherever that is."""

    def change(content: dict[str, Any]) -> None:
        data = (bundle / name).read_bytes()
        content["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    return change


def refused(bundle: pathlib.Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_bundle(bundle)
    assert "\n" not in str(caught.value)


def test_a_sound_bundle_opens(bundle: pathlib.Path) -> None:
    opened = open_bundle(bundle)
    assert opened.path == bundle.resolve()
    assert opened.report == {"passes": []}
    assert opened.tokenizer_path == bundle.resolve() / "tokenizer"
    assert opened.libraries == ()
    assert opened.verified
    assert {node.op_type for node in opened.facts.nodes} == {
        "PackingPlan", "PackTokens", "RaggedAttention", "UnpackTokens"
    }  # fmt: skip
    assert opened.facts.external_files == {"model.onnx.data"}


def test_a_resealed_bundle_opens(bundle: pathlib.Path) -> None:
    seal(bundle)
    assert open_bundle(bundle).manifest.target == "ort-cpu"


def test_a_link_to_the_bundle_and_harmless_extras_are_fine(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (bundle / "README.md").write_text("notes")
    (bundle / "notes").mkdir()
    (tmp_path / "link").symlink_to(bundle, target_is_directory=True)
    assert open_bundle(tmp_path / "link").path == bundle.resolve()


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "report.json", "tokenizer/vocabulary.txt"])
def test_a_changed_byte_is_refused(bundle: pathlib.Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    refused(bundle, f"{name} was changed")


def test_every_changed_byte_of_the_manifest_is_refused_or_says_the_same(bundle: pathlib.Path) -> None:
    place = bundle / "manifest.json"
    data = place.read_bytes()
    meaning = json.loads(data)
    caught = 0
    for index in range(0, len(data), 7):
        changed = bytearray(data)
        changed[index] ^= 1
        place.write_bytes(changed)
        try:
            open_bundle(bundle)
        except InputError:
            caught += 1
        else:
            assert json.loads(place.read_bytes()) == meaning
    assert caught > 100


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "report.json"])
def test_cut_off_and_missing_files_are_refused(bundle: pathlib.Path, name: str) -> None:
    with (bundle / name).open("r+b") as handle:
        handle.truncate(10)
    refused(bundle, "has 10 bytes, and the manifest says")
    (bundle / name).unlink()
    refused(bundle, "which is missing")


def test_no_bundle_at_all(tmp_path: pathlib.Path) -> None:
    refused(tmp_path / "nowhere", "is no bundle: expected a directory with manifest.json")
    refused(tmp_path, "is no bundle")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is no bundle")


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "manifest.json", "tokenizer/vocabulary.txt"])
def test_linked_files_are_refused(bundle: pathlib.Path, tmp_path: pathlib.Path, name: str) -> None:
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    refused(bundle, "is a link")


def test_linked_folders_and_unlisted_links_are_refused(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (bundle / "tokenizer").rename(tmp_path / "elsewhere")
    (bundle / "tokenizer").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    refused(bundle, "is a link")
    (bundle / "tokenizer").unlink()
    (tmp_path / "elsewhere").rename(bundle / "tokenizer")
    (bundle / "note.txt").symlink_to("/etc/hostname")
    refused(bundle, "is a link")


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/hostname", "a/../../secret", "./model.onnx", "a//b", "", "a\\b", "C:x", "a\0b"]
)
def test_paths_that_leave_the_bundle_are_refused(bundle: pathlib.Path, path: str) -> None:
    (bundle.parent / "secret").write_text("")
    empty = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    seal(bundle, lambda content: content["files"].update({path: empty}))
    refused(bundle, "is not valid: .*path")


@pytest.mark.parametrize("path", ["../model.onnx", "/model.onnx", "tokenizer/../model.onnx"])
@pytest.mark.parametrize("field", ["model", "tokenizer"])
def test_named_parts_outside_the_bundle_are_refused(bundle: pathlib.Path, field: str, path: str) -> None:
    seal(bundle, lambda content: content.update({field: path}))
    refused(bundle, f"is not valid: {field}: .*path")


def test_a_pipe_in_place_of_a_file_is_refused(bundle: pathlib.Path) -> None:
    (bundle / "report.json").unlink()
    os.mkfifo(bundle / "report.json")
    refused(bundle, "is not a regular file")


@pytest.mark.parametrize("name", ["lib/libraggedrt_ops.so", "lib/x.txt", "extra.so.1.2", "engines/a.plan", "b.PLAN"])
def test_unlisted_code_is_refused(bundle: pathlib.Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_bytes(b"\x7fELF")
    refused(bundle, "is not listed in the bundle's manifest")


def test_an_unlisted_tokenizer_file_is_refused(bundle: pathlib.Path) -> None:
    (bundle / "tokenizer" / "added_tokens.json").write_text("{}")
    refused(bundle, "is not listed in the bundle's manifest")


def test_a_listed_library_is_seen_and_a_forged_one_refused(bundle: pathlib.Path) -> None:
    (bundle / "lib").mkdir()
    (bundle / "lib" / "ops.so").write_bytes(b"\x7fELF")
    (bundle / "lib" / "sm80.cubin").write_bytes(b"kernels")
    seal(bundle, listed(bundle, "lib/ops.so"))
    refused(bundle, "sm80.cubin is not listed")
    seal(bundle, listed(bundle, "lib/sm80.cubin"))
    assert open_bundle(bundle).libraries == (bundle.resolve() / "lib" / "ops.so",)
    (bundle / "lib" / "ops.so").write_bytes(b"\x7fELG")
    refused(bundle, "ops.so was changed")


def edit_external(bundle: pathlib.Path, **entries: str) -> None:
    """Change entries of the external data of the model's first external tensor, and hash the model anew."""
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    for entry in tensor.external_data:
        entry.value = entries.get(entry.key, entry.value)
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    seal(bundle)


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "tokenizer/../../secret", ""])
def test_external_data_outside_is_refused(bundle: pathlib.Path, location: str) -> None:
    (bundle.parent / "secret").write_text("x" * 10_000)
    edit_external(bundle, location=location)
    refused(bundle, "names a file outside its folder")


def test_external_data_that_the_manifest_does_not_list_is_refused(bundle: pathlib.Path) -> None:
    shutil.copy(bundle / "model.onnx.data", bundle / "other.data")
    edit_external(bundle, location="other.data")
    refused(bundle, "reads 'other.data', which the manifest does not list")


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"offset": "999999"}, "cut off"),
        ({"length": "999999"}, "takes 640 bytes and has 999999"),
        ({"offset": "-8"}, "no places in a file"),
        ({"length": "-8"}, "no places in a file"),
    ],
)
def test_external_data_beyond_its_file_is_refused(bundle: pathlib.Path, entries: dict[str, str], reason: str) -> None:
    edit_external(bundle, **entries)
    refused(bundle, reason)


def test_external_data_without_numbers_is_refused(bundle: pathlib.Path) -> None:
    edit_external(bundle, offset="first")
    refused(bundle, "no integer offset")


def test_external_data_in_attributes_and_subgraphs_is_found(bundle: pathlib.Path) -> None:
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    hidden = onnx.TensorProto(name="deep", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value="../secret")
    constant = onnx.helper.make_node("Constant", [], ["c"], value=hidden)
    branch = onnx.helper.make_graph([constant], "branch", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["x"], [], then_branch=branch, else_branch=branch))
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    seal(bundle)
    refused(bundle, "tensor 'deep' .* outside its folder")


@pytest.mark.parametrize("data", [b"", b"junk" * 50, b"\x00" * 100])
def test_a_model_that_is_no_onnx_is_refused(bundle: pathlib.Path, data: bytes) -> None:
    (bundle / "model.onnx").write_bytes(data)
    seal(bundle)
    refused(bundle, "ONNX model")


def test_a_model_nested_too_deep_is_refused(bundle: pathlib.Path) -> None:
    graph = b""
    for _ in range(400):  # graph { node { attribute { g { ... } } } }, which the library would not write
        for field in (6, 5, 1):
            graph = bytes([field << 3 | 2]) + _varint(len(graph)) + graph
    (bundle / "model.onnx").write_bytes(b"\x3a" + _varint(len(graph)) + graph + b"\x42\x02\x10\x14")
    seal(bundle)
    refused(bundle, "not an ONNX model")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


CHANGES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda c: c.update(schema_version=4), "schema version 4, and this RaggedRT reads versions up to 3"),
    (lambda c: c.update(schema_version="1"), "no RaggedRT manifest: schema_version"),
    (lambda c: c.pop("schema_version"), "no RaggedRT manifest: schema_version"),
    (lambda c: c.update(io="jagged"), "is not valid: io"),
    (lambda c: c.update(position_limit="16"), "is not valid: position_limit"),
    (lambda c: c.update(position_limit=0), "is not valid: position_limit"),
    (lambda c: c.update(surprise=1), "is not valid: surprise"),
    (lambda c: c.pop("files"), "is not valid: files"),
    (lambda c: c["files"].pop("model.onnx"), "does not list its model"),
    (lambda c: c["files"]["model.onnx"].update(size=1.5), "is not valid: files"),
    (lambda c: c["files"]["model.onnx"].update(sha256="0" * 63), "is not valid: files"),
    (lambda c: c["inputs"][0].update(role="per_word"), "is not valid: inputs"),
    (lambda c: c["inputs"][0].update(shape=[None]), "is not valid: inputs"),
    (lambda c: c["inputs"][0].update(default=float("nan")), "is not valid|no RaggedRT manifest"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[str(n) for n in range(len(CHANGES))])
def test_wrong_manifests_are_refused(
    bundle: pathlib.Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    seal(bundle, change)
    refused(bundle, message)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"x"', "[" * 100_000, '{"a":' * 100_000, '{"schema_version":1,"x":' + "9" * 5000 + "}"],
)
def test_manifests_that_are_no_json_object_are_refused(bundle: pathlib.Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    refused(bundle, "manifest")


def test_a_huge_manifest_is_refused_unread(bundle: pathlib.Path) -> None:
    with (bundle / "manifest.json").open("r+b") as handle:
        handle.truncate(2**40)  # a sparse file: reading it would exhaust the memory
    refused(bundle, "more than any manifest")


def test_large_weights_are_checked_by_size_unless_verified(
    bundle: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "LARGE_WEIGHTS_BYTES", 16)
    data = bytearray((bundle / "model.onnx.data").read_bytes())
    data[0] ^= 1
    (bundle / "model.onnx.data").write_bytes(data)
    assert not open_bundle(bundle).verified
    with pytest.raises(InputError, match=r"model\.onnx\.data was changed"):
        open_bundle(bundle, verify=True)
    (bundle / "report.json").write_text(json.dumps({"passes": []}).replace(" ", "\n"))
    refused(bundle, "report.json was changed")


def test_a_report_that_is_missing_or_no_object(bundle: pathlib.Path) -> None:
    (bundle / "report.json").write_text("[]")
    seal(bundle)
    with pytest.raises(InputError, match="is no JSON object"):
        _ = open_bundle(bundle).report
    (bundle / "report.json").unlink()
    seal(bundle, lambda content: content["files"].pop("report.json"))
    with pytest.raises(InputError, match="has no report"):
        _ = open_bundle(bundle).report


GROWING = ShapeProfile(minimum={"input_ids": (1, 4)}, optimum={"input_ids": (2, 4)}, maximum={"input_ids": (4, 8)})


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"maximum": {}}, "not of the same inputs"),
        ({"maximum": {"input_ids": (1, 8)}}, "do not grow"),
        ({"minimum": {"input_ids": (1,)}}, "do not grow"),
    ],
)
def test_a_profile_has_bounds_that_grow_for_every_input(bounds: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapeProfile(**{**GROWING.model_dump(), **bounds})


def test_what_is_built_for_tensorrt_has_profiles_for_its_inputs() -> None:
    assert toy_draft("padded", plugin_model="model.trt.onnx", profiles=(GROWING,)).profiles
    with pytest.raises(ValueError, match="there are no profiles"):
        toy_draft("padded", plugin_model="model.trt.onnx")
    with pytest.raises(ValueError, match="gives 'input_ids' 2 axes, and it has 1"):
        toy_draft("ragged", plugin_model="model.trt.onnx", profiles=(GROWING,))
