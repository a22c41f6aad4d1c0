"""Kernels that TensorRT for RTX compiled on this machine, kept from one process to the next.

Its engines are compiled for the GPU when they are first used, which takes seconds. The cache lies in the user's own
folder, never in a bundle: it is code. TensorRT itself refuses one of another version, GPU or driver.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import tempfile
from typing import Any

from raggedrt.plugins.native.cache import cache_folder

LOGGER = logging.getLogger("raggedrt")
FOLDER_NAME = "tensorrt-rtx-runtime"


def cache_path(engine_sha256: str, capability: int) -> pathlib.Path:
    """Where the kernels of an engine are kept."""
    return cache_folder() / FOLDER_NAME / f"{engine_sha256[:32]}-sm{capability}.bin"


class RuntimeCache:
    """The compiled kernels of one engine; a file that cannot be read or written costs time and nothing else.

    Args:
        path: the file.
        cache: TensorRT's cache object, empty.
    """

    def __init__(self, path: pathlib.Path, cache: Any) -> None:
        self._path, self._cache = path, cache
        self._saved = b""
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            if cache.deserialize(content):
                self._saved = content
            else:
                LOGGER.debug("%s is of another TensorRT, GPU or driver; it is made again", path)

    def save(self) -> None:
        """Write what was compiled since; whole or not at all."""
        content = bytes(self._cache.serialize())
        if not content or content == self._saved:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f".{self._path.name}-", dir=self._path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                os.replace(temporary, self._path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            LOGGER.debug("%s cannot be written (%s)", self._path, error)
            return
        self._saved = content


def with_runtime_cache(engine: Any, path: pathlib.Path | None) -> tuple[Any, RuntimeCache | None]:
    """An execution context of an engine, and its cache where the product has such.

    Args:
        engine: a deserialised engine.
        path: file of the cache; None: none.
    """
    config = engine.create_runtime_config() if path is not None and hasattr(engine, "create_runtime_config") else None
    if path is None or config is None or not hasattr(config, "create_runtime_cache"):
        return engine.create_execution_context(), None
    cache = RuntimeCache(path, made := config.create_runtime_cache())
    config.set_runtime_cache(made)
    return engine.create_execution_context(config), cache
