"""The user cache: downloaded headers and op libraries built on this machine.

The same folder as `platformdirs.user_cache_path("raggedrt")` on Linux, without the import: this module also runs
inside the wheel build.
"""

from __future__ import annotations

import os
import pathlib


def cache_folder() -> pathlib.Path:
    """`$XDG_CACHE_HOME/raggedrt`, by default `~/.cache/raggedrt`; not created here."""
    named = os.environ.get("XDG_CACHE_HOME", "").strip()
    base = pathlib.Path(named) if named else pathlib.Path.home() / ".cache"
    return base / "raggedrt"


def library_path(digest: str) -> pathlib.Path:
    """Where the op library built from sources with this digest lies in the cache."""
    return cache_folder() / "op-library" / digest[:32] / LIBRARY_NAME


LIBRARY_NAME = "libraggedrt_ops.so"
