"""Check a platform wheel: op library inside, tag no older than its glibc, nothing linked that systems may lack.

Usage: python scripts/check_wheel.py WHEEL README
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

from raggedrt.plugins.native.wheel_hook import LIBRARY_FOLDER, glibc_floor

LOADERS = {"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
ALWAYS_THERE = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "libgcc_s.so.1", *LOADERS}


def linked_libraries(library: pathlib.Path) -> set[str]:
    """Names of the shared libraries that `library` asks the loader for."""
    done = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True)
    return set(re.findall(r"\(NEEDED\)[^\[]*\[([^\]]+)\]", done.stdout))


def problems(wheel: pathlib.Path, readme: str) -> list[str]:
    """What is wrong with the wheel, or with what the README says about it."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as scratch:
        names = [n for n in archive.namelist() if n.startswith(f"{LIBRARY_FOLDER}/") and n.endswith(".so")]
        if len(names) != 1:
            return [
                f"{wheel.name} has {len(names)} op libraries instead of one: was it built with compiler and headers?"
            ]
        library = pathlib.Path(archive.extract(names[0], scratch))
        floor = glibc_floor(library) or (0, 0)
        extra = linked_libraries(library) - ALWAYS_THERE
        typed = "raggedrt/py.typed" in archive.namelist()
    print(f"{names[0]}: glibc {floor[0]}.{floor[1]} or newer")
    found = [f"the op library links {', '.join(sorted(extra))}, which a system may lack"] if extra else []
    found += [] if typed else ["raggedrt/py.typed is missing"]
    if f"manylinux_{floor[0]}_{floor[1]}_" not in wheel.name:
        found.append(f"{wheel.name}: the tag is not that of glibc {floor[0]}.{floor[1]}")
    if f"glibc {floor[0]}.{floor[1]}" not in readme:
        found.append(f"the README does not name glibc {floor[0]}.{floor[1]} as the wheel's floor")
    return found


def main() -> int:
    """Print the problems; 1 when there are any."""
    found = problems(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_text(encoding="utf-8"))
    for problem in found:
        print(f"check_wheel: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
