from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from raggedrt.errors import InputError
from raggedrt.models import checkpoint

pytestmark = pytest.mark.none


def write_safetensors(path: Path, count: int = 8) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    content = struct.pack("<Q", len(header)) + header + np.arange(count, dtype=np.float32).tobytes()
    path.write_bytes(content)
    return content


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no such file or directory"),
        (lambda path: path.write_text("x"), "found a file of an unknown kind"),
        (lambda path: path.mkdir(), "the directory is empty"),
        (lambda path: (path.mkdir(), (path / "weights.txt").write_text("x")), "there is no config.json"),
    ],
)
def test_unusable_directory(tmp_path: Path, make, says: str) -> None:
    make(tmp_path / "model")
    with pytest.raises(InputError, match=says):
        checkpoint.check_directory(tmp_path / "model")


def test_whole_file_is_accepted(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors")
    assert checkpoint.weight_files(tmp_path, allow_pickle=False) == [tmp_path / "model.safetensors"]


@pytest.mark.parametrize("cut", [0, 4, 8, 30, -1])
def test_truncated_safetensors(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(write_safetensors(path)[:cut])
    with pytest.raises(InputError, match="damaged or truncated"):
        checkpoint.weight_files(tmp_path, allow_pickle=False)


def test_damaged_safetensors_header(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    content = bytearray(write_safetensors(path))
    content[8] = ord("[")
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="damaged safetensors header"):
        checkpoint.check_safetensors(path)


def test_pickled_weights_need_permission(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="--allow-pickle"):
        checkpoint.weight_files(tmp_path, allow_pickle=False)
    assert checkpoint.weight_files(tmp_path, allow_pickle=True) == [tmp_path / "pytorch_model.bin"]


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no weights"):
        checkpoint.weight_files(tmp_path, allow_pickle=True)


def test_shards(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}))
    write_safetensors(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"b\.safetensors, which is missing"):
        checkpoint.weight_files(tmp_path, allow_pickle=False)
    write_safetensors(tmp_path / "b.safetensors")
    names = [path.name for path in checkpoint.weight_files(tmp_path, allow_pickle=False)]
    assert names == [index.name, "a.safetensors", "b.safetensors"]
    index.write_text(json.dumps({"weight_map": {"w": "../a.safetensors"}}))
    with pytest.raises(InputError, match="outside its own directory"):
        checkpoint.weight_files(tmp_path, allow_pickle=False)


def test_unreadable_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="expected a JSON file"):
        checkpoint.read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="expected a JSON object, found list"):
        checkpoint.read_json(tmp_path / "config.json")


def test_digest_follows_names_and_contents(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"12")
    second.write_bytes(b"3")
    digest = checkpoint.digest_of(tmp_path, [second, first])
    assert digest == checkpoint.digest_of(tmp_path, [first, second, first])
    first.write_bytes(b"1")
    second.write_bytes(b"23")
    assert checkpoint.digest_of(tmp_path, [first, second]) != digest


def test_tokenizer_directory(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    assert checkpoint.tokenizer_directory(tmp_path / "inner", tmp_path) is None
    (tmp_path / "vocab.txt").write_text("a")
    assert checkpoint.tokenizer_directory(tmp_path / "inner", tmp_path) == tmp_path
