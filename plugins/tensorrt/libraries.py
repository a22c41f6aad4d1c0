"""TensorRT and our plugins as libraries of this process, for ONNX Runtime's TensorRT provider.

The provider is linked against one major version of TensorRT and opens plugin libraries without a word of failure. So
TensorRT is loaded first, from wherever it was installed, then the library that registers our plugins with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping

from raggedrt.errors import TargetError
from raggedrt.plugins.contract.abi import ABI_VERSION
from raggedrt.plugins.native.cache import cache_folder
from raggedrt.plugins.native.plugin_library import PLUGIN_LIBRARY_NAME
from raggedrt.plugins.native.plugin_registrar import REGISTRAR_NAME

PROVIDER_TENSORRT = 10
"""The major version that ONNX Runtime's provider is linked against today; where there is a provider, it tells."""
PROVIDER_LIBRARY = "libonnxruntime_providers_tensorrt.so"
PLUGINS_VARIABLE = "RAGGEDRT_TENSORRT_PLUGINS"
"""Folder with the plugin library and the one that registers it."""
WHEEL_MODULES = ("tensorrt_libs", "tensorrt")
"""Python packages in whose folders TensorRT's own wheels put its libraries."""
LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
_LINKED = re.compile(rb"libnvinfer\.so\.(\d+)")


@dataclasses.dataclass(frozen=True)
class PluginLibrary:
    """Our plugins as they describe themselves.

    Attributes:
        library: its place.
        version, abi: of the toolchain that it was built from.
        tensorrt: version of the headers that it was built with.
        creators: feature bits that it serves, by plugin.
    """

    library: pathlib.Path
    version: str
    abi: int
    tensorrt: str
    creators: Mapping[str, int]

    @property
    def registrar(self) -> pathlib.Path:
        """The library beside it that registers its plugins when it is opened."""
        return self.library.with_name(REGISTRAR_NAME)


def provider_major(runtime_folder: pathlib.Path | None = None) -> int | None:
    """The major version of TensorRT that ONNX Runtime's provider is linked against; None: there is no provider."""
    folder = _runtime_folder() if runtime_folder is None else runtime_folder
    library = None if folder is None else folder / PROVIDER_LIBRARY
    if library is None or not library.is_file():
        return None
    found = _LINKED.search(library.read_bytes())
    return None if found is None else int(found[1])


def _runtime_folder() -> pathlib.Path | None:
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec("onnxruntime")
        if spec is not None and spec.origin is not None:
            return pathlib.Path(spec.origin).parent / "capi"
    return None


@functools.cache
def load_tensorrt(major: int) -> str:
    """Load TensorRT's libraries, so that the provider finds them under their names; returns TensorRT's version.

    Raises:
        TargetError: they are not installed, or need something that is not.
    """
    problem = ""
    for folder in ("", *map(str, _wheel_folders())):
        try:
            loaded = [ctypes.CDLL(os.path.join(folder, f"{name}.so.{major}")) for name in LIBRARIES]
            return _version_text(int(loaded[0].getInferLibVersion()))
        except (OSError, AttributeError) as error:
            problem = problem or str(error)
    raise TargetError(
        f"ONNX Runtime's TensorRT provider needs TensorRT {major}, which does not load ({problem}); install NVIDIA's "
        f"package (libnvinfer{major}, or pip install 'tensorrt-cu13<{major + 1}' from NVIDIA's index)"
    )


def _wheel_folders() -> Iterator[pathlib.Path]:
    for name in WHEEL_MODULES:
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
            yield from map(pathlib.Path, (spec.submodule_search_locations or ()) if spec is not None else ())


def _version_text(number: int) -> str:
    """`10.9.0` from the number that the library gives."""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def find_plugins(major: int, *folders: pathlib.Path) -> PluginLibrary:
    """Plugins for a major version of TensorRT: in these folders, in the one that the user names, in the cache.

    Raises:
        TargetError: there are none.
    """
    seen = []
    for folder in (*folders, *_usual_folders()):
        if not (folder / REGISTRAR_NAME).is_file():
            continue
        found = plugin_library(folder / PLUGIN_LIBRARY_NAME)
        if found.abi == ABI_VERSION and found.tensorrt.split(".")[0] == str(major):
            return found
        seen.append(f"{folder} has plugins of ABI {found.abi} for TensorRT {found.tensorrt}")
    raise TargetError(
        f"no TensorRT plugins for TensorRT {major} were found ({'; '.join(seen) or 'none at all'}); build them with "
        f"TENSORRT_ROOT=... raggedrt doctor --build-plugins, name their folder in {PLUGINS_VARIABLE}, or trust a "
        "bundle that brings them along (--trust-bundle, trust_bundle=True)"
    )


def _usual_folders() -> Iterator[pathlib.Path]:
    if named := os.environ.get(PLUGINS_VARIABLE):
        yield pathlib.Path(named)
    built = (cache_folder() / "tensorrt-plugins").glob(f"*/{PLUGIN_LIBRARY_NAME}")
    yield from (path.parent for path in sorted(built, key=lambda path: path.stat().st_mtime, reverse=True))


def plugin_library(path: pathlib.Path) -> PluginLibrary:
    """What the plugin library at `path` says of itself; loading it registers nothing.

    Raises:
        TargetError: they cannot be loaded, or are none of ours.
    """
    try:
        function = ctypes.CDLL(os.fspath(path)).raggedrt_tensorrt_info
    except (OSError, AttributeError) as error:
        raise TargetError(
            f"{path} is no TensorRT plugin library that this machine can load ({error}); build it with raggedrt doctor "
            "--build-plugins"
        ) from error
    function.restype = ctypes.c_char_p
    facts = json.loads(function().decode())
    return PluginLibrary(path, facts["version"], facts["abi"], facts["tensorrt"], facts.get("creators", {}))


def register(plugins: PluginLibrary, where: str) -> None:
    """Register the plugins with the TensorRT that this process has loaded; again does no harm.

    Raises:
        TargetError: they cannot be; the message says why.
    """
    try:
        function = ctypes.CDLL(os.fspath(plugins.registrar)).raggedrt_register_plugins
    except (OSError, AttributeError) as error:
        raise TargetError(
            f"{where} needs {plugins.registrar}, which cannot be loaded ({error}); ship it again"
        ) from error
    function.restype = ctypes.c_char_p
    if problem := function().decode(errors="replace"):
        raise TargetError(f"{where}: TensorRT does not take the plugins of {plugins.registrar} ({problem})")
