"""TensorRT for RTX through ONNX Runtime: a provider in a package of its own, registered when it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from typing import Any

from raggedrt.errors import TargetError
from raggedrt.plugins.runtime.ort_errors import first_line, import_onnxruntime

PROVIDER = "NvTensorRTRTXExecutionProvider"
MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
PROFILE_ENTRY = "nv_profile_index"
"""Of the options of a run: the number of the optimisation profile."""
OLDEST_RUNTIME = (1, 24)
_LOCK = threading.Lock()


def rtx_devices(where: str) -> list[Any]:
    """The GPUs that the provider finds, once its library is registered with ONNX Runtime.

    Raises:
        TargetError: the package, the driver or a GPU that it supports is missing, or ONNX Runtime is too old.
    """
    runtime = import_onnxruntime()
    version = tuple(int(part) for part in runtime.__version__.split(".")[:2])
    if version < OLDEST_RUNTIME or not hasattr(runtime, "get_ep_devices"):
        raise TargetError(
            f"{where}: ONNX Runtime {runtime.__version__} takes no {PROVIDER}; install onnxruntime>="
            f"{'.'.join(map(str, OLDEST_RUNTIME))}"
        )
    if importlib.util.find_spec(MODULE) is None:
        raise TargetError(
            f"{where}: {PROVIDER} is not installed; pip install 'raggedrt[ort-rtx]' (the package {PACKAGE})"
        )
    with _LOCK:
        if not _devices(runtime):
            _register(runtime, where)
        found = _devices(runtime)
    if not found:
        raise TargetError(
            f"{where}: {PROVIDER} finds no GPU that it supports: an NVIDIA RTX GPU of compute capability 8.6, 8.9 or "
            "12.0 and later, and its driver; providers=['CPUExecutionProvider'] runs the same graph on the CPU"
        )
    return found


def _devices(runtime: Any) -> list[Any]:
    return [device for device in runtime.get_ep_devices() if device.ep_name == PROVIDER]


def _register(runtime: Any, where: str) -> None:
    try:
        library = importlib.import_module(MODULE).get_library_path()
        runtime.register_execution_provider_library(PROVIDER, library)
    except Exception as error:  # of the package and of ONNX Runtime, which has classes of its own
        if "already registered" in str(error).lower():
            return
        raise TargetError(
            f"{where}: the library of {PROVIDER} does not load ({first_line(str(error))}); it needs the NVIDIA "
            "driver (libcuda.so.1, libnvidia-ml.so.1); providers=['CPUExecutionProvider'] runs the graph on the CPU"
        ) from error
