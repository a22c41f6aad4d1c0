"""Compiles kernel variants to machine code by NVRTC, which needs neither a GPU nor a CUDA toolkit.

What was compiled once is kept in the user's cache, by everything that decides the result.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import importlib.util
import io
import multiprocessing
import os
import pathlib
import re
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence

from raggedrt.errors import RaggedRTError, TargetError
from raggedrt.plugins.kernel_packs.sources import NATIVE_FOLDER, read_unit, unit_digest
from raggedrt.plugins.kernel_packs.variants import CODE_CAPABILITY, REGISTERS, SHARED_BYTES, Variant
from raggedrt.plugins.native.cache import cache_folder

STANDARD = "c++17"
PTXAS_OPTIONS = ("-v",)
"""Asks the assembler to say what a kernel takes."""
_HEADER = struct.Struct("<8s4i32s")
_MAGIC = b"RRTCUBIN"
_FACTS = {
    "registers": re.compile(r"Used (\d+) registers"),
    "stack_bytes": re.compile(r"(\d+) bytes stack frame"),
    "spill_bytes": re.compile(r"(\d+) bytes spill stores"),
    "static_shared_bytes": re.compile(r"(\d+) bytes smem"),
}


@dataclasses.dataclass(frozen=True)
class Resources:
    """What the assembler says that one kernel takes."""

    registers: int
    """Of one thread."""
    stack_bytes: int
    """Local memory of one thread, spills among it."""
    spill_bytes: int
    static_shared_bytes: int


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One variant as machine code for one compute capability."""

    variant: Variant
    capability: int
    cubin: bytes
    resources: Resources


def find_compiler() -> str:
    """Version of NVRTC, as `13.0`.

    Raises:
        TargetError: it is not installed.
    """
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.core") is None:
        raise TargetError(
            "compiling CUDA kernels needs NVRTC through cuda-core; pip install 'raggedrt[cuda-build]', which needs no "
            "GPU, or use kernel packs that were built elsewhere"
        )
    return _nvrtc_version()


@functools.cache
def _nvrtc_version() -> str:
    from cuda.bindings import nvrtc

    try:
        status, major, minor = nvrtc.nvrtcVersion()
    except RuntimeError as error:
        raise TargetError(
            f"NVRTC cannot be loaded ({error}); pip install 'raggedrt[cuda-build]', which brings it along"
        ) from error
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise TargetError(f"NVRTC does not tell its version ({status.name}); pip install 'raggedrt[cuda-build]' again")
    return f"{major}.{minor}"


def compile_variant(variant: Variant, capability: int) -> Kernel:
    """Machine code of `variant`, from the cache where it is there.

    Raises:
        TargetError: NVRTC is not installed.
        RaggedRTError: the source does not compile, or the kernel takes more than it may.
    """
    code_capability = CODE_CAPABILITY.get(capability, capability)
    path = _cache_path(variant, code_capability)
    kernel = _read_cached(path, variant, capability)
    if kernel is None:
        kernel = dataclasses.replace(_compile(variant, code_capability), capability=capability)
        _write_cached(path, kernel)
    if problems := list(overruns(kernel)):
        raise RaggedRTError(f"kernel {variant.entry} for sm_{capability}: {'; '.join(problems)}")
    return kernel


def compile_all(variants: Sequence[Variant], capabilities: Iterable[int], workers: int = 0) -> Iterator[Kernel]:
    """Machine code of every variant for every capability, in order; `workers` 0 is one per usable core.

    Raises:
        TargetError: NVRTC is not installed.
        RaggedRTError: a source does not compile, or a kernel takes more than it may; all of them are named.
    """
    find_compiler()
    work = [(variant, capability) for capability in capabilities for variant in variants]
    missing = sum(not _cache_path(variant, CODE_CAPABILITY.get(of, of)).is_file() for variant, of in work)
    workers = min(workers or len(os.sched_getaffinity(0)), missing)
    if workers <= 1:
        yield from (compile_variant(*item) for item in work)
        return
    # Threads of the caller do not survive a fork, and NVRTC holds state.
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        futures = [pool.submit(compile_variant, *item) for item in work]
        errors = [str(error) for future in futures if isinstance(error := future.exception(), RaggedRTError)]
        if errors:
            raise RaggedRTError(f"{len(errors)} kernels cannot be built: {'; '.join(errors)}")
        yield from (future.result() for future in futures)


