"""Where the op library is, and what it says about itself."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib.resources
import json
import os
import pathlib

from raggedrt.errors import TargetError
from raggedrt.plugins.contract.abi import Feature
from raggedrt.plugins.native.build import source_digest
from raggedrt.plugins.native.cache import LIBRARY_NAME, library_path


@dataclasses.dataclass(frozen=True)
class LibraryInfo:
    """What `raggedrt_library_info` of an op library reports."""

    version: str
    abi: int
    features: dict[str, Feature]
    """Feature bits served on a CPU, by op."""
    digest: str
    """SHA-256 of the sources it was built from."""
    isa: tuple[str, ...]
    """Instruction sets of this CPU that it has kernels for, best first."""
    cuda_features: dict[str, Feature] = dataclasses.field(default_factory=dict)
    """Feature bits served by the CUDA provider's kernels, by op."""

    @property
    def ops(self) -> tuple[str, ...]:
        """Names of the ops it serves."""
        return tuple(self.features)


def op_library_path() -> pathlib.Path:
    """The op library built from the sources of this installation: the package's own, else the user cache's.

    Raises:
        TargetError: there is none, or only one built from other sources.
    """
    digest = source_digest()
    packaged = packaged_library()
    outdated = None
    if packaged is not None:
        found = library_info(packaged).digest
        if found == digest:
            return packaged
        outdated = f"{packaged} was built from other sources (digest {found[:16]}, expected {digest[:16]}); "
    cached = library_path(digest)
    if cached.is_file():
        return cached
    raise TargetError(
        f"{outdated or ''}no op library was found for these sources in the package or in {cached.parent}; "
        "run `raggedrt doctor --build-ops` to build it, or use function bodies (native=False)"
    )


def packaged_library() -> pathlib.Path | None:
    """The library that a platform wheel brings along, of whatever sources."""
    path = pathlib.Path(str(importlib.resources.files("raggedrt.plugins"))) / "lib" / LIBRARY_NAME
    return path if path.is_file() else None


def library_info(path: str | os.PathLike[str]) -> LibraryInfo:
    """Load the library at `path` and ask what it is.

    Raises:
        TargetError: it cannot be loaded on this machine, or it is not an op library.
    """
    path = pathlib.Path(path)
    try:
        stat = path.stat()
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror}; run `raggedrt doctor --build-ops`") from error
    return _load_info(path, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(maxsize=8)
def _load_info(path: pathlib.Path, _modified: int, _inode: int) -> LibraryInfo:
    try:
        function = ctypes.CDLL(os.fspath(path)).raggedrt_library_info
    except (OSError, AttributeError) as error:
        raise TargetError(
            f"{path} is not an op library that this machine can load ({error}); run `raggedrt doctor --build-ops`"
        ) from error
    function.restype = ctypes.c_char_p
    facts = json.loads(function().decode())
    return LibraryInfo(
        version=facts["version"],
        abi=facts["abi"],
        features={op: Feature(bits) for op, bits in facts["features"].items()},
        cuda_features={op: Feature(bits) for op, bits in facts.get("cuda_features", {}).items()},
        digest=facts["digest"],
        isa=tuple(facts["isa"]),
    )
