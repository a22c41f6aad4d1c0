"""Engines and timings that ONNX Runtime's TensorRT provider keeps, and whether it built one again without saying so."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Mapping

from raggedrt.errors import RaggedRTError
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.native.cache import cache_folder

LOGGER = logging.getLogger("raggedrt")
ENGINES = "*.engine"
FOLDER_NAME = "tensorrt-engines"


def engine_cache(bundle: Bundle, graph: str, facts: Mapping[str, str]) -> EngineCache:
    """The cache for `graph`, a file of the bundle, with these facts about whatever else decides an engine.

    It lies in the user's cache folder: engines are code, and a bundle may come from anybody.

    Raises:
        RaggedRTError: the folder cannot be made.
    """
    files = {name: record.sha256 for name, record in bundle.manifest.files.items() if _decides(name, graph, bundle)}
    text = json.dumps([files, sorted(facts.items())], sort_keys=True)
    folder = cache_folder() / FOLDER_NAME / hashlib.sha256(text.encode()).hexdigest()[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RaggedRTError(
            f"{folder}, where engines are kept, cannot be made ({os.strerror(error.errno or 0)}); set XDG_CACHE_HOME "
            "to a folder that can be written"
        ) from error
    return EngineCache(folder)


def _decides(name: str, graph: str, bundle: Bundle) -> bool:
    return name == graph or pathlib.PurePosixPath(name).name in bundle.facts.external_files


class EngineCache:
    """One folder of engines for one graph on one machine.

    Attributes:
        folder: its place.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._engines = self._present()
        self._changed = self._time()

    def announce(self, where: str) -> None:
        """Say before a session is made that an engine will be built, where none is there."""
        if not self._engines:
            LOGGER.warning(
                "%s: building a TensorRT engine, which may take minutes; it is kept in %s", where, self.folder
            )

    def opened(self, where: str) -> None:
        """Look after a session was made: where engines were there, none should have been built."""
        had = bool(self._engines)
        if self._grown() and had:
            self._warn(where)

    def look(self, where: str) -> None:
        """Look after a call, which should build none; costs one system call where none was."""
        if self._grown():
            self._warn(where)

    def _warn(self, where: str) -> None:
        LOGGER.warning(
            "%s: the engines in %s did not serve, so ONNX Runtime built one again; another driver, TensorRT or ONNX "
            "Runtime may be the reason. Remove that folder if it happens each time",
            where,
            self.folder,
        )

    def _grown(self) -> bool:
        changed = self._time()
        if changed == self._changed:
            return False
        before, self._engines = self._engines, self._present()
        self._changed = changed
        return self._engines != before

    def _present(self) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in self.folder.glob(ENGINES)}

    def _time(self) -> int:
        return self.folder.stat().st_mtime_ns
