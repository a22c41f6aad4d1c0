"""Bundles of target ort-trt: ONNX Runtime's TensorRT provider on the model in plugin form.

What the provider does in silence is checked here: a TensorRT or a plugin library that does not load, a second set of
plugins in one process, shapes outside its profile, nodes that TensorRT did not take, engines that are built again.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from raggedrt.errors import InputError, RaggedRTError, TargetError
from raggedrt.plugins.bundle.manifest import LIBRARY_FOLDER, ContextRecord, ShapeProfile
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.contract.op_definition import ORT_PLUGIN_DOMAIN
from raggedrt.plugins.runtime.cuda_device import CudaDevice, CudaState, cuda_state
from raggedrt.plugins.runtime.engine_cache import EngineCache, engine_cache
from raggedrt.plugins.runtime.ort_errors import import_onnxruntime
from raggedrt.plugins.tensorrt.engine_plugins import check_creators, require_pack, used_creators
from raggedrt.plugins.tensorrt.libraries import PluginLibrary, find_plugins, load_tensorrt, provider_major, register
from raggedrt.plugins.tensorrt.profiles import envelope
from raggedrt.plugins.tensorrt.provider_options import check_profiles, register_plugins, tensorrt_options

PROVIDER = "TensorrtExecutionProvider"
TARGET = "ort-trt"
OWN_OPTIONS = frozenset(f"trt_profile_{bound}_shapes" for bound in ("min", "opt", "max"))
"""Those that the bundle decides: a session checks every call against them."""
PLUGIN_PATHS = "trt_extra_plugin_lib_paths"
RECORD_KEY = "session.record_ep_graph_assignment_info"


@dataclasses.dataclass(frozen=True)
class TensorrtPlan:
    """What a session of the provider is made of.

    Attributes:
        model: the ONNX file to load: the model in plugin form, or what was compiled from it.
        options: of the provider.
        profile: what shapes it serves.
        cache: where engines are kept; None where one comes with the bundle.
    """

    model: pathlib.Path
    options: dict[str, str]
    profile: ShapeProfile
    cache: EngineCache | None


def wants_tensorrt(bundle: Bundle, providers: Sequence[str]) -> bool:
    """Whether a session of a bundle with these providers runs the plugin form."""
    return bundle.manifest.target == TARGET and bool(providers) and providers[0] == PROVIDER


def lacking(*, major: int | None, state: CudaState) -> list[str]:
    """What this machine lacks to run such bundles, each with what to do; plugins are another matter."""
    found = []
    if PROVIDER not in import_onnxruntime().get_available_providers() or major is None:
        found.append(
            f"this ONNX Runtime has no {PROVIDER} (pip uninstall onnxruntime, pip install 'raggedrt[ort-trt]')"
        )
    else:
        try:
            load_tensorrt(major)
        except TargetError as error:
            found.append(str(error))
    if state.problem is not None:
        found.append(state.problem)
    return found


def require_tensorrt(where: str) -> tuple[int, CudaState]:
    """The major version of TensorRT that serves the provider here, and the GPUs; `where` names the bundle.

    Raises:
        TargetError: the provider, TensorRT or a GPU is missing; all that is are named.
    """
    major, state = provider_major(), cuda_state()
    if missing := lacking(major=major, state=state):
        raise TargetError(
            f"{where} (target {TARGET}) cannot run here: {'; '.join(missing)}. In Python "
            "providers=['CPUExecutionProvider'] runs the same graph on the CPU."
        )
    assert major is not None
    return major, state


@dataclasses.dataclass(frozen=True)
class ReadyProvider:
    """The provider with everything loaded that it needs: TensorRT's version, our plugins, the GPU."""

    version: str
    plugins: PluginLibrary
    device: CudaDevice
    devices: tuple[CudaDevice, ...]


def ready_provider(where: str, ordinal: int = 0, *folders: pathlib.Path) -> ReadyProvider:
    """Load TensorRT and register our plugins, from these folders or where they usually are.

    Raises:
        TargetError: something is missing here, which the message names.
        InputError: there is no GPU of that number.
    """
    major, state = require_tensorrt(where)
    if not 0 <= ordinal < len(state.devices):
        raise InputError(f"{where}: device_id {ordinal}, and the GPUs here are 0 to {len(state.devices) - 1}.")
    version = load_tensorrt(major)
    plugins = find_plugins(major, *folders)
    register_plugins([plugins.registrar], where)
    register(plugins, where)
    return ReadyProvider(version, plugins, state.devices[ordinal], state.devices)


def check_plugins(ready: ReadyProvider, graph: pathlib.Path, where: str) -> None:
    """Check that the plugins have everything that a graph in plugin form calls, and kernels for the GPU.

    Raises:
        TargetError: a plugin, a feature of one or a kernel pack is missing.
        InputError: a kernel pack was damaged.
    """
    check_creators(ready.plugins, used_creators(graph), where)
    require_pack(ready.device.capability, [ready.plugins.library.parent])


