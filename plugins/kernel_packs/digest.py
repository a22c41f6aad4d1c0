"""The digest that ties a kernel pack to the launcher that reads it. Standard library only: the wheel build asks it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

from raggedrt.plugins.kernel_packs.sources import unit_digest
from raggedrt.plugins.kernel_packs.variants import VARIANTS

FORMAT = 1
"""Of pack files."""


@functools.lru_cache(maxsize=1)
def kernels_digest() -> str:
    """SHA-256 over everything that decides what kernels do and how they are chosen and called.

    The launcher is compiled with it (`RAGGEDRT_KERNEL_DIGEST`) and refuses packs of another one.
    """
    digest = hashlib.sha256(f"{FORMAT}".encode())
    for variant in VARIANTS:
        digest.update(repr((dataclasses.astuple(variant), variant.macros, unit_digest(variant.source))).encode())
    return digest.hexdigest()
