"""The plugins of an engine: what its graph calls, which library has them, and loading that before the engine."""

from __future__ import annotations

import importlib
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from raggedrt.errors import TargetError
from raggedrt.plugins.bundle.manifest import EngineRecord, PluginRecord
from raggedrt.plugins.bundle.model_facts import load_proto, plugin_nodes
from raggedrt.plugins.contract.abi import ABI_VERSION
from raggedrt.plugins.kernel_packs.lookup import FOLDERS_VARIABLE, find_pack, serving
from raggedrt.plugins.kernel_packs.pack_file import pack_name
from raggedrt.plugins.native.plugin_library import (
    find_tensorrt_headers,
    plugin_library_path,
    tensorrt_version,
)
from raggedrt.plugins.native.plugin_registrar import REGISTRAR_NAME, build_registrar
from raggedrt.plugins.tensorrt.flavour import FLAVOURS, version_numbers
from raggedrt.plugins.tensorrt.libraries import PluginLibrary, find_plugins

_LOCK = threading.Lock()
_loaded: list[pathlib.Path] = []
"""The library that TensorRT's registry of this process has, once there is one: it takes no second one."""


def used_creators(graph: pathlib.Path) -> dict[str, int]:
    """Feature bits that a graph in plugin form needs, by plugin; empty where it has no node of ours."""
    used: dict[str, int] = {}
    for node in plugin_nodes(load_proto(graph)):
        features = next(attribute.i for attribute in node.attribute if attribute.name == "features")
        used[node.op_type] = used.get(node.op_type, 0) | features
    return used


def plugins_for(version: str, folders: Sequence[pathlib.Path] = (), *, build: bool = False) -> PluginLibrary:
    """The plugins for an installed version of TensorRT.

    Args:
        version: of TensorRT, such as `10.16.1.11`.
        folders: to look into first.
        build: build them where they are missing and TensorRT's headers are here.

    Raises:
        TargetError: there are none of this ABI, or they cannot be built.
    """
    major = version_numbers(version)[0]
    if _has_headers(major):
        own = plugin_library_path()
        if build and not own.with_name(REGISTRAR_NAME).is_file():
            build_registrar()
        folders = [*folders, own.parent]  # of these very sources; the cache may hold others, too
    return find_plugins(major, *folders)


def require_plugins(version: str, capability: int) -> None:
    """Check, before any work, that plugins are here or can be built, and kernels for a GPU are.

    Raises:
        TargetError: there are none.
        InputError: a kernel pack was damaged.
    """
    folders = [] if _has_headers(version_numbers(version)[0]) else [plugins_for(version).library.parent]
    require_pack(capability, folders)


def _has_headers(major: int) -> bool:
    headers = find_tensorrt_headers()
    return headers is not None and tensorrt_version(headers)[0] == major


def check_creators(found: PluginLibrary, used: Mapping[str, int], where: str) -> None:
    """Check, before anything is built, that a library has every plugin that a graph calls.

    Raises:
        TargetError: it lacks some, or features of them; all are listed.
    """
    lacking = [name for name in used if name not in found.creators]
    lacking += [
        f"{name} (feature bits {bits & ~found.creators[name]:#x})"
        for name, bits in used.items()
        if name in found.creators and bits & ~found.creators[name]
    ]
    if lacking:
        raise TargetError(
            f"{where} calls {', '.join(lacking)}, which {found.library} (version {found.version}) does not have; build "
            "the library again with raggedrt doctor --build-plugins"
        )


def record_of(found: PluginLibrary, used: Mapping[str, int], *, serialized: bool) -> PluginRecord:
    """What a manifest says of the plugins in an engine."""
    return PluginRecord(version=found.version, abi=found.abi, creators=tuple(sorted(used)), serialized=serialized)


def require_pack(capability: int, folders: Sequence[pathlib.Path]) -> None:
    """Check that the plugins will find kernels for a GPU; without this the engine would fail at its first call.

    Raises:
        TargetError: there is no kernel pack for it.
        InputError: the one that is there was damaged.
    """
    names = [pack_name(candidate) for candidate in serving(capability)]
    if not any((folder / name).is_file() for folder in folders for name in names):
        find_pack(capability)


def load_engine_plugins(engine: EngineRecord, folders: Sequence[pathlib.Path], capability: int, where: str) -> None:
    """Let TensorRT know the plugins of an engine before it is deserialised.

    Args:
        engine: what the manifest says of it.
        folders: with libraries that come with the engine, which the caller trusts.
        capability: of the GPU that will run it.
        where: the engine, for messages.

    Raises:
        TargetError: there is no such library, it is of another ABI, or this process has another one already.
        InputError: a kernel pack was damaged.
    """
    if engine.plugins is None:
        return
    if engine.plugins.abi != ABI_VERSION:
        raise TargetError(
            f"{where} calls plugins of ABI {engine.plugins.abi} (version {engine.plugins.version}), and this RaggedRT "
            f"has ABI {ABI_VERSION}; build the engine again, or install the version that built it"
        )
    require_pack(capability, folders)
    if engine.plugins.serialized:
        _search_packs_in(folders)  # the library is unpacked by TensorRT, and has nothing beside it
        return
    found = plugins_for(engine.builder_version, folders)
    check_creators(found, dict.fromkeys(engine.plugins.creators, 0), where)
    _load(found.library, FLAVOURS[engine.target].module, where)


def _load(library: pathlib.Path, module: str, where: str) -> None:
    trt: Any = importlib.import_module(module)
    with _LOCK:
        if library in _loaded:
            return
        if _loaded:
            raise TargetError(
                f"{where} needs the plugins of {library}, and this process has loaded {_loaded[0]}; TensorRT knows a "
                "plugin once per process, so use another process"
            )
        if trt.get_plugin_registry().load_library(os.fspath(library)) is None:
            raise TargetError(
                f"{where}: TensorRT does not take the plugins of {library}; they are registered in this process "
                "already, by another library, or were built for another version: raggedrt doctor --build-plugins"
            )
        _loaded.append(library)


def _search_packs_in(folders: Sequence[pathlib.Path]) -> None:
    named = [name for name in os.environ.get(FOLDERS_VARIABLE, "").split(":") if name]
    named += [text for text in map(os.fspath, folders) if text not in named]
    if named:
        os.environ[FOLDERS_VARIABLE] = ":".join(named)


def check_engine_demand(graph: pathlib.Path, version: str, capability: int, where: str) -> PluginLibrary | None:
    """The plugins for a graph in plugin form, checked before an engine is built; None where it calls none.

    Raises:
        TargetError: the library, a plugin in it or a kernel pack is missing.
        InputError: a kernel pack was damaged.
    """
    used = used_creators(graph)
    if not used:
        return None
    found = plugins_for(version, build=True)
    if found.abi != ABI_VERSION:
        raise TargetError(f"{found.library} has plugins of ABI {found.abi}, and {where} needs ABI {ABI_VERSION}")
    check_creators(found, used, where)
    require_pack(capability, (found.library.parent,))
    return found
