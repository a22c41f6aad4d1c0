"""Data flows one way: which package may import which, read from the syntax trees."""

from __future__ import annotations

import ast
import fnmatch
from pathlib import Path

import pytest

from helpers.project import FOLDERS, ROOT, module_name, python_files

pytestmark = pytest.mark.none

EVERYONE = ("raggedrt.errors",)
# Package (longest prefix wins) -> modules of ours that it may import, besides itself and EVERYONE.
MAY_IMPORT = {
    "raggedrt": ("raggedrt", "raggedrt.*"),
    "raggedrt.errors": (),
    "raggedrt.models": (),
    "raggedrt.export": ("raggedrt.models.contract",),
    "raggedrt.graph_passes": (
        "raggedrt.export.widen",
        "raggedrt.plugins.contract.*",
        "raggedrt.plugins.layout.*",
        "raggedrt.plugins.ops.*.definition",
        "raggedrt.plugins.registry",
        "raggedrt.plugins.node",
        "raggedrt.plugins.bodies",
    ),
    "raggedrt.plugins": ("raggedrt.plugins.*",),
    "raggedrt.plugins.contract": (),
}
DEFINITIONS_MAY_IMPORT = ("raggedrt.plugins.contract.*",)
STANDARD_LIBRARY_ONLY = (
    "raggedrt.errors",
    "raggedrt.plugins.contract.*",
    "raggedrt.plugins.native.*",
    "raggedrt.plugins.ops.*.definition",
)


def imported_modules(source: str) -> list[tuple[int, str]]:
    """Line and absolute name of every import in `source`; `from a import b` counts as `a.b`."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.lineno, f"{'.' * node.level}{node.module or ''}.{alias.name}") for alias in node.names]
    return found


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether `name`, or the module that holds it, matches a pattern."""
    return any(fnmatch.fnmatch(candidate, p) for candidate in (name, name.rpartition(".")[0]) for p in patterns)


def allowed(importer: str, imported: str) -> bool:
    """Whether the module `importer` may import `imported`, a name below raggedrt."""
    owner = max((prefix for prefix in MAY_IMPORT if f"{importer}.".startswith(f"{prefix}.")), key=len)
    if importer.endswith(".definition"):
        return _matches(imported, (*DEFINITIONS_MAY_IMPORT, *EVERYONE))
    own = () if owner == "raggedrt" else (owner, f"{owner}.*")
    return _matches(imported, (*own, *MAY_IMPORT[owner], *EVERYONE))


def violations(path: Path) -> list[str]:
    importer = module_name(path)
    found = []
    for line, name in imported_modules((ROOT / path).read_text()):
        top = name.split(".")[0]
        if (top in FOLDERS and top != "raggedrt") or name.startswith("."):
            found.append(f"{path}:{line}: {name} (import it absolutely, from below raggedrt)")
        elif top == "raggedrt" and not allowed(importer, name):
            found.append(f"{path}:{line}: {importer} must not import {name}")
    return found


def test_imports_follow_the_direction_of_the_data() -> None:
    offenders = [line for path in python_files() for line in violations(path)]
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize(
    ("importer", "imported", "expected"),
    [
        ("raggedrt.api", "raggedrt.graph_passes.pipeline.rewrite", True),
        ("raggedrt.models.adapters.bert", "raggedrt.models.contract.ModelSource", True),
        ("raggedrt.models.adapters.bert", "raggedrt.export.dynamo", False),
        ("raggedrt.export.verify", "raggedrt.models.contract.ModelSource", True),
        ("raggedrt.export.verify", "raggedrt.models.resolve.resolve", False),
        ("raggedrt.graph_passes.lowering", "raggedrt.plugins.ops.pack_tokens.definition.OP", True),
        ("raggedrt.graph_passes.lowering", "raggedrt.plugins.runtime.session", False),
        ("raggedrt.graph_passes.lowering", "raggedrt.plugins.ops.pack_tokens.body.build", False),
        ("raggedrt.plugins.runtime.ort", "raggedrt.plugins.native.build", True),
        ("raggedrt.plugins.runtime.ort", "raggedrt.graph_passes.report", False),
        ("raggedrt.plugins.contract.abi", "raggedrt.plugins.registry.OPS", False),
        ("raggedrt.plugins.ops.pack_tokens.definition", "raggedrt.plugins.node.make_node", False),
        ("raggedrt.models.resolve", "raggedrt.errors.InputError", True),
    ],
)
def test_the_rule_itself(importer: str, imported: str, expected: bool) -> None:
    assert allowed(importer, imported) is expected


def test_light_modules_import_the_standard_library_only() -> None:
    """The wheel build, and tools that only read definitions, have nothing else."""
    import sys

    offenders = [
        f"{path}:{line}: {name}"
        for path in python_files()
        if _matches(module_name(path), STANDARD_LIBRARY_ONLY) and path.name != "wheel_hook.py"
        for line, name in imported_modules((ROOT / path).read_text())
        if name.split(".")[0] not in {*sys.stdlib_module_names, "raggedrt"}
    ]
    assert not offenders, "\n".join(offenders)
