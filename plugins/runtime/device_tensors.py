"""Tensors of any library through DLPack, on the CPU or a CUDA device, into and out of ONNX Runtime without copies."""

from __future__ import annotations

import ctypes
import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.runtime.cuda_device import LEGACY_STREAM, copy_memory, wait_for_stream
from raggedrt.plugins.runtime.ort_errors import import_onnxruntime

Array = npt.NDArray[Any]
DLPACK_CPU, DLPACK_CUDA, DLPACK_PINNED = 1, 2, 3
NUMPY_NAMES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(bool)": "bool",
}


@dataclasses.dataclass(frozen=True, eq=False)
class DeviceTensor:
    """A tensor in ONNX Runtime's memory, or in another library's: `torch.from_dlpack(tensor)` takes it without a copy.

    Attributes:
        value: the `onnxruntime.OrtValue`.
        dtype: numpy (or ml_dtypes) dtype.
        shape: sizes of its axes.
        device: DLPack device type and ordinal: (1, 0) is the CPU, (2, n) CUDA device n.
        stream: CUDA stream that may still be writing it; None: it has been written.
    """

    value: Any
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    device: tuple[int, int]
    stream: int | None = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def on_cpu(self) -> bool:
        """Whether the host can read its memory."""
        return self.device[0] in (DLPACK_CPU, DLPACK_PINNED)

    def numpy(self) -> Array:
        """Its values as an array: a copy, but on the CPU the same memory where numpy has the dtype."""
        if self.on_cpu and self.dtype.name != "bfloat16":
            array: Array = self.value.numpy()
            return array
        copy = np.empty(self.shape, self.dtype)
        self._wait()
        move(self.device[1] if not self.on_cpu else None, [(copy.ctypes.data, self.value.data_ptr(), copy.nbytes)])
        return copy

    def __len__(self) -> int:
        return self.shape[0]

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
        if stream != self.stream:
            self._wait()
        return self.value._ortvalue.to_dlpack()

    def _wait(self) -> None:
        if self.stream is not None:
            wait_for_stream(self.device[1], self.stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def move(ordinal: int | None, copies: Iterable[tuple[int, int, int]]) -> None:
    """Copy memory, (target address, source address, bytes) each, and wait; `ordinal`: CUDA device that is involved."""
    wanted = [copy for copy in copies if copy[2]]
    if ordinal is not None:
        copy_memory(ordinal, wanted)
        return
    for target, source, count in wanted:
        ctypes.memmove(target, source, count)


def is_tensor(value: Any) -> bool:
    """Whether `value` is a tensor that numpy should not be asked to read: on a device, or of a dtype numpy lacks."""
    if isinstance(value, (np.ndarray, np.generic)) or not hasattr(value, "__dlpack_device__"):
        return False
    return (
        isinstance(value, DeviceTensor) or value.__dlpack_device__()[0] != DLPACK_CPU or "bfloat16" in str(value.dtype)
    )


def take(name: str, value: Any, stream: int | None = None) -> DeviceTensor:
    """`value` as a tensor that shares its memory; what writes it is waited for.

    Args:
        name: input that it is for.
        value: a torch tensor, or anything that has `__dlpack__`.
        stream: CUDA stream that will read it; None: the host waits until it has been written.

    Raises:
        InputError: it is not contiguous, requires a gradient, or has a dtype or device that ONNX Runtime does not take.
        TargetError: this ONNX Runtime takes no DLPack tensors.
    """
    if isinstance(value, DeviceTensor):
        return value
    runtime = import_onnxruntime()
    if not hasattr(runtime.OrtValue, "from_dlpack"):
        raise TargetError(f"ONNX Runtime {runtime.__version__} takes no DLPack tensors; install 1.26 or later.")
    device = tuple(map(int, value.__dlpack_device__()))
    if device[0] not in (DLPACK_CPU, DLPACK_CUDA, DLPACK_PINNED):
        raise InputError(f"input {name!r} is on DLPack device {device}; give it on the CPU or on a CUDA device.")
    if getattr(value, "is_contiguous", lambda: True)() is False:
        raise InputError(f"input {name!r} is not contiguous; give .contiguous().")
    try:
        shared = runtime.OrtValue(
            type(runtime.OrtValue.ortvalue_from_numpy(np.zeros(1))._ortvalue).from_dlpack(
                *_capsule(value, device, stream)
            )
        )
    except (RuntimeError, TypeError, BufferError) as error:
        raise InputError(f"input {name!r} cannot be read as a tensor: {str(error).splitlines()[0]}.") from None
    if device[0] == DLPACK_CUDA and stream is None:
        wait_for_stream(device[1], LEGACY_STREAM)
    return DeviceTensor(shared, value_dtype(shared), tuple(shared.shape()), (device[0], device[1]))


def _capsule(value: Any, device: tuple[int, ...], stream: int | None) -> tuple[Any, bool]:
    """The DLPack capsule, and whether its bytes are booleans: ONNX Runtime reads those as bytes."""
    boolean = str(value.dtype) in ("bool", "torch.bool")
    if boolean and hasattr(value, "view") and str(value.dtype) == "torch.bool":
        import torch

        value = value.view(torch.uint8)
    if device[0] == DLPACK_CUDA:
        return value.__dlpack__(stream=LEGACY_STREAM if stream is None else stream), boolean
    return value.__dlpack__(), boolean


def give(value: Any, ordinal: int = 0, stream: int | None = None) -> DeviceTensor:
    """An output of ONNX Runtime, on device `ordinal` where it is on one; `stream`: what may still be writing it."""
    shape, dtype = tuple(value.shape()), value_dtype(value)
    if str(value.device_name()).lower().partition(":")[0] in ("cuda", "gpu"):
        return DeviceTensor(value, dtype, shape, (DLPACK_CUDA, ordinal), stream)
    return DeviceTensor(value, dtype, shape, (DLPACK_CPU, 0))


def value_dtype(value: Any) -> np.dtype[Any]:
    """The numpy (or ml_dtypes) dtype of an OrtValue."""
    text = value.data_type()
    name = NUMPY_NAMES.get(text) or re.sub(r"tensor\((\w+)\)", r"\1", text)
    return np.dtype(getattr(ml_dtypes, name, name))


def onnx_type(dtype: np.dtype[Any]) -> Any:
    """What `ortvalue_from_shape_and_type` takes for a dtype."""
    import onnx

    return onnx.TensorProto.BFLOAT16 if dtype.name == "bfloat16" else dtype.type
