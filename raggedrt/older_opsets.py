"""Graphs of opsets that function bodies do not exist for are raised to the oldest one that they exist for."""

from __future__ import annotations

import onnx
from onnx import version_converter

from raggedrt.errors import InputError
from raggedrt.plugins.body_builder import MIN_OPSET
from raggedrt.progress import step

OLDEST = 7
"""ONNX's converter raises opsets from here."""


def with_known_opset(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """The model, raised to opset 17 where it is older and has its weights in the file; `proto` is left as it is.

    Raises:
        InputError: it cannot be raised.
    """
    opset = next((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), None)
    if opset is None or not OLDEST <= opset < MIN_OPSET:
        return proto
    outside = any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in proto.graph.initializer)
    if outside or proto.functions:
        raise InputError(
            f"{where} has opset {opset} and {'weights in another file' if outside else 'functions of its own'}; opset "
            f"{MIN_OPSET} or later is needed. Export it again, or convert it with onnx.version_converter."
        )
    step("raising opset %d to %d", opset, MIN_OPSET)
    try:
        return version_converter.convert_version(proto, MIN_OPSET)
    except MemoryError:
        raise
    except Exception as error:  # a C++ library with many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(
            f"{where} has opset {opset}, and onnx.version_converter cannot raise it to {MIN_OPSET} ({reason}); export "
            "it again with a later opset."
        ) from error
