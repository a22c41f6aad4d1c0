"""The machine's C++ compiler, and files made with it that appear under their name only when they are complete.

Standard library only: the wheel build uses it too.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence

from raggedrt.errors import TargetError

COMPILERS = ("c++", "g++", "clang++")
TIMEOUT_SECONDS = 900
INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.MULTILINE)


def find_compiler() -> str:
    """The C++ compiler: $CXX, else the first of c++, g++, clang++.

    Raises:
        TargetError: there is none.
    """
    named = os.environ.get("CXX")
    for name in (named,) if named else COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    raise TargetError(
        f"no C++ compiler found ({named or ', '.join(COMPILERS)}); install one (on Debian and Ubuntu: apt install g++) "
        "or set CXX to one that supports C++17"
    )


def run_compiler(command: Sequence[str], what: str) -> None:
    """Run a compiler or linker; `what` names in the message what it was given.

    Raises:
        TargetError: it refuses that.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    if done.returncode == 0:
        return
    errors = [line for line in done.stderr.splitlines() if "error" in line or "undefined" in line]
    shown = "; ".join(errors[:3]) or done.stderr.strip()[-500:]
    raise TargetError(
        f"the C++ compiler refuses {what}: {shown}. It needs C++17 (GCC 9 or Clang 9 and later); set CXX to another "
        f"compiler, or report this with the command: {' '.join(command)}"
    )


def make_file(target: pathlib.Path, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """The file `target`, which `make` writes under that name into the folder that it is given.

    Concurrent makers do not disturb each other: a finished file is moved to its place in one step.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as scratch:
        make(pathlib.Path(scratch))
        (pathlib.Path(scratch) / target.name).replace(target)
    return target


def made_once(target: pathlib.Path, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """The file `target`, made as by `make_file` where it is missing."""
    return target if target.is_file() else make_file(target, make)


def with_includes(sources: Iterable[pathlib.Path], folders: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The sources and every file of the folders that they include, in the order of reading.

    Headers that are in none of the folders belong to the compiler.
    """
    seen: dict[pathlib.Path, None] = {}
    waiting = list(sources)
    while waiting:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen[path] = None
        for name in INCLUDE.findall(path.read_text(encoding="utf-8", errors="replace")):
            beside = (path.parent / name, *(folder / name for folder in folders))
            waiting += [found for found in beside if found.is_file()][:1]
    return list(seen)
