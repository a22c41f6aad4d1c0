"""Builds the launcher of the device kernels alone, with a C surface, for tests and measurements without a runtime.

Standard library only. It needs a C++ compiler and nothing of CUDA: the driver is opened at run time.
"""

from __future__ import annotations

import hashlib
import pathlib

from raggedrt.plugins.kernel_packs.digest import kernels_digest
from raggedrt.plugins.native.build import SOURCE_FOLDER
from raggedrt.plugins.native.cache import cache_folder
from raggedrt.plugins.native.compiler import find_compiler, made_once, run_compiler

LAUNCHER_NAME = "libraggedrt_cuda_launcher.so"
OTHER_SOURCES = ("cpu/packing_plan.cc",)
"""What the launcher uses beside its own folder."""
FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
LINK_FLAGS = ("-shared", "-Wl,-z,defs", "-pthread", "-ldl")


def launcher_sources() -> tuple[pathlib.Path, ...]:
    """Every source of the launcher with its C surface."""
    own = sorted((SOURCE_FOLDER / "cuda" / "launch").glob("*.cc"))
    return (*own, *(SOURCE_FOLDER / name for name in OTHER_SOURCES))


def build_launcher(extra_flags: tuple[str, ...] = ()) -> pathlib.Path:
    """The launcher as a library, from the user's cache or compiled now.

    Args:
        extra_flags: for the compiler and the linker, for example a sanitizer.

    Raises:
        TargetError: no compiler, or it refuses the sources.
    """
    digest = hashlib.sha256(repr((FLAGS, LINK_FLAGS, extra_flags, kernels_digest(), find_compiler())).encode())
    for path in (
        *launcher_sources(),
        *sorted(SOURCE_FOLDER.glob("cpu/*.h")),
        *sorted(SOURCE_FOLDER.glob("cuda/*/*.h")),
    ):
        digest.update(f"{path.relative_to(SOURCE_FOLDER)}\0".encode() + path.read_bytes())
    library = cache_folder() / "launcher" / digest.hexdigest()[:32] / LAUNCHER_NAME

    def build(folder: pathlib.Path) -> None:
        define = f'-DRAGGEDRT_KERNEL_DIGEST="{kernels_digest()}"'
        sources = [str(path) for path in launcher_sources()]
        command = [find_compiler(), *FLAGS, define, f"-I{SOURCE_FOLDER}", *sources, "-o", str(folder / LAUNCHER_NAME)]
        run_compiler([*command, *extra_flags, *LINK_FLAGS], "the CUDA launcher")

    return made_once(library, build)
