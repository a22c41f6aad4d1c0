"""What `inspect` says of engines: alone and in a bundle."""

from __future__ import annotations

import collections
import json
import pathlib
from typing import Any

from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.bundle.manifest import EngineRecord
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.tensorrt.engine_file import ENGINE_SUFFIXES, read_engine_file, require_runnable

MAX_LAYERS_BYTES = 2**28


def is_engine(path: pathlib.Path) -> bool:
    """Whether a path names an engine, as far as its name tells."""
    return path.suffix.lower() in ENGINE_SUFFIXES


def engine_file_facts(path: pathlib.Path) -> dict[str, Any]:
    """Facts about an engine and the files beside it.

    Raises:
        InputError: no engine, or the file that describes it is missing or does not belong to it.
    """
    found = read_engine_file(path)
    content = found.model_dump(mode="json")
    return {
        "path": path.name,
        "inputs": content["inputs"],
        "outputs": content["outputs"],
        "engines": [_facts(found.engine, path.parent, str(path))],
    }


def bundle_engines(bundle: Bundle) -> list[dict[str, Any]]:
    """Facts about the engines of a bundle."""
    return [_facts(engine, bundle.path, str(bundle.path / engine.file)) for engine in bundle.manifest.engines]


def _facts(engine: EngineRecord, folder: pathlib.Path, where: str) -> dict[str, Any]:
    try:
        require_runnable(engine, where)
        reason = None
    except TargetError as error:
        reason = str(error)
    layers = None if engine.layers is None else layer_facts(folder / engine.layers)
    return {**engine.model_dump(mode="json"), "runs_here": reason is None, "why_not": reason, "layer_counts": layers}


def layer_facts(path: pathlib.Path) -> dict[str, int]:
    """How many layers of each type the inspector lists; empty where the file is missing.

    Raises:
        InputError: the file is not what the inspector writes.
    """
    try:
        if path.stat().st_size > MAX_LAYERS_BYTES:
            raise InputError(f"{path}: has more than {MAX_LAYERS_BYTES} bytes, so it lists no layers")
        layers = json.loads(path.read_bytes())["Layers"]
        kinds = [layer["LayerType"] if isinstance(layer, dict) else "unnamed" for layer in layers]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: is no list of layers as the engine inspector writes it; build again") from None
    return dict(collections.Counter(kinds).most_common())