def overruns(kernel: Kernel) -> Iterator[str]:
    """What `kernel` takes beyond what it may."""
    took, variant = kernel.resources, kernel.variant
    if took.spill_bytes:
        yield f"spills {took.spill_bytes} bytes of registers"
    elif took.stack_bytes:
        yield f"has {took.stack_bytes} bytes of local memory, which means an array that is not in registers"
    rows = -(-took.registers // 8) * 8  # registers are handed out by eights
    if rows * variant.threads * variant.min_blocks > REGISTERS:
        yield (
            f"{took.registers} registers x {variant.threads} threads x {variant.min_blocks} blocks exceed the "
            f"{REGISTERS} of a multiprocessor"
        )
    most = SHARED_BYTES.get(kernel.capability, min(SHARED_BYTES.values()))
    if took.static_shared_bytes + variant.shared_bytes > most:
        yield f"{took.static_shared_bytes + variant.shared_bytes} bytes of shared memory exceed {most}"


def _compile(variant: Variant, capability: int) -> Kernel:
    find_compiler()
    from cuda.core import Program, ProgramOptions

    options = ProgramOptions(
        name=variant.source,
        arch=f"sm_{capability}",
        std=STANDARD,
        include_path=str(NATIVE_FOLDER),
        define_macro=[("RAGGEDRT_ENTRY", variant.entry), *variant.macros.items()],
        device_as_default_execution_space=True,  # for the constexpr functions that host and device share
        ptxas_options=list(PTXAS_OPTIONS),
    )
    logs = io.StringIO()
    try:
        cubin = bytes(Program(read_unit(variant.source), "c++", options).compile("cubin", logs=logs).code)
    except Exception as error:  # cuda.core raises its own and plain RuntimeErrors
        lines = [line for line in str(error).splitlines() if "error" in line]
        raise RaggedRTError(
            f"kernel {variant.entry} does not compile for sm_{capability}: {'; '.join(lines[:3]) or error}"
        ) from error
    return Kernel(variant, capability, cubin, read_facts(logs.getvalue(), variant.entry))


def read_facts(log: str, entry: str) -> Resources:
    """What the assembler's log says about the kernel `entry`.

    Raises:
        RaggedRTError: it says nothing about it.
    """
    _, found, text = log.partition(f"Compiling entry function '{entry}'")
    text = text.partition("Compiling entry function")[0]
    values = {name: pattern.search(text) for name, pattern in _FACTS.items()}
    if not found or values["registers"] is None or values["spill_bytes"] is None:
        raise RaggedRTError(f"the assembler does not say what kernel {entry} takes; its log is: {log.strip()[:500]}")
    return Resources(**{name: int(match[1]) if match else 0 for name, match in values.items()})


def _cache_path(variant: Variant, capability: int) -> pathlib.Path:
    parts = (unit_digest(variant.source), variant.entry, sorted(variant.macros.items()), capability, STANDARD,
             PTXAS_OPTIONS, find_compiler())  # fmt: skip
    return cache_folder() / "kernels" / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:40]}.cubin"


def _read_cached(path: pathlib.Path, variant: Variant, capability: int) -> Kernel | None:
    try:
        content = path.read_bytes()
        magic, *numbers, digest = _HEADER.unpack_from(content)
    except (OSError, struct.error):
        return None
    cubin = content[_HEADER.size :]
    if magic != _MAGIC or hashlib.sha256(cubin).digest() != digest:
        return None  # written by half or damaged: compiled again
    return Kernel(variant, capability, cubin, Resources(*numbers))


def _write_cached(path: pathlib.Path, kernel: Kernel) -> None:
    header = _HEADER.pack(_MAGIC, *dataclasses.astuple(kernel.resources), hashlib.sha256(kernel.cubin).digest())
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".kernel-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(header + kernel.cubin)
        os.replace(name, path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise
