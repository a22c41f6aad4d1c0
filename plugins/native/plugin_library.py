"""Compiles the TensorRT plugin library from this folder's sources, where TensorRT's headers are.

Standard library only. TensorRT itself is not needed, nor a GPU or a CUDA toolkit: headers of TensorRT 10 or 11 and
CUDA's runtime API header are. As a program it serves `tensorrt/CMakeLists.txt`: it writes the generated header into the
folder that it is given, and prints version, kernel digest and sources.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import sys
import sysconfig

from raggedrt.errors import TargetError
from raggedrt.plugins.kernel_packs.digest import kernels_digest
from raggedrt.plugins.native import codegen
from raggedrt.plugins.native.build import (
    LAUNCH_SOURCES,
    NODE_SOURCES,
    SOURCE_FOLDER,
    installed_version,
)
from raggedrt.plugins.native.cache import cache_folder
from raggedrt.plugins.native.compiler import find_compiler, made_once, run_compiler
from raggedrt.plugins.native.objects import Unit, compile_unit, exports_flag

PLUGIN_LIBRARY_NAME = "libraggedrt_trt.so"
OLDEST_TENSORRT = (10, 7)
"""The first whose ONNX parser prefers a plugin to a function body."""
PLUGIN_SOURCES = tuple(
    f"tensorrt/{name}.cc" for name in ("fields", "library", "log", "ops", "plugin", "real_values", "shapes", "tensors")
)
SHARED_SOURCES = ("cpu/block_mask.cc", "cpu/packing_plan.cc")
"""CPU code that reads attributes, and bounds of what the launcher counts on the host."""
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-Wall", "-Wextra")
LINK_FLAGS = ("-shared", "-static-libstdc++", "-Wl,--gc-sections", "-Wl,-z,defs", "-pthread", "-ldl")
EXPORTS = ("getCreators", "setLoggerFinder", "raggedrt_tensorrt_info")
SYSTEM_FOLDERS = (
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/include",
    "/usr/local/tensorrt/include",
    "/opt/tensorrt/include",
)
CUDA_FOLDERS = ("/usr/local/cuda/include", "/usr/include")


def sources() -> tuple[str, ...]:
    """Every source of the library, relative to this folder."""
    return (*PLUGIN_SOURCES, *NODE_SOURCES, *LAUNCH_SOURCES, *SHARED_SOURCES)


def find_tensorrt_headers() -> pathlib.Path | None:
    """Folder with `NvInfer.h`: of $TENSORRT_ROOT (it or its `include`), else of the system; None: there is none."""
    named = os.environ.get("TENSORRT_ROOT", "").strip()
    folders = [pathlib.Path(named) / "include", pathlib.Path(named)] if named else map(pathlib.Path, SYSTEM_FOLDERS)
    return next((folder for folder in folders if (folder / "NvInfer.h").is_file()), None)


def find_cuda_headers() -> pathlib.Path | None:
    """Folder with `cuda_runtime_api.h`: of $CUDA_HOME, a toolkit, or the package `nvidia-cuda-runtime`."""
    named = os.environ.get("CUDA_HOME", "").strip()
    packages = pathlib.Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    folders = [pathlib.Path(named) / "include"] if named else []
    folders += [*map(pathlib.Path, CUDA_FOLDERS), *sorted(packages.glob("*/include"), reverse=True)]
    return next((folder for folder in folders if (folder / "cuda_runtime_api.h").is_file()), None)


def tensorrt_version(headers: pathlib.Path) -> tuple[int, int]:
    """Major and minor version that headers are of.

    Raises:
        TargetError: the headers do not tell.
    """
    text = (
        (headers / "NvInferVersion.h").read_text(errors="replace") if (headers / "NvInferVersion.h").is_file() else ""
    )
    defines: dict[str, str] = dict(re.findall(r"#define\s+(\w+)\s+(\w+)", text))

    def number(name: str) -> int:
        value: str = defines.get(name, "")
        value = defines.get(value, value)
        if not value.isdigit():
            raise TargetError(f"{headers}: NvInferVersion.h does not tell {name}; set TENSORRT_ROOT to a TensorRT SDK")
        return int(value)

    return number("NV_TENSORRT_MAJOR"), number("NV_TENSORRT_MINOR")


def tensorrt_headers() -> tuple[pathlib.Path, pathlib.Path]:
    """Folders with the headers of TensorRT and of CUDA.

    Raises:
        TargetError: one is missing, or the TensorRT is too old.
    """
    tensorrt, cuda = find_tensorrt_headers(), find_cuda_headers()
    if tensorrt is None:
        raise TargetError(
            "TensorRT's headers (NvInfer.h) were not found; set TENSORRT_ROOT to the folder of a TensorRT 10 or 11 SDK "
            "or install libnvinfer-headers-dev from NVIDIA's repository. The op library and function bodies need none"
        )
    version = tensorrt_version(tensorrt)
    if version < OLDEST_TENSORRT:
        raise TargetError(
            f"{tensorrt} has the headers of TensorRT {version[0]}.{version[1]}; the plugins need "
            f"{OLDEST_TENSORRT[0]}.{OLDEST_TENSORRT[1]} or later: set TENSORRT_ROOT to such an SDK"
        )
    if cuda is None:
        raise TargetError(
            "cuda_runtime_api.h, which TensorRT's headers include, was not found; set CUDA_HOME to a CUDA toolkit or "
            "pip install nvidia-cuda-runtime"
        )
    return tensorrt, cuda


def header_flags() -> tuple[str, ...]:
    """Flags by which a compiler finds the headers of TensorRT and CUDA, as those of others: without warnings.

    Raises:
        TargetError: one is missing, or the TensorRT is too old.
    """
    return tuple(flag for folder in tensorrt_headers() for flag in ("-isystem", str(folder)))


def plugin_library_path() -> pathlib.Path:
    """Where the library of the present sources and headers lies in the user's cache, built or not.

    Raises:
        TargetError: no TensorRT or CUDA headers.
    """
    tensorrt, _ = tensorrt_headers()
    digest = hashlib.sha256(repr((FLAGS, LINK_FLAGS, EXPORTS, tensorrt_version(tensorrt), kernels_digest())).encode())
    digest.update(codegen.ops_header().encode())
    for path in (*sorted(SOURCE_FOLDER.glob("**/*.cc")), *sorted(SOURCE_FOLDER.glob("**/*.h"))):
        if "emulator" not in path.parts:
            digest.update(f"{path.relative_to(SOURCE_FOLDER)}\0".encode() + path.read_bytes())
    return cache_folder() / "tensorrt-plugins" / digest.hexdigest()[:32] / PLUGIN_LIBRARY_NAME


def build_plugin_library() -> pathlib.Path:
    """The plugin library, from the user's cache or compiled now; it appears under its name only when it is complete.

    Raises:
        TargetError: no headers or compiler, or the compiler refuses the sources.
    """
    library = plugin_library_path()
    if library.is_file():
        return library
    tensorrt, _ = tensorrt_headers()
    what = f"the plugins with the headers of TensorRT {'.'.join(map(str, tensorrt_version(tensorrt)))}"
    flags = (*FLAGS, *header_flags())
    facts = {"RAGGEDRT_VERSION": installed_version(), "RAGGEDRT_KERNEL_DIGEST": kernels_digest()}

    def build(folder: pathlib.Path) -> None:
        exports = write_generated(folder)
        folders = (SOURCE_FOLDER, folder)
        objects = [compile_unit(Unit(source), flags, facts, folders, what) for source in sources()]
        command = [find_compiler(), "-o", str(folder / PLUGIN_LIBRARY_NAME), *objects, *LINK_FLAGS, exports]
        run_compiler(command, what)

    return made_once(library, build)


def write_generated(folder: pathlib.Path) -> str:
    """Write the generated header and the linker's list of exports into `folder`; returns the linker's flag."""
    (folder / codegen.FILE_NAME).write_text(codegen.ops_header(), encoding="utf-8")
    return exports_flag(folder, EXPORTS)


if __name__ == "__main__":
    write_generated(pathlib.Path(sys.argv[1]))
    print(f"{installed_version()};{kernels_digest()};{';'.join(sources())}")
