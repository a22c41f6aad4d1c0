"""`doctor`: facts about this machine, then what each target needs."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from raggedrt import progress
from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.contract.abi import ABI_VERSION
from raggedrt.plugins.runtime.cuda_device import cuda_state
from raggedrt.plugins.tensorrt.flavour import (
    FLAVOURS,
    Flavour,
    gpu_capabilities,
    installed_version,
    parse_capabilities,
    require_builder,
)
from raggedrt.targets import TARGETS
from raggedrt.version import __version__

PACKAGES = ("torch", "transformers", "tokenizers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu")
SIMD_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile")


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found: (fact, value) pairs, then (target, ready, what is missing) rows."""

    facts: tuple[tuple[str, str], ...]
    targets: tuple[tuple[str, str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """The same as a dictionary."""
        rows = [{"target": name, "ready": ready == "yes", "missing": missing} for name, ready, missing in self.targets]
        return {"facts": dict(self.facts), "targets": rows}


def version_line() -> str:
    """Toolchain version, op ABI and library digest in one line."""
    from raggedrt.plugins.runtime.library import library_info, op_library_path

    try:
        library = f"library {library_info(op_library_path()).digest[:16]}"
    except TargetError:
        library = "library not built (raggedrt doctor --build-ops)"
    return f"raggedrt {__version__}, op ABI {ABI_VERSION}, {library}"


def doctor(
    *,
    build_ops: bool = False,
    build_kernels: bool = False,
    build_plugins: bool = False,
    compute_capability: str | None = None,
) -> Diagnosis:
    """Look at this machine, after building what is wanted into the user's cache.

    Args:
        build_ops: build the op library.
        build_kernels: build packs of the CUDA kernels, which needs NVRTC but no GPU.
        build_plugins: build the TensorRT plugin library, which needs TensorRT's headers but no GPU.
        compute_capability: GPUs to build packs for, `"80,86,89"`; default the GPU present, else every usual one.

    Raises:
        TargetError: what is wanted cannot be built here; the message says what to install.
        InputError: compute capabilities that no GPU has.
    """
    if compute_capability is not None and not build_kernels:
        raise InputError("--compute-capability says what kernels are built for: use it with --build-kernels")
    if build_ops:
        _build_op_library()
    if build_kernels:
        _build_kernel_packs(compute_capability)
    if build_plugins:
        _build_plugin_library()
    facts = (
        ("RaggedRT", __version__),
        ("op ABI", str(ABI_VERSION)),
        ("Python", f"{platform.python_version()} ({sys.executable})"),
        ("system", f"{_system_name()}, {platform.machine()}, glibc {platform.libc_ver()[1] or 'unknown'}"),
        *_cpu_facts(),
        ("GPU driver", _gpu_driver()),
        *_cuda_facts(),
        ("C++ compiler", shutil.which("g++") or shutil.which("c++") or "none"),
        ("ONNX Runtime headers", _headers()),
        *((name, _package_version(name) or "not installed") for name in PACKAGES),
        ("op library", _library_state()),
        ("CUDA kernel packs", _packs_state()),
        ("TensorRT plugins", _plugins_state()),
        ("TensorRT of ONNX Runtime", _provider_state()),
        *((flavour.product, _builder_state(flavour)) for flavour in FLAVOURS.values()),
    )
    return Diagnosis(facts, tuple(_target_row(target.name) for target in TARGETS))


def machine_facts() -> dict[str, str]:
    """What a recorded measurement needs to say about where it was made."""
    versions = {name: _package_version(name) or "not installed" for name in ("onnxruntime", "torch")}
    return {"RaggedRT": __version__, **dict(_cpu_facts()), **versions, "op library": _library_state()}


def _build_op_library() -> None:
    from raggedrt.plugins.native.build import build_library, find_ort_headers, obtain_ort_headers, source_digest
    from raggedrt.plugins.native.cache import cache_folder, library_path
    from raggedrt.plugins.runtime.library import library_info, op_library_path

    with contextlib.suppress(TargetError):
        library_info(op_library_path())
        progress.step("the op library is up to date")
        return
    headers = find_ort_headers()
    if headers is None:
        progress.step("obtaining ONNX Runtime's headers")
        headers = obtain_ort_headers(cache_folder())
    progress.step("building the op library")
    build_library(library_path(source_digest()).parent, headers)


def _build_kernel_packs(compute_capability: str | None) -> None:
    from raggedrt.plugins.kernel_packs.lookup import build_pack, find_pack, parse_capabilities

    for capability in parse_capabilities(compute_capability, gpu_capabilities()):
        with contextlib.suppress(TargetError, InputError):
            if find_pack(capability).capability == capability:
                progress.step("the kernel pack for sm_%d is up to date", capability)
                continue
        progress.step("building the kernel pack for sm_%d", capability)
        build_pack(capability)


def _build_plugin_library() -> None:
    from raggedrt.plugins.native.plugin_registrar import build_registrar

    progress.step("building the TensorRT plugin library")
    build_registrar()


def _plugins_state() -> str:
    from raggedrt.plugins.native.plugin_library import find_tensorrt_headers, plugin_library_path

    if find_tensorrt_headers() is None:
        return "none; to build them set TENSORRT_ROOT to a TensorRT 10 or 11 SDK"
    try:
        path = plugin_library_path()
    except TargetError as error:
        return str(error)
    return str(path) if path.is_file() else "none (doctor --build-plugins builds them)"


def _provider_state() -> str:
    from raggedrt.plugins.tensorrt.libraries import load_tensorrt, provider_major

    major = provider_major()
    if major is None:
        return "no provider for it in this ONNX Runtime"
    try:
        return load_tensorrt(major)
    except TargetError as error:
        return str(error)


def _packs_state() -> str:
    from raggedrt.plugins.kernel_packs.lookup import available_packs

    packs = available_packs()
    if not packs:
        return "none (doctor --build-kernels builds them)"
    return "; ".join(f"sm_{pack.capability}: {pack.path} ({pack.toolchain})" for pack in packs)


def _target_row(name: str) -> tuple[str, str, str]:
    target = next(t for t in TARGETS if t.name == name)
    if not target.built:
        return name, "no", "this version of RaggedRT cannot build for it"
    if name in FLAVOURS:
        return name, *_engine_state(FLAVOURS[name])
    missing = [] if _package_version("onnxruntime") or _package_version("onnxruntime-gpu") else [target.needs]
    if missing:
        return name, "no", "; ".join(missing)
    notes = []
    if not (_package_version("torch") and _package_version("transformers")):
        notes.append("only ONNX sources: PyTorch sources need pip install 'raggedrt[hf]'")
    if not _library_state().startswith("/"):
        notes.append("runs slowly on function bodies: raggedrt doctor --build-ops builds the op library")
    if name == "ort-cuda":
        notes += _cuda_notes()
    if name == "ort-trt":
        notes += _tensorrt_notes()
    return name, "yes", "; ".join(notes)


def _cuda_facts() -> tuple[tuple[str, str], ...]:
    state = cuda_state()
    version = "none" if state.version is None else "CUDA {}.{}".format(*state.version)
    return (
        ("CUDA driver", f"{version} ({state.problem})" if state.problem else version),
        ("CUDA devices", ", ".join(map(str, state.devices)) or "none"),
    )


def _cuda_notes() -> list[str]:
    """What is missing to run bundles of target ort-cuda here; converting needs none of it."""
    from raggedrt.plugins.kernel_packs.compile import find_compiler
    from raggedrt.plugins.kernel_packs.lookup import available_packs, find_pack

    notes = []
    state = cuda_state()
    if state.problem is not None:
        notes.append(f"converts and verifies on the CPU, but does not run: {state.problem}")
    if _package_version("onnxruntime-gpu") is None:
        notes.append("to run: pip uninstall onnxruntime, pip install 'raggedrt[cuda]'")
    try:
        for device in state.devices:
            find_pack(device.capability)
        if not available_packs():
            notes.append(f"no kernel pack yet: doctor --build-kernels builds it (NVRTC {find_compiler()})")
    except (TargetError, InputError) as error:
        notes.append(str(error))
    return notes


def _tensorrt_notes() -> list[str]:
    """What is missing to run bundles of target ort-trt here; converting needs none of it."""
    from raggedrt.plugins.runtime.tensorrt_provider import lacking
    from raggedrt.plugins.tensorrt.libraries import PROVIDER_TENSORRT, find_plugins, provider_major

    notes: list[str] = []
    try:
        major = provider_major()
        missing = lacking(major=major, state=cuda_state())
        notes += [f"converts and verifies on the CPU, but does not run: {'; '.join(missing)}"] if missing else []
        find_plugins(major or PROVIDER_TENSORRT)
    except TargetError as error:
        notes.append(str(error))
    return notes


def _builder_state(flavour: Flavour) -> str:
    version = installed_version(flavour)
    if version is None:
        return "not installed"
    polygraphy = f"Polygraphy {_package_version('polygraphy')}"
    built_for = ", ".join(map(str, flavour.capabilities)) or "of the GPU present"
    return f"{version}, {polygraphy}, builds for compute capability {built_for}"


def _engine_state(flavour: Flavour) -> tuple[str, str]:
    """Whether engines can be built here, and what else is missing."""
    if flavour.plugins:
        missing = list(_missing_for_plugins(flavour))
        return "no" if missing else "yes", "; ".join(missing)
    if installed_version(flavour) is None:
        return "no", f"{flavour.product} and Polygraphy (pip install 'raggedrt[{flavour.extra}]')"
    notes = [f"has no {op} ({reason})" for op, reason in flavour.lacks.items()]
    runnable = set(gpu_capabilities()) & set(flavour.capabilities)
    if not runnable:
        known = ", ".join(map(str, flavour.capabilities))
        notes.insert(0, f"builds, but runs only where there is a GPU of compute capability {known}")
    return "yes", "; ".join(notes)


def _missing_for_plugins(flavour: Flavour) -> Iterator[str]:
    """What a product lacks here that builds on the GPU and calls our plugins while it does."""
    from raggedrt.plugins.tensorrt.engine_plugins import plugins_for, require_pack

    version = installed_version(flavour)
    try:
        plugins_for(require_builder(flavour))
    except TargetError as error:
        yield str(error).removeprefix(f"target {flavour.target}: ")
    if version is None and _plugins_state().startswith("none"):
        yield "the TensorRT plugins (raggedrt doctor --build-plugins)"
    try:
        require_pack(parse_capabilities(flavour, None)[0], ())
    except (TargetError, InputError) as error:
        yield str(error).removeprefix(f"target {flavour.target}: ")


def _library_state() -> str:
    from raggedrt.plugins.runtime.library import library_info, op_library_path

    try:
        path = op_library_path()
        info = library_info(path)
    except TargetError as error:
        return f"not usable: {error}"
    return (
        f"{path} (version {info.version}, ABI {info.abi}, digest {info.digest[:16]}, kernels for {', '.join(info.isa)})"
    )


def _headers() -> str:
    from raggedrt.plugins.native.build import find_ort_headers

    try:
        return str(find_ort_headers() or "not found (doctor --build-ops downloads them)")
    except TargetError as error:
        return str(error)


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_facts() -> tuple[tuple[str, str], ...]:
    text = _read("/proc/cpuinfo")
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    values = {name.strip(): value.strip() for name, value in fields.items()}
    flags = values.get("flags", "").split()
    memory = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines() if ":" in line)
    kilobytes = int(memory.get("MemTotal", "0 kB").split()[0])
    return (
        (
            "CPU",
            f"{values.get('model name') or platform.processor() or 'unknown'}, "
            f"{len(os.sched_getaffinity(0))} usable cores",
        ),
        ("SIMD", ", ".join(flag for flag in SIMD_FLAGS if flag in flags) or "none known"),
        ("memory", f"{kilobytes / 2**20:.1f} GiB"),
    )


def _gpu_driver() -> str:
    lines = _read("/proc/driver/nvidia/version").splitlines()
    return lines[0].partition(":")[2].strip() if lines else "none"


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
