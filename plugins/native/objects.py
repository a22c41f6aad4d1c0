"""Object files in the user's cache, by everything that decides them: only what changed is compiled again.

Standard library only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence

from raggedrt.plugins.native.cache import cache_folder
from raggedrt.plugins.native.compiler import find_compiler, made_once, run_compiler, with_includes

EXPORTS_NAME = "exports.map"


@dataclasses.dataclass(frozen=True)
class Unit:
    """One compiler call: `source`, relative to the folder of sources, with flags of its own."""

    source: str
    flags: tuple[str, ...] = ()


def compile_unit(
    unit: Unit, flags: Sequence[str], facts: Mapping[str, str], folders: Sequence[pathlib.Path], what: str
) -> str:
    """The object file of a unit, from the cache or made now.

    Args:
        unit: its source is found in the first of the folders.
        flags: of every unit.
        facts: texts about this build, by macro. A unit has those that its source names (headers never name any), so
            that the others' objects do not change with them.
        folders: where its headers are searched; those that are in none of them belong to the compiler.
        what: is compiled, for the message.

    Raises:
        TargetError: no compiler, or it refuses the source.
    """
    source = folders[0] / unit.source
    text = source.read_text(encoding="utf-8")
    named = [f'-D{name}="{value}"' for name, value in facts.items() if name in text]
    command = [find_compiler(), *flags, *named, *unit.flags]
    digest = hashlib.sha256(repr(command).encode())
    for path in with_includes([source], folders):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    target = cache_folder() / "objects" / f"{digest.hexdigest()[:40]}.o"

    def compile_into(folder: pathlib.Path) -> None:
        searched = [f"-I{path}" for path in folders]
        run_compiler([*command, *searched, "-c", str(source), "-o", str(folder / target.name)], what)

    return str(made_once(target, compile_into))


def exports_flag(folder: pathlib.Path, names: Sequence[str]) -> str:
    """The linker's flag by which a library shows these functions only; their list is written into `folder`."""
    script = folder / EXPORTS_NAME
    script.write_text(f"{{ global: {' '.join(f'{name};' for name in names)} local: *; }};\n", encoding="utf-8")
    return f"-Wl,--version-script={script}"
