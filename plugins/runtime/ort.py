"""ONNX Runtime sessions with the op library registered and every node checked against it first."""

from __future__ import annotations

import os
import pathlib
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.runtime.guard import check_bodies, check_library, warn_if_inlined
from raggedrt.plugins.runtime.library import library_info, op_library_path
from raggedrt.plugins.runtime.model_input import AnyModel, ModelInput, model_input
from raggedrt.plugins.runtime.ort_errors import LOAD_ERRORS, import_onnxruntime, translated
from raggedrt.plugins.runtime.ort_values import bfloat16_session, has_bfloat16

if TYPE_CHECKING:
    import onnxruntime

Native = Literal["auto"] | bool
Providers = Sequence[str | tuple[str, Mapping[str, Any]]]

CUDA_PROVIDER = "CUDAExecutionProvider"
DEFAULT_PROVIDERS: Providers = ("CPUExecutionProvider",)
PROVIDER_EXTRAS = {
    "CPUExecutionProvider": "cpu",
    CUDA_PROVIDER: "cuda",
    "TensorrtExecutionProvider": "ort-trt",
}
"""What to install for an execution provider that is missing."""
EXTERNAL_FOLDER_KEY = "session.model_external_initializers_file_folder_path"

_registered: weakref.WeakKeyDictionary[Any, set[pathlib.Path]] = weakref.WeakKeyDictionary()
"""Libraries by the caller's SessionOptions: registering twice on one object fails when a session is made."""


def ort_session(
    model_or_path: AnyModel,
    native: Native = "auto",
    *,
    providers: Providers | None = None,
    provider_options: Sequence[Mapping[str, Any]] | None = None,
    session_options: onnxruntime.SessionOptions | None = None,
    threads: int | None = None,
    external_data_dir: str | os.PathLike[str] | None = None,
) -> onnxruntime.InferenceSession:
    """A plain `onnxruntime.InferenceSession` that serves raggedrt ops.

    Args:
        model_or_path: path of an ONNX file, an `onnx.ModelProto` or an `onnx_ir.Model`.
        native: `"auto"` uses the op library where there is one and warns where function bodies serve instead; True
            insists on the library; False uses bodies alone.
        providers: ONNX Runtime execution providers; the CPU alone by default.
        provider_options: one mapping per provider.
        session_options: used as given; the op library is registered on it.
        threads: threads of one operator; not together with `session_options`.
        external_data_dir: folder of a ModelProto's external data.

    Raises:
        InputError: no valid ONNX model, or external data missing or outside its folder.
        TargetError: no op library with `native=True`, a node that the library does not know, a provider that is not
            installed.
    """
    library = find_library(native)
    with model_input(model_or_path, external_data_dir) as model:
        return create_session(
            model,
            library,
            warn_bodies=native == "auto",
            providers=providers,
            provider_options=provider_options,
            session_options=session_options,
            threads=threads,
        )


def find_library(native: Native) -> pathlib.Path | None:
    """The installed op library, None where bodies serve.

    Raises:
        TargetError: there is none and `native` is True.
        InputError: `native` is none of "auto", True, False.
    """
    if native not in ("auto", True, False):
        raise InputError(f"native is 'auto', True or False, not {native!r}.")
    if native is False:
        return None
    try:
        return op_library_path()
    except TargetError:
        if native is True:
            raise
        return None


def create_session(
    model: ModelInput,
    library: pathlib.Path | None,
    *,
    warn_bodies: bool,
    providers: Providers | None,
    provider_options: Sequence[Mapping[str, Any]] | None,
    session_options: onnxruntime.SessionOptions | None,
    threads: int | None,
    attach: Callable[[onnxruntime.SessionOptions], None] | None = None,
    config: Mapping[str, str] | None = None,
) -> onnxruntime.InferenceSession:
    """`ort_session` for a model that was read and a library that was chosen.

    `attach` adds a provider that has no name in ONNX Runtime to the options, `config` has further entries of them.
    """
    runtime = import_onnxruntime()
    providers = DEFAULT_PROVIDERS if providers is None else providers
    check_providers(runtime, providers)
    warn_if_inlined(model.facts, model.name)
    cuda = CUDA_PROVIDER in map(provider_name, providers)
    if cuda and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()  # CUDA and cuDNN as wheels lie where the loader does not look
    if library is not None:
        check_library(model.facts, library_info(library), model.name, cuda=cuda)
    else:
        check_bodies(model.facts, model.name)
        if warn_bodies and model.facts.nodes:
            warnings.warn(
                f"{model.name} runs on function bodies, which are slow: no op library was found. "
                "Build it with `raggedrt doctor --build-ops`.",
                stacklevel=3,
            )
    with translated(f"ONNX Runtime refuses {model.name}", LOAD_ERRORS, "Check the file, or export it again."):
        options = _options(runtime, session_options, threads)
        if model.folder is not None:
            options.add_session_config_entry(EXTERNAL_FOLDER_KEY, os.fspath(model.folder))
        for key, value in (config or {}).items():
            options.add_session_config_entry(key, value)
        if attach is not None:
            attach(options)
        if library is not None and library not in _registered.setdefault(options, set()):
            options.register_custom_ops_library(os.fspath(library))
            _registered[options].add(library)
        # ONNX Runtime's own fallback would hide a wrong provider option behind a session on the CPU.
        arguments: dict[str, Any] = {
            "providers": list(providers) if attach is None else None,
            "provider_options": None if provider_options is None else list(provider_options),
            "enable_fallback": 0,
        }
        session = runtime.InferenceSession(model.source, options, **arguments)
        if has_bfloat16(session):
            session = bfloat16_session(runtime)(model.source, options, **arguments)
    if absent := [name for name in map(provider_name, providers) if name not in session.get_providers()]:
        raise TargetError(
            f"{absent[0]} does not start on this machine: its device or one of its libraries is missing (ONNX Runtime "
            "has logged which). Install it, or choose another provider."
        )
    return session


def check_providers(runtime: Any, providers: Providers) -> None:
    """Check that ONNX Runtime has every provider; by itself it would silently use the CPU.

    Raises:
        TargetError: one is missing.
    """
    if isinstance(providers, str):
        raise InputError(f"providers is a list of names, not the text {providers!r}; give [{providers!r}].")
    available = runtime.get_available_providers()
    for name in map(provider_name, providers):
        if name not in available:
            extra = PROVIDER_EXTRAS.get(name)
            remedy = f"install `raggedrt[{extra}]`" if extra else "check its spelling"
            raise TargetError(
                f"this ONNX Runtime has no {name} (it has {', '.join(available)}); {remedy}, or choose another."
            )


def provider_name(provider: str | tuple[str, Mapping[str, Any]]) -> str:
    """The name of a provider that may come with options."""
    return provider if isinstance(provider, str) else provider[0]


def _options(runtime: Any, session_options: Any, threads: int | None) -> Any:
    if threads is None:
        return runtime.SessionOptions() if session_options is None else session_options
    if session_options is not None:
        raise InputError("threads and session_options are both given; set intra_op_num_threads of the options instead.")
    if not isinstance(threads, int):
        raise InputError(f"threads is a whole number, not {threads!r}.")
    if threads < 1:
        raise InputError(f"threads is {threads}; give 1 or more, or leave it out to use every core.")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    return options