def tensorrt_plan(bundle: Bundle, given: Mapping[str, Any], *, trusted: bool) -> TensorrtPlan:
    """Check everything that can be checked before ONNX Runtime is asked.

    Args:
        bundle: of target ort-trt.
        given: the caller's options for the provider; they win, but profiles are the bundle's.
        trusted: whether its libraries and compiled engines may be loaded.

    Raises:
        TargetError: something is missing here, or an engine was compiled for another TensorRT or GPU.
        InputError: an option or the bundle is unusable.
    """
    where = str(bundle.path)
    manifest = bundle.manifest
    check_options(given, where)
    if manifest.plugin_model is None or not manifest.profiles:
        raise InputError(
            f"{where} has no model in plugin form or no profile for it; convert it again with --target ort-trt."
        )
    profile = envelope(manifest.profiles)
    check_profiles([profile], [record.tensor_role for record in manifest.inputs], where)
    folders = [bundle.path / LIBRARY_FOLDER] if trusted else []
    ready = ready_provider(where, int(given.get("device_id", 0)), *folders)
    check_plugins(ready, bundle.path / manifest.plugin_model, where)
    context = manifest.ep_context if trusted else None
    if context is not None:
        require_context(context, where, version=ready.version, capability=ready.device.capability)
    graph = manifest.plugin_model if context is None else context.file
    cache = _cache(bundle, graph, ready, given) if context is None else None
    options = tensorrt_options(
        [profile], plugin_libraries=[ready.plugins.registrar], cache=None if cache is None else cache.folder
    )
    return TensorrtPlan(bundle.path / graph, _merged(options, given), profile, cache)


def check_options(given: Mapping[str, Any], where: str) -> None:
    """Refuse options that the bundle decides.

    Raises:
        InputError: one is given.
    """
    if own := sorted(OWN_OPTIONS & given.keys()):
        raise InputError(
            f"{where}: the option {own[0]} of {PROVIDER} is the bundle's, whose profile every call is checked against; "
            "convert the model again with --min-shapes and --max-shapes, --profiles or --lengths."
        )


def require_context(context: ContextRecord, where: str, *, version: str, capability: int) -> None:
    """Check that a compiled model runs with this TensorRT on a GPU of this compute capability.

    Raises:
        TargetError: it was compiled for another.
    """
    remedy = "build it again on this machine, or leave trust_bundle out to have an engine built from the model."
    if context.sdk_version != version:
        raise TargetError(
            f"{where}: {context.file} was compiled with TensorRT {context.sdk_version}, and {version} is loaded here; "
            f"engines run with the version that built them: {remedy}"
        )
    if context.compute_capability != capability:
        raise TargetError(
            f"{where}: {context.file} was compiled for compute capability {context.compute_capability}, and the GPU "
            f"here has {capability}; {remedy}"
        )


def _cache(bundle: Bundle, graph: str, ready: ReadyProvider, given: Mapping[str, Any]) -> EngineCache:
    plugins = ready.plugins
    facts = {
        "tensorrt": ready.version,
        "onnxruntime": import_onnxruntime().__version__,
        "plugins": f"{plugins.version} {plugins.abi} {plugins.tensorrt}",
        "devices": ", ".join(device.name for device in ready.devices),
        **{f"option {name}": str(value) for name, value in given.items()},
    }
    return engine_cache(bundle, graph, facts)


def _merged(options: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, str]:
    """The caller's options win; further plugin libraries come beside ours."""
    merged = {**options, **{name: str(value) for name, value in given.items()}}
    libraries = [text for text in (options.get(PLUGIN_PATHS), given.get(PLUGIN_PATHS)) if text]
    return {**merged, PLUGIN_PATHS: ";".join(map(str, libraries))}


def explained(error: InputError, where: str) -> RaggedRTError:
    """The error of a session that ONNX Runtime did not make, in other words where it is about our plugins."""
    if "is not a registered function/op" in str(error):
        return TargetError(
            f"{where}: ONNX Runtime does not know the plugins though TensorRT does; it asks once per process, when the "
            f"first session of {PROVIDER} is made, so open this session before others, or in another process ({error})"
        )
    if "find an implementation" in str(error) or ORT_PLUGIN_DOMAIN in str(error):
        return TargetError(
            f"{where}: TensorRT did not take a node that only its plugins compute ({error}); set "
            "ORT_TENSORRT_VERBOSE_ENABLE=1 to see why"
        )
    return error


def require_assignment(session: Any, where: str) -> None:
    """Check that TensorRT took every node in plugin form: no other provider computes one.

    Raises:
        TargetError: another provider was given such a node.
    """
    try:
        parts = session.get_provider_graph_assignment_info()
    except AttributeError:
        return  # an older ONNX Runtime, which refuses such a model itself, but in other words
    for part in parts:
        strays = [node.name for node in part.get_nodes() if node.domain == ORT_PLUGIN_DOMAIN]
        if part.ep_name != PROVIDER and strays:
            raise TargetError(
                f"{where}: TensorRT did not take the node {strays[0]!r} and {len(strays) - 1} others, which only its "
                f"plugins compute ({part.ep_name} was given them); set ORT_TENSORRT_VERBOSE_ENABLE=1 to see why."
            )
