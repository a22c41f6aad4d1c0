"""Facts about the source tree that several tests of the project itself read."""

from __future__ import annotations

import tomllib
from pathlib import Path

from raggedrt.errors import TargetError
from raggedrt.plugins.native.compiler import find_compiler

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"raggedrt": "raggedrt", "models": "raggedrt.models", "export": "raggedrt.export",
           "graph_passes": "raggedrt.graph_passes", "plugins": "raggedrt.plugins"}  # fmt: skip


def pyproject() -> dict[str, dict[str, dict[str, list[str]]]]:
    """The parsed pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def python_files() -> list[Path]:
    """Every Python file of the packages, relative to the root."""
    return sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """Import name of a file of the packages: plugins/node.py is raggedrt.plugins.node."""
    parts = path.with_suffix("").parts
    return ".".join([FOLDERS[parts[0]], *parts[1:]]).removesuffix(".__init__")


def compiler() -> str | None:
    """Path of a C++ compiler, or None."""
    try:
        return find_compiler()
    except TargetError:
        return None
