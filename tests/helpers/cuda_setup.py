"""Drivers, packs and launchers for tests: emulated with a part of the variants, or the machine's own."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable
from pathlib import Path

from helpers.cuda_driver import REAL_DRIVER, Driver, EmulatedDriver
from helpers.cuda_launcher import Launcher
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.kernel_packs.compile import Kernel, Resources
from raggedrt.plugins.kernel_packs.pack_file import write_pack
from raggedrt.plugins.kernel_packs.variants import VARIANTS, Variant
from raggedrt.plugins.native import emulated

EMULATED_CAPABILITY = 80
PLAUSIBLE = Resources(registers=128, stack_bytes=0, spill_bytes=0, static_shared_bytes=0)


def _is_emulated(variant: Variant) -> bool:
    """Whether tests compile it for the emulator; every kernel of attention would take minutes."""
    if variant.family == "row_attention":
        return variant.head_size == 32
    if variant.family == "attention":
        return variant.head_size == 32 and variant.element is ElementType.FLOAT16
    return True


EMULATED_VARIANTS = tuple(variant for variant in VARIANTS if _is_emulated(variant))


def emulated_pack(folder: Path, capability: int, variants: Iterable[Variant] = EMULATED_VARIANTS) -> Path:
    """A pack whose machine code is a name, which the emulated driver looks up among its kernels."""
    kernels = [
        Kernel(variant, capability, b"RRTEMULATED " + variant.entry.encode() + b"\0", PLAUSIBLE) for variant in variants
    ]
    return write_pack(folder, capability, kernels, "emulated")


@functools.cache
def emulated_driver() -> EmulatedDriver:
    """The emulated driver of this process."""
    return EmulatedDriver(emulated.build_runtime(), emulated.build(EMULATED_VARIANTS))


@functools.cache
def emulated_launcher() -> Launcher:
    """A launcher on the emulated driver."""
    emulated_driver()
    folder = _folder("emulated")
    emulated_pack(folder, EMULATED_CAPABILITY)
    return Launcher(folder, emulated.build_runtime(), folder)


@functools.cache
def device_driver() -> Driver:
    """The machine's own driver."""
    return Driver(REAL_DRIVER)


@functools.cache
def device_launcher() -> Launcher:
    """A launcher on the machine's device, with packs from where users have theirs."""
    device_driver()
    folder = _folder("device")
    return Launcher(folder, REAL_DRIVER, folder)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def _folder(name: str) -> Path:
    made = tempfile.TemporaryDirectory(prefix=f"raggedrt-{name}-")
    _KEPT.append(made)  # removed at the end of the process
    return Path(made.name)
