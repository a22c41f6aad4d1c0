"""Model directories: which files make up the model, whether they are whole, and their digest. No torch needed."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import TYPE_CHECKING, Any

from raggedrt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

CONFIG = "config.json"
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
_CHUNK_BYTES = 1 << 22


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
        InputError: Unreadable, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected a JSON file, but it cannot be read ({error}). Get the file again."
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}. Get the file again.")
    return value


def check_directory(directory: Path) -> None:
    """Checks that a directory looks like a Hugging Face model.

    Raises:
        InputError: Missing, not a directory, empty, or without config.json.
    """
    if not directory.exists():
        raise InputError(f"{directory}: no such file or directory. Give a model directory, a Hub id or an ONNX file.")
    if not directory.is_dir():
        raise InputError(f"{directory}: expected a model directory, found a file of an unknown kind.")
    if not any(directory.iterdir()):
        raise InputError(f"{directory}: the directory is empty; expected {CONFIG} and {SAFETENSORS[0]}.")
    if not (directory / CONFIG).is_file():
        raise InputError(
            f"{directory}: there is no {CONFIG}; expected a Hugging Face or sentence-transformers model directory "
            f"({CONFIG} and {SAFETENSORS[0]}), as `save_pretrained` writes it."
        )


def weight_files(directory: Path, *, allow_pickle: bool) -> list[Path]:
    """Returns the files that hold the weights, checked as far as that is cheap.

    Raises:
        InputError: No weights, only pickled ones without permission, a missing shard, or a damaged file.
    """
    for name in SAFETENSORS + (PICKLED if allow_pickle else ()):
        first = directory / name
        if not first.is_file():
            continue
        files = [first] if not name.endswith(".json") else [first, *_shards(first)]
        for file in files:
            if file.suffix == ".safetensors":
                check_safetensors(file)
        return files
    if any((directory / name).is_file() for name in PICKLED):
        raise InputError(
            f"{directory}: only a pickled checkpoint ({PICKLED[0]}) is here, and unpickling runs code from the file. "
            "Convert it to model.safetensors, or pass --allow-pickle (allow_pickle=True) if you trust where it is from."
        )
    graph = next(iter(sorted(directory.glob("**/*.onnx"))), None)
    hint = f" To use {graph.name}, give that file itself." if graph else ""
    raise InputError(f"{directory}: there are no weights; expected {SAFETENSORS[0]} (or its sharded form).{hint}")


def _shards(index: Path) -> list[Path]:
    """Returns the weight files that an index names."""
    names = set(read_json(index).get("weight_map", {}).values())
    shards = [index.parent / name for name in sorted(names)]
    for shard in shards:
        if shard.name not in names:
            raise InputError(f"{index}: names a weight file outside its own directory ({shard}).")
        if not shard.is_file():
            raise InputError(f"{index}: names the weight file {shard.name}, which is missing. Get the model again.")
    return shards


def check_safetensors(path: Path) -> None:
    """Compares a file's length with what its header promises.

    Raises:
        InputError: Truncated or not a safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER_BYTES, max(size - 8, 0)):
            raise InputError(
                f"{path}: damaged or truncated safetensors file (header of {length} bytes in a file of {size} bytes). "
                "Get the file again."
            )
        try:
            header = json.loads(handle.read(length))
            end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise InputError(f"{path}: damaged safetensors header ({error}). Get the file again.") from error
    if 8 + length + end != size:
        raise InputError(
            f"{path}: damaged or truncated safetensors file: the header promises {8 + length + end} bytes, "
            f"the file has {size}. Get the file again."
        )


def tokenizer_directory(*candidates: Path) -> Path | None:
    """Returns the first directory that holds tokenizer files."""
    for directory in candidates:
        if any((directory / name).is_file() for name in TOKENIZER_FILES if name != "special_tokens_map.json"):
            return directory
    return None


def digest_of(root: Path, files: Iterable[Path]) -> str:
    """Returns the sha256 (hex) over relative names, sizes and contents of `files`, in name order."""
    total = hashlib.sha256()
    for name, file in sorted((file.relative_to(root).as_posix(), file) for file in set(files)):
        total.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb", buffering=0) as handle:
            while chunk := handle.read(_CHUNK_BYTES):
                total.update(chunk)
    return total.hexdigest()


def model_files(root: Path, module: Path, weights: Iterable[Path]) -> list[Path]:
    """Returns every file that decides what the model computes: weights, configurations, tokenizer."""
    small = [path for folder in {root, module} for path in folder.glob("*.json")]
    small += [folder / name for folder in {root, module} for name in TOKENIZER_FILES]
    return [*weights, *(path for path in small if path.is_file())]
