"""Builds the launcher of the device kernels alone, with a C surface, for tests and measurements without a runtime.

Standard library only. It needs a C++ compiler and nothing of CUDA: the driver is opened at run time.
"""

from __future__ import annotations

import hashlib
import pathlib
import subprocess
import tempfile

from raggedrt.errors import TargetError
from raggedrt.plugins.kernel_packs.digest import kernels_digest
from raggedrt.plugins.native.build import COMPILE_TIMEOUT_SECONDS, SOURCE_FOLDER, find_compiler
from raggedrt.plugins.native.cache import cache_folder

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
    if library.is_file():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=library.parent) as scratch:
        built = pathlib.Path(scratch) / LAUNCHER_NAME
        define = f'-DRAGGEDRT_KERNEL_DIGEST="{kernels_digest()}"'
        sources = [str(path) for path in launcher_sources()]
        command = [find_compiler(), *FLAGS, define, f"-I{SOURCE_FOLDER}", *sources, "-o", str(built), *extra_flags]
        done = subprocess.run(
            [*command, *LINK_FLAGS], capture_output=True, text=True, timeout=COMPILE_TIMEOUT_SECONDS, check=False
        )
        if done.returncode:
            raise TargetError(
                f"the C++ compiler refuses the CUDA launcher: {done.stderr.strip()[-800:]}. It needs C++17 (GCC 9 or "
                "Clang 9 and later); set CXX to another compiler"
            )
        built.replace(library)
    return library
