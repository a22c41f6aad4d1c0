"""Sources of the device kernels: what a translation unit reads, and digests of it."""

from __future__ import annotations

import functools
import hashlib
import pathlib
import re

NATIVE_FOLDER = pathlib.Path(__file__).resolve().parent.parent / "native"
"""Includes in device code are relative to it."""
KERNEL_FOLDER = "cuda/kernels"
_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
_HOST_ONLY = ("cuda/device/emulated.h",)


def read_unit(source: str) -> str:
    """The text of the translation unit `source` (relative to `KERNEL_FOLDER`)."""
    return _read(f"{KERNEL_FOLDER}/{source}")


def _read(name: str) -> str:
    return (NATIVE_FOLDER / name).read_text(encoding="utf-8")


@functools.lru_cache(maxsize=64)
def included_files(source: str) -> tuple[str, ...]:
    """`source` and every file of the project that it includes on a device, sorted, relative to `NATIVE_FOLDER`."""
    found: set[str] = set()
    waiting = [f"{KERNEL_FOLDER}/{source}"]
    while waiting:
        name = waiting.pop()
        if name in found or name in _HOST_ONLY:
            continue
        found.add(name)
        waiting += _INCLUDE.findall(_read(name))
    return tuple(sorted(found))


@functools.lru_cache(maxsize=64)
def unit_digest(source: str) -> str:
    """SHA-256 over `source` and what it includes."""
    digest = hashlib.sha256()
    for name in included_files(source):
        content = (NATIVE_FOLDER / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
