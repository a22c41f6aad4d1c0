"""Object files in the user's cache, by everything that decides them: only what changed is compiled again.

Standard library only.
"""

from __future__ import annotations

import hashlib
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence

from raggedrt.plugins.native.cache import cache_folder

INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.MULTILINE)


def cached_object(
    source: pathlib.Path,
    command: Sequence[str],
    folders: Sequence[pathlib.Path],
    compile_to: Callable[[pathlib.Path], None],
) -> pathlib.Path:
    """The object file of `source`, from the cache or made now.

    Args:
        source: translation unit.
        command: the compiler and its flags, without names of passing folders.
        folders: where its headers are searched; those that are in none of them belong to the compiler.
        compile_to: compiles the source to a path.
    """
    digest = hashlib.sha256(repr(list(command)).encode())
    for path in _included(source, folders):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    target = cache_folder() / "objects" / f"{digest.hexdigest()[:40]}.o"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as scratch:
            made = pathlib.Path(scratch) / target.name
            compile_to(made)
            shutil.move(made, target)
    return target


def _included(source: pathlib.Path, folders: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The source and every file that it includes from the folders, in the order of reading."""
    seen: dict[pathlib.Path, None] = {}
    waiting = [source]
    while waiting:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen[path] = None
        for name in INCLUDE.findall(path.read_text(encoding="utf-8", errors="replace")):
            beside = (path.parent / name, *(folder / name for folder in folders))
            waiting += [found for found in beside if found.is_file()][:1]
    return list(seen)
