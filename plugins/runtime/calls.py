"""One call of ONNX Runtime: on arrays, on tensors of a device, or on buffers that stay, as CUDA graphs need them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raggedrt.errors import InputError
from raggedrt.plugins.runtime.device_tensors import Array, DeviceTensor, give, move, onnx_type
from raggedrt.plugins.runtime.ort_errors import RUN_ERRORS, import_onnxruntime, translated
from raggedrt.plugins.runtime.ort_values import run_with_values, to_value
from raggedrt.plugins.runtime.profile_guard import ProfileGuard

Value = Array | DeviceTensor
GRAPH_ID = "gpu_graph_id"
NO_GRAPH = "-1"
KEEP_RUNNING = "disable_synchronize_execution_providers"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where outputs are wanted and how the session runs: `device` is ONNX Runtime's name, `cpu` or `cuda`.

    With a `stream` of the caller's, nothing is waited for.
    """

    device: str = "cpu"
    ordinal: int = 0
    stream: int | None = None


class Caller:
    """Runs a session. Thread-safe.

    Args:
        session: the `InferenceSession`.
        outputs: names of its outputs.
        place: where it runs.
        beyond_numpy: whether an input or output has a dtype that numpy lacks.
        fixed: whether each combination of input shapes has buffers of its own, used again and again.
        guard: asked before and after each call.
    """

    def __init__(
        self,
        session: Any,
        outputs: Sequence[str],
        place: Place,
        *,
        beyond_numpy: bool,
        fixed: bool = False,
        guard: ProfileGuard | None = None,
    ) -> None:
        self._session = session
        self._outputs = list(outputs)
        self._place = place
        self._beyond_numpy = beyond_numpy
        self._fixed = FixedBuffers(session, outputs, place) if fixed else None
        self._guard = guard

    def __call__(self, arrays: Mapping[str, Value], *, on_device: bool = False) -> dict[str, Any]:
        """Outputs by name: arrays, or with `on_device` tensors where the session computes.

        Raises:
            InputError: tensors of a device are given or wanted, and the session is an engine's; or it was not built for
                their shapes.
        """
        entries = {} if self._guard is None else self._guard.admit(arrays)
        outputs = self._outputs_of(arrays, entries, on_device=on_device)
        if self._guard is not None:
            self._guard.done()
        return outputs

    def _outputs_of(
        self, arrays: Mapping[str, Value], entries: Mapping[str, str], *, on_device: bool
    ) -> dict[str, Any]:
        bound = on_device or any(isinstance(value, DeviceTensor) for value in arrays.values())
        if bound and not hasattr(self._session, "io_binding"):
            raise InputError("engines take and give arrays of the host; give arrays, and leave on_device out.")
        with translated("the model failed", RUN_ERRORS, ""):
            if self._fixed is not None:
                tensors = self._fixed.run(arrays, copy=not on_device)
            elif bound:
                tensors = self._bound(arrays, self._place.device if on_device else "cpu", entries)
            else:
                run = self._session.run
                plain = {name: value for name, value in arrays.items() if not isinstance(value, DeviceTensor)}
                values = (
                    run_with_values(self._session, self._outputs, plain)
                    if self._beyond_numpy
                    else run(self._outputs, plain, *([_options(entries)] if entries else []))
                )
                return dict(zip(self._outputs, values, strict=True))
        found = tensors if on_device else [tensor.numpy() for tensor in tensors]
        return dict(zip(self._outputs, found, strict=True))

    def _bound(self, arrays: Mapping[str, Value], device: str, entries: Mapping[str, str]) -> list[DeviceTensor]:
        binding = self._session.io_binding()
        values = {name: _as_value(value) for name, value in arrays.items()}  # held until the run has ended
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name, device, self._place.ordinal if device != "cpu" else 0)
        options = _options(entries)
        if self._place.stream is not None and device != "cpu":
            options.add_run_config_entry(KEEP_RUNNING, "1")
        self._session.run_with_iobinding(binding, options)
        return [give(value, self._place.ordinal, self._place.stream) for value in binding.get_outputs()]


class FixedBuffers:
    """Runs on buffers at fixed addresses, one set per combination of input shapes."""

    def __init__(self, session: Any, outputs: Sequence[str], place: Place) -> None:
        self._session = session
        self._outputs = list(outputs)
        self._place = place
        self._sets: dict[tuple[Any, ...], _Buffers] = {}
        self._lock = threading.Lock()

    def run(self, arrays: Mapping[str, Value], *, copy: bool) -> list[DeviceTensor]:
        """Outputs in their order, in buffers that the next run of the same shapes writes again; `copy`: on the host."""
        key = tuple((name, value.dtype.name, *value.shape) for name, value in sorted(arrays.items()))
        with self._lock:
            if key not in self._sets:
                self._sets[key] = self._make(arrays)
            buffers = self._sets[key]
            self._fill(buffers, arrays)
            self._session.run_with_iobinding(buffers.binding, buffers.options)
            if not copy:
                return [give(value) for value in buffers.outputs]
            return [
                give(to_value(import_onnxruntime().OrtValue, give(value).numpy().copy())) for value in buffers.outputs
            ]

    def _make(self, arrays: Mapping[str, Value]) -> _Buffers:
        """Buffers of these shapes; a first run outside of any graph tells those of the outputs."""
        inputs = {name: self._empty(value.shape, value.dtype) for name, value in arrays.items()}
        buffers = _Buffers(self._session.io_binding(), inputs, [], _options({GRAPH_ID: NO_GRAPH}))
        for name, value in inputs.items():
            buffers.binding.bind_ortvalue_input(name, value)
        self._fill(buffers, arrays)
        for name in self._outputs:
            buffers.binding.bind_output(name, self._place.device, self._place.ordinal)
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        found = [give(value) for value in buffers.binding.get_outputs()]
        buffers.binding.clear_binding_outputs()
        outputs = [self._empty(tensor.shape, tensor.dtype) for tensor in found]
        for name, value in zip(self._outputs, outputs, strict=True):
            buffers.binding.bind_ortvalue_output(name, value)
        return _Buffers(buffers.binding, inputs, outputs, _options({GRAPH_ID: str(len(self._sets) + 1)}))

    def _empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
        value_type = import_onnxruntime().OrtValue
        place = (self._place.device, self._place.ordinal)
        return value_type.ortvalue_from_shape_and_type(list(shape), onnx_type(dtype), *place)

    def _fill(self, buffers: _Buffers, arrays: Mapping[str, Value]) -> None:
        sources = {name: _as_value(value) for name, value in arrays.items()}
        copies = [
            (buffers.inputs[name].data_ptr(), source.data_ptr(), source.tensor_size_in_bytes())
            for name, source in sources.items()
        ]
        move(self._place.ordinal if self._place.device == "cuda" else None, copies)


@dataclasses.dataclass(frozen=True)
class _Buffers:
    binding: Any
    inputs: dict[str, Any]
    outputs: list[Any]
    options: Any


def _options(entries: Mapping[str, str]) -> Any:
    options = import_onnxruntime().RunOptions()
    for key, value in entries.items():
        options.add_run_config_entry(key, value)
    return options


def _as_value(value: Value) -> Any:
    if isinstance(value, DeviceTensor):
        return value.value
    return to_value(import_onnxruntime().OrtValue, value)


def place_of(session: Any, ordinal: int, stream: int | None) -> Place:
    """Where a session runs: its first provider decides."""
    cuda = session.get_providers()[0] in ("CUDAExecutionProvider", "TensorrtExecutionProvider")
    return Place("cuda", ordinal, stream) if cuda else Place()
