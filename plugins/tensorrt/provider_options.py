"""ONNX Runtime's TensorRT providers: their options from a manifest, and checks of what they fail at in silence.

The built-in provider loads plugin libraries once per process and only logs a warning where that fails; a session with
other libraries gets those of the first. An input that its profiles do not name, or a shape outside of them, makes it
build another engine, which takes minutes, or fail without naming the shape.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import threading
from collections.abc import Sequence

from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.bundle.manifest import ShapeProfile
from raggedrt.plugins.contract.io_roles import TensorRole

ON = "True"
"""ONNX Runtime's Python binding takes no other word for it; its C API and Triton take this one too."""
BOUNDS = (("min", "minimum"), ("opt", "optimum"), ("max", "maximum"))
_LOCK = threading.Lock()
_registered: list[tuple[str, ...]] = []
"""The plugin libraries of the first session of this process, once there is one."""


def tensorrt_options(
    profiles: Sequence[ShapeProfile],
    *,
    plugin_libraries: Sequence[str | os.PathLike[str]] = (),
    cache: pathlib.Path | None = None,
    context: pathlib.Path | None = None,
) -> dict[str, str]:
    """Options of `TensorrtExecutionProvider`.

    Args:
        profiles: of every dynamic input; the provider runs on the first alone.
        plugin_libraries: libraries with the plugins of the model.
        cache: folder for engines and timings, so that they are made once.
        context: EPContext model to write; its engine lies beside it, not inside, so that nothing hashes it at load. The
            provider wants the place of that engine relative to the model, so `cache` then keeps timings alone.
    """
    options = _shapes(profiles, "trt_profile_{}_shapes")
    if plugin_libraries:
        options["trt_extra_plugin_lib_paths"] = ";".join(str(library) for library in plugin_libraries)
    if cache is not None:
        options |= {"trt_timing_cache_enable": ON, "trt_timing_cache_path": str(cache)}
    if cache is not None and context is None:
        options |= {"trt_engine_cache_enable": ON, "trt_engine_cache_path": str(cache)}
    if context is not None:
        options |= {
            "trt_engine_cache_enable": ON,
            "trt_dump_ep_context_model": ON,
            "trt_ep_context_file_path": str(context),
            "trt_ep_context_embed_mode": "0",
        }
    return options


def tensorrt_rtx_options(profiles: Sequence[ShapeProfile], *, cache: pathlib.Path | None = None) -> dict[str, str]:
    """Options of `NvTensorRTRTXExecutionProvider`, a package of its own; `cache`: folder of compiled kernels."""
    options = _shapes(profiles, "nv_profile_{}_shapes")
    if len(profiles) > 1:
        options["nv_multi_profile_enable"] = "1"
    if cache is not None:
        options["nv_runtime_cache_path"] = str(cache)
    return options


def _shapes(profiles: Sequence[ShapeProfile], key: str) -> dict[str, str]:
    """Several profiles follow one another in the same text."""
    texts = {}
    for short, bound in BOUNDS:
        pairs = [(name, shape) for profile in profiles for name, shape in getattr(profile, bound).items()]
        texts[key.format(short)] = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in pairs)
    return texts if profiles else {}


def check_profiles(profiles: Sequence[ShapeProfile], inputs: Sequence[TensorRole], where: str) -> None:
    """Check that every profile bounds every dynamic input.

    Raises:
        InputError: one does not.
    """
    for number, profile in enumerate(profiles):
        for role in inputs:
            dynamic = any(isinstance(dim, str) for dim in role.shape)
            if dynamic and not all(role.name in getattr(profile, bound) for _, bound in BOUNDS):
                raise InputError(
                    f"{where}: profile {number} has no bounds for the input {role.name!r}, and TensorRT needs them for "
                    "every dynamic input; convert the model again"
                )


def register_plugins(libraries: Sequence[str | os.PathLike[str]], where: str) -> tuple[str, ...]:
    """Check the plugin libraries of a session before ONNX Runtime sees them, and remember them for this process.

    Returns:
        Their absolute paths.

    Raises:
        TargetError: one is missing or cannot be loaded, or this process has a session with others.
    """
    paths = tuple(os.path.abspath(path) for path in libraries)
    for path in paths:
        if not os.path.isfile(path):
            raise TargetError(
                f"{where} needs the TensorRT plugin library {path}, which is missing; build or ship it again"
            )
        try:
            ctypes.CDLL(path, mode=os.RTLD_LAZY | os.RTLD_LOCAL)
        except OSError as error:
            raise TargetError(
                f"{where} needs the TensorRT plugin library {path}, which cannot be loaded here ({error}); ONNX "
                "Runtime would only warn and then fail at the first node that needs it"
            ) from error
    with _LOCK:
        if _registered and _registered[0] != paths:
            wanted, present = (", ".join(names) or "none" for names in (paths, _registered[0]))
            raise TargetError(
                f"{where} needs the plugin libraries {wanted}, and this process already runs a session with {present}; "
                "ONNX Runtime loads them once per process, so use another process"
            )
        if not _registered:
            _registered.append(paths)
    return paths
