"""The forms in which a model may be handed to ONNX Runtime, brought to one: a path, or bytes and a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeGuard

import onnx

from raggedrt.errors import InputError
from raggedrt.plugins.bundle.model_facts import (
    ModelFacts,
    check_external_data,
    load_proto,
    model_facts,
)

MAX_PROTO_BYTES = 2**31 - 2**24
"""Protobuf messages end at 2 GiB; graphs are small, so this leaves room for all but weights."""

if TYPE_CHECKING:
    import onnx_ir as ir

    AnyModel = str | os.PathLike[str] | onnx.ModelProto | ir.Model
else:
    AnyModel = object  # onnx_ir takes longer to import than a small bundle takes to load, which needs none of it


@dataclasses.dataclass(frozen=True)
class ModelInput:
    """A model as ONNX Runtime takes it.

    Attributes:
        source: path of an ONNX file, or the bytes of a ModelProto.
        folder: where the external data of bytes lies.
        facts: what the guard checks.
        name: for messages.
    """

    source: str | bytes
    folder: pathlib.Path | None
    facts: ModelFacts
    name: str


@contextlib.contextmanager
def model_input(model: AnyModel, external_data_dir: str | os.PathLike[str] | None = None) -> Iterator[ModelInput]:
    """Bring `model` into ONNX Runtime's form; what it is stays until the block ends.

    Args:
        model: a path (external data beside it), a ModelProto or an onnx_ir model.
        external_data_dir: folder of a ModelProto's external data; an onnx_ir model knows its own.

    Raises:
        InputError: no valid ONNX model, or external data missing, cut off or outside its folder.
    """
    with contextlib.ExitStack() as stack:
        if _is_ir(model):
            yield _from_ir(model, stack)
        elif isinstance(model, onnx.ModelProto):
            folder = None if external_data_dir is None else pathlib.Path(external_data_dir)
            if model.ByteSize() > MAX_PROTO_BYTES:
                import onnx_ir

                yield _spilled(onnx_ir.from_proto(model), stack)
            else:
                yield _from_proto(model, folder)
        elif isinstance(model, (str, os.PathLike)):
            yield _from_path(pathlib.Path(model))
        else:
            raise InputError(
                f"a model is given as a path, an onnx.ModelProto or an onnx_ir.Model, not as {type(model).__name__}."
            )


def _is_ir(model: AnyModel) -> TypeGuard[ir.Model]:
    """Whether this is an onnx_ir model: who has one has imported onnx_ir."""
    module = sys.modules.get("onnx_ir")
    return module is not None and isinstance(model, module.Model)


def _from_path(path: pathlib.Path) -> ModelInput:
    if path.is_dir():
        raise InputError(f"{path} is a directory; give the ONNX file in it, or open a bundle with raggedrt.Session.")
    facts = model_facts(load_proto(path))
    # Download caches keep files as links, so these are followed outside bundles.
    check_external_data(facts, path.parent, str(path), follow_links=True)
    return ModelInput(os.fspath(path), None, facts, str(path))


def _from_proto(model: onnx.ModelProto, folder: pathlib.Path | None) -> ModelInput:
    name = f"model {model.graph.name!r}" if model.graph.name else "the model"
    if not model.HasField("graph") or not model.opset_import:
        raise InputError(f"{name} holds no graph or no opset import, so it is no ONNX model.")
    facts = model_facts(model)
    if facts.external:
        if folder is None:
            raise InputError(
                f"{name} has external data ({min(facts.external_files)!r}); give its path instead, "
                "or the folder as external_data_dir (after a rewrite: report.external_data_dir)."
            )
        check_external_data(facts, folder, name, follow_links=True)
    return ModelInput(model.SerializeToString(), folder, facts, name)


def _from_ir(model: ir.Model, stack: contextlib.ExitStack) -> ModelInput:
    import onnx_ir as ir

    tensors = [v.const_value for graph in model.graphs() for v in graph.initializers.values() if v.const_value]
    folders = {os.path.abspath(t.base_dir) for t in tensors if isinstance(t, ir.ExternalTensor)}
    inline = sum(t.nbytes for t in tensors if not isinstance(t, ir.ExternalTensor))
    if len(folders) > 1 or inline > MAX_PROTO_BYTES:
        return _spilled(model, stack)
    return _from_proto(ir.to_proto(model), pathlib.Path(folders.pop()) if folders else None)


def _spilled(model: ir.Model, stack: contextlib.ExitStack) -> ModelInput:
    """Through a temporary folder: ONNX Runtime maps the weights, which outlive their names."""
    import onnx_ir as ir

    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raggedrt-")))
    ir.save(model, folder / "model.onnx", external_data="model.onnx.data")
    return _from_path(folder / "model.onnx")
