"""Kernel packs: one file per compute capability with the machine code of every variant and what chooses among them.

The layout is that of `plugins/native/cuda/launch/pack.h`, which reads it; integers are little-endian.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import struct
import tempfile
import zlib
from collections.abc import Sequence

from raggedrt.errors import InputError
from raggedrt.plugins.kernel_packs.compile import Kernel
from raggedrt.plugins.kernel_packs.digest import FORMAT, kernels_digest
from raggedrt.plugins.kernel_packs.variants import Variant

MAGIC = b"RRTPACK\x01"
_HEADER = struct.Struct("<8s4IQ64s64s32s64x")
_VARIANT = struct.Struct("<128s32s16i3Q8x")
_ALIGNMENT = 256
"""Of machine code in the file."""


@dataclasses.dataclass(frozen=True)
class PackedKernel:
    """One row of a pack's index, with its machine code."""

    entry: str
    family: str
    threads: int
    registers: int
    shared_bytes: int
    """Dynamic and static together."""
    cubin: bytes


@dataclasses.dataclass(frozen=True)
class Pack:
    """What a pack file says."""

    path: pathlib.Path
    capability: int
    digest: str
    """Of the kernels it was made from."""
    toolchain: str
    kernels: tuple[PackedKernel, ...]


def pack_name(capability: int) -> str:
    """File name of the pack for `capability` (10 * major + minor)."""
    return f"raggedrt_sm{capability}.pack"


def write_pack(folder: pathlib.Path, capability: int, kernels: Sequence[Kernel], toolchain: str) -> pathlib.Path:
    """Write the pack of `kernels`; it appears under its name only when it is complete.

    Args:
        folder: created if missing.
        capability: 10 * major + minor.
        kernels: one per variant.
        toolchain: what compiled them, for people.
    """
    start = _HEADER.size + _VARIANT.size * len(kernels)
    rows, code = [], bytearray()
    for kernel in kernels:
        code += bytes(-(start + len(code)) % _ALIGNMENT)
        rows.append(_row(kernel, start + len(code)))
        code += kernel.cubin
    body = b"".join(rows) + bytes(code)
    header = _HEADER.pack(
        MAGIC, FORMAT, capability, len(kernels), _VARIANT.size, _HEADER.size + len(body),
        kernels_digest().encode(), toolchain.encode()[:63], hashlib.sha256(body).digest(),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / pack_name(capability)
    descriptor, name = tempfile.mkstemp(prefix=".pack-", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(header + body)
        pathlib.Path(name).chmod(0o644)
        os.replace(name, path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise
    return path


def _row(kernel: Kernel, offset: int) -> bytes:
    variant, took = kernel.variant, kernel.resources
    return _VARIANT.pack(
        variant.entry.encode(), variant.family.encode(), *_integers(variant), took.registers, took.static_shared_bytes,
        0, 0, offset, len(kernel.cubin), zlib.crc32(kernel.cubin),
    )  # fmt: skip


def _integers(variant: Variant) -> tuple[int, ...]:
    elements = (variant.element, variant.source_element)
    return (
        *(element.value if element else 0 for element in elements),
        variant.vector_bytes,
        variant.head_size,
        variant.mask_class,
        variant.score_class,
        variant.query_rows,
        variant.key_tile,
        variant.stages,
        variant.threads,
        variant.shared_bytes,
        variant.min_blocks,
    )


def read_pack(path: pathlib.Path) -> Pack:
    """Read the pack at `path` and verify its hash.

    Raises:
        InputError: it is no kernel pack, or was damaged.
    """
    try:
        content = path.read_bytes()
        magic, form, capability, count, size, length, digest, toolchain, hashed = _HEADER.unpack_from(content)
    except (OSError, struct.error) as error:
        raise InputError(f"{path} cannot be read as a kernel pack ({error}); {_REMEDY}") from error
    body = content[_HEADER.size :]
    if magic != MAGIC or form != FORMAT or size != _VARIANT.size:
        raise InputError(f"{path} is no kernel pack of format {FORMAT}; {_REMEDY}")
    if length != len(content) or hashlib.sha256(body).digest() != hashed:
        raise InputError(f"{path} was damaged: its hash is not the one it was written with; {_REMEDY}")
    kernels = tuple(_unpack(content, _VARIANT.unpack_from(body, _VARIANT.size * i)) for i in range(count))
    return Pack(path, capability, digest.decode(), _text(toolchain), kernels)


_REMEDY = "build it again with `raggedrt doctor --build-kernels`"


def _unpack(content: bytes, row: tuple[bytes | int, ...]) -> PackedKernel:
    entry, family, *numbers = row
    assert isinstance(entry, bytes)
    assert isinstance(family, bytes)
    values = [int(number) for number in numbers]
    threads, dynamic, _, registers, static = values[9:14]
    offset, size = values[16:18]
    return PackedKernel(
        _text(entry), _text(family), threads, registers, dynamic + static, content[offset : offset + size]
    )


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode()
