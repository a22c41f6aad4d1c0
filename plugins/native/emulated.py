"""Compiles device kernels for the emulator, so that they run on a CPU with every access checked.

The emulator itself is one library; the kernels of a call are another that links with it. Both lie in the user cache
under a digest of the sources, objects apart, so that only what changed is compiled again. Standard library only.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import hashlib
import os
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from raggedrt.errors import TargetError
from raggedrt.plugins.native.build import COMPILE_TIMEOUT_SECONDS, SOURCE_FOLDER, find_compiler
from raggedrt.plugins.native.cache import cache_folder

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
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


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
    if not library.is_file():
        _link(library, objects, runtime, f"-Wl,-rpath,{runtime.parent}")
    return library


def build_runtime() -> pathlib.Path:
    """The emulator's own library, from the user cache or compiled now.

    Raises:
        TargetError: no compiler, or it refuses a source.
    """
    sources = sorted((SOURCE_FOLDER / RUNTIME).glob("*.cc"))
    contents = _contents(sources, (SOURCE_FOLDER,))
    digest = _digest(repr((COMMON_FLAGS, RUNTIME_FLAGS, LINK_FLAGS)), find_compiler(), *contents)
    library = cache_folder() / "emulated" / "runtime" / digest / RUNTIME_NAME
    if not library.is_file():
        with _scratch(library.parent) as folder, concurrent.futures.ThreadPoolExecutor(max_workers=JOBS) as pool:
            flags = (*COMMON_FLAGS, *RUNTIME_FLAGS, f"-I{SOURCE_FOLDER}")
            objects = [folder / f"{source.stem}.o" for source in sources]
            list(pool.map(lambda source, target: _compile(source, target, flags), sources, objects))
            _link(library, objects, f"-Wl,-soname,{RUNTIME_NAME}", "-ldl", "-pthread")
    return library


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
    if not target.is_file():
        with _scratch(target.parent) as folder:
            unit = folder / "unit.cc"
            unit.write_text(f'#include "{source}"\nRAGGEDRT_EMULATED_EXPORT({variant.entry})\n', encoding="utf-8")
            includes = [f"-I{path}" for path in folders]
            # Variants of one source have functions of the same names: a namespace of their own keeps them apart.
            own = (f"-DRAGGEDRT_ENTRY={variant.entry}", f"-Draggedrt=raggedrt_{digest}")
            _compile(unit, folder / "unit.o", (*COMMON_FLAGS, *extra, *definitions, *own, *includes))
            (folder / "unit.o").replace(target)
    return target


def _contents(sources: Iterable[pathlib.Path], folders: Sequence[pathlib.Path]) -> list[str]:
    """Names and texts of the sources and of all our files that they include, in the order of reading."""
    seen: dict[pathlib.Path, None] = {}
    waiting = list(sources)
    parts: list[str] = []
    while waiting:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen[path] = None
        content = path.read_text(encoding="utf-8")
        parts += [str(path), content]
        for name in INCLUDE.findall(content):
            beside = [path.parent / name, *(folder / name for folder in folders)]
            waiting += [found for found in beside if found.is_file()][:1]
    return parts


def _digest(*parts: str) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(f"{len(part)}\0{part}".encode())
    return whole.hexdigest()[:32]


@contextlib.contextmanager
def _scratch(beside: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder on the file system of `beside`, so that finished files can be moved there in one step."""
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=beside) as name:
        yield pathlib.Path(name)


def _link(library: pathlib.Path, objects: Sequence[pathlib.Path], *flags: pathlib.Path | str) -> None:
    with _scratch(library.parent) as folder:
        built = folder / library.name
        _check_run([find_compiler(), "-o", str(built), *map(str, objects), *map(str, flags), *LINK_FLAGS])
        built.replace(library)


def _compile(source: pathlib.Path, target: pathlib.Path, flags: Sequence[str]) -> None:
    _check_run([find_compiler(), *flags, "-c", str(source), "-o", str(target)])


@functools.cache
def _accepts(compiler: str, flag: str) -> bool:
    command = [compiler, "-Werror", flag, "-x", "c++", "-fsyntax-only", os.devnull]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def _check_run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_SECONDS, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line or "undefined" in line]
        shown = "; ".join(errors[:3]) or done.stderr.strip()[-500:]
        raise TargetError(
            f"the C++ compiler refuses device code for the emulator: {shown}. It needs C++17 (GCC 9 or Clang 9 and "
            f"later); set CXX to another compiler, or report this with the command: {' '.join(command)}"
        )
