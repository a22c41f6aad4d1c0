"""Calls with element types that numpy itself lacks: ONNX Runtime's numpy interface refuses bfloat16."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx

from raggedrt.plugins.runtime.ort_errors import import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

Array = npt.NDArray[Any]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
BFLOAT16_VALUE = "tensor(bfloat16)"


def run_with_values(
    session: onnxruntime.InferenceSession, output_names: Sequence[str], arrays: dict[str, Array]
) -> list[Array]:
    """`session.run` that also takes and gives `ml_dtypes.bfloat16` arrays; it copies those outputs."""
    value_type = import_onnxruntime().OrtValue
    values = {name: to_value(value_type, array) for name, array in arrays.items()}
    return [_to_array(value) for value in session.run_with_ort_values(list(output_names), values)]


def has_bfloat16(session: onnxruntime.InferenceSession) -> bool:
    """Whether an input or output of the model is bfloat16."""
    return any(tensor.type == BFLOAT16_VALUE for tensor in (*session.get_inputs(), *session.get_outputs()))


def bfloat16_session(runtime: Any) -> type[onnxruntime.InferenceSession]:
    """`InferenceSession` whose `run` also takes and gives `ml_dtypes.bfloat16` arrays."""
    base: type[onnxruntime.InferenceSession] = runtime.InferenceSession

    class InferenceSession(base):  # type: ignore[misc]
        def run(self, output_names: Sequence[str] | None, input_feed: dict[str, Any], run_options: Any = None) -> Any:
            if run_options is not None:
                return super().run(output_names, input_feed, run_options)
            names = output_names or [output.name for output in self.get_outputs()]
            return run_with_values(self, names, input_feed)

    return InferenceSession


def to_value(value_type: Any, array: Array) -> Any:
    """An OrtValue on the CPU that shares the array's memory where that is contiguous."""
    array = np.ascontiguousarray(array)
    if array.dtype == BFLOAT16:
        return value_type.ortvalue_from_numpy_with_onnx_type(array, onnx.TensorProto.BFLOAT16)
    return value_type.ortvalue_from_numpy(array)


def _to_array(value: Any) -> Array:
    if value.data_type() != BFLOAT16_VALUE:
        array: Array = value.numpy()
        return array
    result = np.empty(value.shape(), BFLOAT16)
    if result.size:
        ctypes.memmove(result.ctypes.data, value.data_ptr(), result.nbytes)
    return result
