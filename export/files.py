"""Writing ONNX files: under a temporary name, then renamed; large weights beside the file."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import onnx_ir as ir

EXTERNAL_DATA_BYTES = 1_500_000_000  # protobuf cannot hold 2 GB; nodes and metadata need room too


def weight_bytes(model: ir.Model) -> int:
    """Returns the size of the initializers, in bytes."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def save_model(model: ir.Model, path: Path, *, external_above: int = EXTERNAL_DATA_BYTES) -> Path | None:
    """Writes a model; returns the path of its external data, None when everything is in one file.

    Args:
        model: The model; its tensors are written one by one and never copied as a whole when they go outside.
        path: Where to; `<name>.data` beside it takes the weights.
        external_above: Size of the weights, in bytes, above which they go outside.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data_name = f"{path.name}.data" if weight_bytes(model) > external_above else None
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        ir.save(model, folder / path.name, external_data=data_name)
        if data_name is not None:
            os.replace(folder / data_name, path.parent / data_name)
        os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path.parent / data_name if data_name is not None else None
