"""Compiles the op library for ONNX Runtime's CPU provider with the machine's C++ compiler.

Standard library only: it also runs inside the wheel build. Nothing here asks the network; `obtain_ort_headers` does.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import pathlib
import platform

from raggedrt.errors import TargetError
from raggedrt.plugins.kernel_packs.digest import kernels_digest
from raggedrt.plugins.native import codegen
from raggedrt.plugins.native.cache import LIBRARY_NAME, library_path
from raggedrt.plugins.native.compiler import find_compiler, make_file, run_compiler
from raggedrt.plugins.native.headers import find_ort_headers, obtain_ort_headers
from raggedrt.plugins.native.objects import Unit, compile_unit, exports_flag

__all__ = [
    "build_in_cache",
    "build_library",
    "find_ort_headers",
    "obtain_ort_headers",
    "source_digest",
]

SOURCE_FOLDER = pathlib.Path(__file__).resolve().parent
NOT_IN_THE_LIBRARY = ("cuda/device/", "cuda/emulator/", "tensorrt/")
"""Folders of device code, the emulator and TensorRT plugins, which other modules build."""

COMMON_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
    "-ffp-contract=fast",
    "-ffunction-sections",
    "-fdata-sections",
    "-Wall",
    "-Wextra",
)
# What is not used is dropped and libgcc stays shared: otherwise the C++ runtime's random numbers, threads and unwinder
# would ask for the newest glibc of the machine that builds (`scripts/check_wheel.py` holds the README's figure).
LINK_FLAGS = ("-shared", "-static-libstdc++", "-Wl,--gc-sections", "-Wl,-z,defs", "-pthread")
EXPORTS = ("RegisterCustomOps", "raggedrt_library_info", "raggedrt_select_isa")
"""All that other libraries of the process may see; the standard library's templates would be visible otherwise."""

