"""The table of kernel variants agrees with the kernels' own constants."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest

from helpers.cuda_setup import EMULATED_VARIANTS
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.kernel_packs.sources import NATIVE_FOLDER, included_files, unit_digest
from raggedrt.plugins.kernel_packs.variants import CAPABILITIES, CODE_CAPABILITY, SHARED_BYTES, VARIANTS, Variant
from raggedrt.plugins.native import emulated
from raggedrt.plugins.native.compiler import find_compiler

KERNELS = NATIVE_FOLDER / "cuda" / "kernels"
NAME_BYTES = 128
"""Of an entry in a pack."""


@pytest.mark.none
def test_entries_are_unique_c_names() -> None:
    entries = [variant.entry for variant in VARIANTS]
    assert len(set(entries)) == len(entries)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", entry) and len(entry) < NAME_BYTES for entry in entries)


@pytest.mark.none
def test_every_kernel_source_has_a_variant() -> None:
    assert {path.name for path in KERNELS.glob("*.cu")} == {variant.source for variant in VARIANTS}


@pytest.mark.none
def test_the_launcher_knows_every_family() -> None:
    """The other way round, a family without variants shows as an error of the first launch in the emulator."""
    text = "".join(path.read_text() for path in (NATIVE_FOLDER / "cuda" / "launch").glob("*.cc"))
    assert not [variant.family for variant in VARIANTS if f'"{variant.family}"' not in text]


@pytest.mark.none
def test_shared_memory_fits_every_architecture() -> None:
    least = min(SHARED_BYTES[capability] for capability in CAPABILITIES)
    assert not [variant.entry for variant in VARIANTS if variant.shared_bytes > least]


@pytest.mark.none
def test_code_of_another_capability_is_older_and_of_the_same_major_version() -> None:
    assert all(code < of and code // 10 == of // 10 for of, code in CODE_CAPABILITY.items())


@pytest.mark.none
def test_a_unit_is_what_it_includes_on_a_device() -> None:
    files = included_files("attention.cu")
    assert {"cuda/kernels/attention.cu", "cuda/device/ptx.h", "cuda/kernels/params.h"} <= set(files)
    assert "cuda/device/emulated.h" not in files
    assert unit_digest("attention.cu") != unit_digest("row_attention.cu")


def _constants(variant: Variant) -> list[str]:
    """Assertions about the constants of the variant's own headers."""
    if variant.family == "attention":
        space = "raggedrt::device"
        return [f"{space}::kSharedBytes == {variant.shared_bytes}", f"{space}::kThreads == {variant.threads}",
                f"{space}::kRows == {variant.query_rows}"]  # fmt: skip
    if variant.family == "row_attention":
        shared = f"raggedrt::cuda::row_shared_bytes({variant.head_size})"
        return [f"{shared} == {variant.shared_bytes}", f"raggedrt::cuda::kRowThreads == {variant.threads}"]
    if variant.family == "work_list":
        space = "raggedrt::cuda"
        return [f"{space}::kWorkSharedBytes == {variant.shared_bytes}", f"{space}::kWorkThreads == {variant.threads}"]
    return []


CHECKED = [
    variant
    for variant in VARIANTS
    if _constants(variant) and variant.element in (None, ElementType.FLOAT16)  # sizes do not depend on the type
]


@pytest.mark.emulated
def test_sizes_are_those_of_the_kernels(tmp_path: Path) -> None:
    wrong = []
    for variant in CHECKED:
        header = "attention_config.cuh" if variant.family == "attention" else "data_params.h"
        lines = [f'#include "cuda/kernels/{header}"', *(f"static_assert({text});" for text in _constants(variant))]
        unit = tmp_path / "unit.cc"
        unit.write_text("\n".join(lines) + "\n", encoding="utf-8")
        macros = [f"-D{name}={value}" for name, value in variant.macros.items()]
        flags = ["-std=c++17", "-DRAGGEDRT_EMULATE", f"-DRAGGEDRT_ENTRY={variant.entry}", f"-I{NATIVE_FOLDER}"]
        command = [find_compiler(), *flags, *macros, "-fsyntax-only", str(unit)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wrong += [line for line in done.stderr.splitlines() if "error" in line]
    assert not wrong, "\n".join(wrong)


class _EmulatedKernel(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("call", ctypes.c_void_p),
        ("param_bytes", ctypes.c_uint32),
        ("max_threads", ctypes.c_uint32),
    )


@pytest.mark.emulated
def test_blocks_are_as_large_as_kernels_allow() -> None:
    library = ctypes.CDLL(str(emulated.build(EMULATED_VARIANTS)))
    found = {
        variant.entry: _EmulatedKernel.in_dll(library, f"{variant.entry}_emulated").max_threads
        for variant in EMULATED_VARIANTS
    }
    assert found == {variant.entry: variant.threads for variant in EMULATED_VARIANTS}
