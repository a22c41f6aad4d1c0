"""Write docstrings of Python's standard library, one per line: real text of very different lengths.

Usage: python scripts/standard_library_texts.py OUT.txt [COUNT]
"""

from __future__ import annotations

import importlib
import inspect
import pathlib
import random
import sys

MODULES = (
    "argparse",
    "ast",
    "asyncio",
    "collections",
    "csv",
    "datetime",
    "decimal",
    "email.message",
    "functools",
    "http.client",
    "inspect",
    "itertools",
    "json",
    "logging",
    "os",
    "pathlib",
    "random",
    "re",
    "shutil",
    "socket",
    "sqlite3",
    "statistics",
    "subprocess",
    "tarfile",
    "threading",
    "unittest",
    "urllib.request",
    "zipfile",
)
SHORTEST = 20  # characters


def docstrings() -> list[str]:
    """Every distinct docstring of the modules' members and of their classes' members, each on one line."""
    found: dict[str, None] = {}
    for name in MODULES:
        for _, member in sorted(vars(importlib.import_module(name)).items()):
            inner = [value for _, value in sorted(vars(member).items())] if inspect.isclass(member) else []
            for item in (member, *inner):
                doc = getattr(item, "__doc__", None)
                if isinstance(doc, str) and len(doc) > SHORTEST:
                    found[" ".join(doc.split())] = None
    return list(found)


def main() -> None:
    """Shuffle with a fixed seed, so that neighbouring lines come from different modules."""
    texts = docstrings()
    random.Random(0).shuffle(texts)
    count = int(sys.argv[2]) if len(sys.argv) > 2 else len(texts)
    pathlib.Path(sys.argv[1]).write_text("\n".join(texts[:count]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
