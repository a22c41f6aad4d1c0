"""ONNX files as a source: readable, whole, and with external data only inside their folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raggedrt.errors import InputError
from raggedrt.models.checkpoint import digest_of

if TYPE_CHECKING:
    import onnx


def onnx_digest(path: Path) -> str:
    """Checks an ONNX file and returns the sha256 (hex) over it and its external data.

    Raises:
        InputError: Missing, unreadable, or external data missing or outside the folder.
    """
    import onnx

    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except MemoryError:
        raise
    except Exception as error:  # protobuf's exception classes differ between its back ends
        raise InputError(
            f"{path}: cannot be read as an ONNX model ({type(error).__name__}). Get the file again."
        ) from error
    if not model.graph.node and not model.graph.output:
        raise InputError(f"{path}: expected an ONNX model, found one without nodes and outputs.")
    return digest_of(path.parent, [path, *_external_files(path, model)])


def _external_files(path: Path, model: onnx.ModelProto) -> set[Path]:
    """Returns the files of external data."""
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    files = set()
    for tensor in _get_all_tensors(model):
        if not uses_external_data(tensor):
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        file = path.parent / location
        inside = location and not Path(location).is_absolute() and ".." not in Path(location).parts
        try:
            within = inside and file.resolve().is_relative_to(path.parent.resolve())
            present = within and file.is_file()
        except (OSError, ValueError):  # too long, or with a NUL
            raise InputError(f"{path}: external data {location[:80]!r} names no file; export it again.") from None
        if not within:
            raise InputError(f"{path}: external data '{location}' lies outside the model's folder, which is refused.")
        if not present:
            raise InputError(f"{path}: the external data file '{location}' is missing; put it beside the model.")
        files.add(file)
    return files
