"""Compiles device kernels for the emulator, so that they run on a CPU with every access checked.

The emulator itself is one library; the kernels of a call are another that links with it. Both lie in the user cache
under a digest of the sources, objects apart, so that only what changed is compiled again. Standard library only.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import os
import pathlib
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from raggedrt.errors import TargetError
from raggedrt.plugins.native.build import SOURCE_FOLDER
from raggedrt.plugins.native.cache import cache_folder
from raggedrt.plugins.native.compiler import find_compiler, made_once, run_compiler, with_includes

__all__ = ["KernelVariant", "build", "build_runtime", "poisons_registers"]

KERNELS = "cuda/kernels"
RUNTIME = "cuda/emulator"
RUNTIME_NAME = "libraggedrt_emulator.so"
KERNELS_NAME = "libraggedrt_emulated_kernels.so"

COMMON_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-DRAGGEDRT_EMULATE")
RUNTIME_FLAGS = ("-O3", "-fno-math-errno")
# Line tables name the place of an error. Casts of registers that a GPU compiler takes are taken here, too.
KERNEL_FLAGS = ("-g1", "-fno-strict-aliasing", "-ffp-contract=off", "-Wno-unknown-pragmas")
POISON_FLAG = "-ftrivial-auto-var-init=pattern"
LINK_FLAGS = ("-shared", "-Wl,-z,defs")
JOBS = 2
WHAT = "device code for the emulator"


class KernelVariant(Protocol):
    """One kernel: a translation unit and the macros that make it this variant."""

    @property
    def source(self) -> str:
        """Path of the `.cu` file below `cuda/kernels`, or an absolute one."""

    @property
    def entry(self) -> str:
        """C name of the kernel; unique among the variants of a library."""

    @property
    def macros(self) -> Mapping[str, str]:
        """Preprocessor definitions besides `RAGGEDRT_ENTRY`."""


def build(variants: Iterable[KernelVariant], *, overlay: pathlib.Path | None = None) -> pathlib.Path:
    """A library with these kernels for the emulator, from the user cache or compiled now.

    It exports a `raggedrt_emulated_kernel` (see `cuda/emulator/api.h`) named `<entry>_emulated` per variant.

    Args:
        variants: what to compile, two at a time.
        overlay: folder whose files are taken before those of the same path below this one, for trying changes.

    Raises:
        TargetError: no compiler, or it refuses a source.
    """
    runtime = build_runtime()
    folders = (overlay, SOURCE_FOLDER) if overlay else (SOURCE_FOLDER,)
    wanted = list(variants)
    with concurrent.futures.ThreadPoolExecutor(max_workers=JOBS) as pool:
        objects = list(dict.fromkeys(pool.map(lambda variant: _kernel_object(variant, folders), wanted)))
    digest = _digest(str(runtime), *(str(path) for path in objects))
    library = cache_folder() / "emulated" / "kernels" / digest / KERNELS_NAME
    flags = (runtime, f"-Wl,-rpath,{runtime.parent}")
    return made_once(library, lambda folder: _link(folder / KERNELS_NAME, objects, *flags))


def build_runtime() -> pathlib.Path:
    """The emulator's own library, from the user cache or compiled now.

    Raises:
        TargetError: no compiler, or it refuses a source.
    """
    sources = sorted((SOURCE_FOLDER / RUNTIME).glob("*.cc"))
    contents = _contents(sources, (SOURCE_FOLDER,))
    digest = _digest(repr((COMMON_FLAGS, RUNTIME_FLAGS, LINK_FLAGS)), find_compiler(), *contents)
    library = cache_folder() / "emulated" / "runtime" / digest / RUNTIME_NAME

    def make(folder: pathlib.Path) -> None:
        flags = (*COMMON_FLAGS, *RUNTIME_FLAGS, f"-I{SOURCE_FOLDER}")
        objects = [folder / f"{source.stem}.o" for source in sources]
        with concurrent.futures.ThreadPoolExecutor(max_workers=JOBS) as pool:
            list(pool.map(lambda source, target: _compile(source, target, flags), sources, objects))
        _link(folder / RUNTIME_NAME, objects, f"-Wl,-soname,{RUNTIME_NAME}", "-ldl", "-pthread")

    return made_once(library, make)


def poisons_registers() -> bool:
    """Whether local arrays that a kernel does not initialise hold a pattern: GCC 12 and Clang 8 can do that."""
    try:
        return _accepts(find_compiler(), POISON_FLAG)
    except TargetError:
        return False


def _kernel_object(variant: KernelVariant, folders: Sequence[pathlib.Path]) -> pathlib.Path:
    source = next(
        (path for folder in folders if (path := folder / KERNELS / variant.source).is_file()),
        pathlib.Path(variant.source),
    )
    if not source.is_file():
        raise TargetError(f"there is no kernel source {variant.source!r} below {SOURCE_FOLDER / KERNELS}")
    definitions = [f"-D{name}={value}" for name, value in sorted(variant.macros.items())]
    extra = (*KERNEL_FLAGS, *((POISON_FLAG,) if poisons_registers() else ()))
    contents = _contents([source], folders)
    digest = _digest(repr((COMMON_FLAGS, extra, definitions, variant.entry)), find_compiler(), *contents)
    target = cache_folder() / "emulated" / "objects" / f"{digest}.o"
    # Variants of one source have functions of the same names: a namespace of their own keeps them apart.
    own = (f"-DRAGGEDRT_ENTRY={variant.entry}", f"-Draggedrt=raggedrt_{digest}")
    flags = (*COMMON_FLAGS, *extra, *definitions, *own, *(f"-I{path}" for path in folders))

    def make(folder: pathlib.Path) -> None:
        unit = folder / "unit.cc"
        unit.write_text(f'#include "{source}"\nRAGGEDRT_EMULATED_EXPORT({variant.entry})\n', encoding="utf-8")
        _compile(unit, folder / target.name, flags)

    return made_once(target, make)


def _contents(sources: Iterable[pathlib.Path], folders: Sequence[pathlib.Path]) -> list[str]:
    """Names and texts of the sources and of all our files that they include."""
    return [part for path in with_includes(sources, folders) for part in (str(path), path.read_text(encoding="utf-8"))]


def _digest(*parts: str) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(f"{len(part)}\0{part}".encode())
    return whole.hexdigest()[:32]


def _link(target: pathlib.Path, objects: Iterable[pathlib.Path], *flags: pathlib.Path | str) -> None:
    run_compiler([find_compiler(), "-o", str(target), *map(str, objects), *map(str, flags), *LINK_FLAGS], WHAT)


def _compile(source: pathlib.Path, target: pathlib.Path, flags: Sequence[str]) -> None:
    run_compiler([find_compiler(), *flags, "-c", str(source), "-o", str(target)], WHAT)


@functools.cache
def _accepts(compiler: str, flag: str) -> bool:
    command = [compiler, "-Werror", flag, "-x", "c++", "-fsyntax-only", os.devnull]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
