"""Where kernel packs are, and building them. The launcher searches the same places (cuda/launch/pack.cc)."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import pathlib
import re
from collections.abc import Sequence

from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.kernel_packs.compile import compile_all, find_compiler
from raggedrt.plugins.kernel_packs.digest import kernels_digest
from raggedrt.plugins.kernel_packs.pack_file import Pack, pack_name, read_pack, write_pack
from raggedrt.plugins.kernel_packs.variants import CAPABILITIES, VARIANTS
from raggedrt.plugins.native.cache import cache_folder

FOLDERS_VARIABLE = "RAGGEDRT_KERNEL_PACKS"


def pack_cache() -> pathlib.Path:
    """The folder of the user's cache for packs of the present kernels."""
    return cache_folder() / "kernel-packs" / kernels_digest()[:32]


def pack_folders() -> tuple[pathlib.Path, ...]:
    """Where packs are searched, in order: what the environment names, the package, the user's cache."""
    named = [pathlib.Path(name) for name in os.environ.get(FOLDERS_VARIABLE, "").split(":") if name]
    packaged = pathlib.Path(str(importlib.resources.files("raggedrt.plugins"))) / "lib"
    return (*named, packaged, pack_cache())


def serving(capability: int) -> tuple[int, ...]:
    """Capabilities whose packs a device runs, best first: its own and older ones of the same major version."""
    return tuple(range(capability, capability // 10 * 10 - 1, -1))


def find_pack(capability: int) -> Pack:
    """The pack that a device of this compute capability (10 * major + minor) would use, its hash verified.

    Raises:
        TargetError: there is none for the present kernels; the message says how to get one.
        InputError: the one that is there was damaged.
    """
    outdated = ""
    for candidate in serving(capability):
        for folder in pack_folders():
            path = folder / pack_name(candidate)
            if not path.is_file():
                continue
            pack = read_pack(path)
            if pack.digest == kernels_digest():
                return pack
            outdated = f"; {path} was made from other kernels"
    searched = ", ".join(str(folder) for folder in pack_folders())
    raise TargetError(
        f"there is no kernel pack for compute capability {capability // 10}.{capability % 10} "
        f"({pack_name(capability)} in {searched}{outdated}); run `raggedrt doctor --build-kernels --compute-capability "
        f"{capability}`, or put the pack into a folder named by {FOLDERS_VARIABLE}"
    )


def available_packs() -> tuple[Pack, ...]:
    """Every pack for the present kernels that can be found, one per capability."""
    found = {}
    for capability in CAPABILITIES:
        with contextlib.suppress(TargetError, InputError):
            pack = find_pack(capability)
            found[pack.capability] = pack
    return tuple(found.values())


def parse_capabilities(text: str | None, present: Sequence[int] = ()) -> tuple[int, ...]:
    """Compute capabilities from `80,86,8.9`; None: those `present`, else all that are usually built.

    Raises:
        InputError: not of that form, or older than 8.0.
    """
    if text is None:
        return tuple(present) or CAPABILITIES
    found = []
    for part in text.split(","):
        if not re.fullmatch(r"\d{2,3}|\d{1,2}\.\d", part.strip()):
            raise InputError(f"--compute-capability {text}: expected numbers such as 89 or 8.9, joined by commas")
        number = int(part.strip().replace(".", ""))
        if number < min(CAPABILITIES):
            raise InputError(f"--compute-capability {part.strip()}: the kernels need 8.0 (Ampere) or later")
        found.append(number)
    return tuple(dict.fromkeys(found))


def build_pack(capability: int, folder: pathlib.Path | None = None, *, workers: int = 0) -> pathlib.Path:
    """Compile every variant for one compute capability into a pack.

    Args:
        capability: 10 * major + minor.
        folder: where the pack is put; the user's cache when None.
        workers: processes; 0 is one per usable core.

    Raises:
        TargetError: NVRTC is not installed.
        RaggedRTError: a kernel does not compile, or takes more registers or memory than it may.
    """
    toolchain = f"NVRTC {find_compiler()}"
    kernels = list(compile_all(VARIANTS, (capability,), workers))
    return write_pack(folder or pack_cache(), capability, kernels, toolchain)