# One row per instruction set: (namespace, machines, flags). isa.cc chooses among them at run time, so a library from
# another machine's cache never runs instructions this CPU lacks. GCC 12's own headers trip -Wmaybe-uninitialized.
X86 = ("x86_64", "AMD64")
AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")
AVX512_FLAGS = (*AVX2_FLAGS, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512")
INSTRUCTION_SETS: tuple[tuple[str, tuple[str, ...] | None, tuple[str, ...]], ...] = (
    ("generic", None, ()),
    ("avx2", X86, AVX2_FLAGS),
    ("avx512", X86, (*AVX512_FLAGS, "-Wno-maybe-uninitialized", "-Wno-uninitialized")),
)
SIMD_SOURCE = "cpu/simd/kernels.cc"
CPU_SOURCES = (
    "cpu/attention.cc",
    "cpu/block_mask.cc",
    "cpu/call.cc",
    "cpu/isa.cc",
    "cpu/merge_states.cc",
    "cpu/packing_plan.cc",
    "cpu/position_mask.cc",
    "cpu/query_tiles.cc",
    "cpu/schedule.cc",
    "cpu/score_tables.cc",
    "cpu/sparse_attention.cc",
    "cpu/sparse_mask.cc",
    "cpu/sparse_schedule.cc",
    "cpu/tile_list.cc",
    "cpu/token_copy.cc",
)
NODE_SOURCES = (
    "node/attention_plan.cc",
    "node/block_mask.cc",
    "node/guard.cc",
    "node/merge_states.cc",
    "node/packing.cc",
    "node/ragged_attention.cc",
)
"""What makes problems of nodes, for every runtime."""
LAUNCH_SOURCES = (
    "cuda/launch/attention.cc",
    "cuda/launch/attention_check.cc",
    "cuda/launch/attention_choice.cc",
    "cuda/launch/block_mask.cc",
    "cuda/launch/device.cc",
    "cuda/launch/driver.cc",
    "cuda/launch/pack.cc",
    "cuda/launch/packing.cc",
    "cuda/launch/variants.cc",
)
"""What launches device kernels. No toolkit is needed: the driver is opened at run time."""
ORT_SOURCES = (
    "ort/adapter.cc",
    "ort/attention_plan.cc",
    "ort/block_mask.cc",
    "ort/cuda_adapter.cc",
    "ort/cuda_attention.cc",
    "ort/cuda_block_mask.cc",
    "ort/cuda_mirror.cc",
    "ort/cuda_packing.cc",
    "ort/cuda_staging.cc",
    "ort/library.cc",
    "ort/merge_attention_states.cc",
    "ort/packing_plan.cc",
    "ort/ragged_attention.cc",
    "ort/token_copy.cc",
)


def compile_units(machine: str) -> tuple[Unit, ...]:
    """Every compiler call for a library for `machine` (as `platform.machine()` names it)."""
    simd = [
        Unit(SIMD_SOURCE, (f"-DRAGGEDRT_ISA={isa}", *flags))
        for isa, machines, flags in INSTRUCTION_SETS
        if machines is None or machine in machines
    ]
    plain = [Unit(source) for source in (*CPU_SOURCES, *NODE_SOURCES, *LAUNCH_SOURCES, *ORT_SOURCES)]
    return (*simd, *plain)


def source_digest() -> str:
    """SHA-256 over everything that decides what the library does: sources, generated tables, flags."""
    return _digest(codegen.ops_header())


@functools.lru_cache(maxsize=1)
def _digest(generated: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(SOURCE_FOLDER.glob("**/*.cc")) + sorted(SOURCE_FOLDER.glob("**/*.h")):
        name = path.relative_to(SOURCE_FOLDER).as_posix()
        if name.startswith(NOT_IN_THE_LIBRARY):
            continue
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    digest.update((generated + kernels_digest()).encode())
    digest.update(repr((COMMON_FLAGS, LINK_FLAGS, EXPORTS, INSTRUCTION_SETS)).encode())
    return digest.hexdigest()


def installed_version() -> str:
    """The toolchain's version; "unknown" while a wheel is being built and nothing is installed yet."""
    try:
        return importlib.metadata.version("raggedrt")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def build_in_cache(include_dir: pathlib.Path | None = None, *, obtain: bool = True) -> pathlib.Path:
    """The library of the present sources in the user cache, built if it is not there.

    Args:
        include_dir: folder with ONNX Runtime's headers; found when None.
        obtain: download the headers when they are not found.

    Raises:
        TargetError: no compiler or no headers.
    """
    target = library_path(source_digest())
    if target.is_file():
        return target
    find_compiler()
    headers = include_dir or find_ort_headers()
    if headers is None and obtain:
        headers = obtain_ort_headers()
    return build_library(target.parent, headers)


def build_library(
    output_dir: pathlib.Path,
    include_dir: pathlib.Path | None = None,
    *,
    version: str | None = None,
    extra_flags: tuple[str, ...] = (),
) -> pathlib.Path:
    """Compile the library into `output_dir` and return its path.

    The file appears under its name only when it is complete: concurrent builders do not disturb each other.

    Args:
        output_dir: created if missing.
        include_dir: folder with ONNX Runtime's headers; found when None.
        version: toolchain version that the library reports; this installation's when None.
        extra_flags: for the compiler and the linker, for example a sanitizer.

    Raises:
        TargetError: no compiler, no headers, or the compiler refuses the sources.
    """
    find_compiler()
    headers = include_dir or find_ort_headers()
    if headers is None:
        raise TargetError(
            "ONNX Runtime's C API headers were not found; run `raggedrt doctor --build-ops`, which obtains them, or "
            "set ORT_INCLUDE_DIR to the include folder of an ONNX Runtime release archive"
        )
    facts = {
        "RAGGEDRT_SOURCE_DIGEST": source_digest(),
        "RAGGEDRT_VERSION": version or installed_version(),
        "RAGGEDRT_KERNEL_DIGEST": kernels_digest(),
    }
    flags = (*COMMON_FLAGS, *extra_flags, f"-isystem{headers}")

    def build(folder: pathlib.Path) -> None:
        (folder / codegen.FILE_NAME).write_text(codegen.ops_header(), encoding="utf-8")
        folders, units = (SOURCE_FOLDER, folder), compile_units(platform.machine())
        objects = [compile_unit(unit, flags, facts, folders, "the op library") for unit in units]
        linking = (*extra_flags, *LINK_FLAGS, exports_flag(folder, EXPORTS))
        run_compiler([find_compiler(), "-o", str(folder / LIBRARY_NAME), *objects, *linking], "the op library")

    return make_file(output_dir / LIBRARY_NAME, build)
