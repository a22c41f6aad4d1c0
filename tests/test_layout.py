"""The shape of the tree: what is packaged, how long files may be, what native code may include."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.project import FOLDERS, ROOT, module_name, pyproject, python_files

pytestmark = pytest.mark.none

MOST_LINES = {".py": 400, ".sh": 150, ".h": 600, ".cuh": 600, ".cc": 600, ".cu": 600}
MOST_FUNCTION_LINES = 50
NATIVE_SOURCES = (".h", ".cc", ".cu", ".cuh")
NATIVE = ROOT / "plugins" / "native"
ADAPTERS = ("ort", "tensorrt")
INCLUDE = re.compile(r"^\s*#\s*include\s*[<\"]([^>\"]+)", re.MULTILINE)
RUNTIME_HEADER = re.compile(r"onnxruntime|NvInfer|torch/")
KERNEL_BODY = re.compile(r"simd/|\.cuh$|\.cc$|\.cu$")


def test_every_package_folder_is_listed() -> None:
    """A folder that is not listed is missing from the wheel, and found only in a checkout."""
    listed = sorted(pyproject()["tool"]["setuptools"]["packages"])
    folders = sorted(module_name(path) for path in python_files() if path.name == "__init__.py")
    assert listed == folders


def test_every_python_file_is_in_a_package() -> None:
    missing = sorted({str(path.parent) for path in python_files() if not (ROOT / path.parent / "__init__.py").exists()})
    assert not missing, f"folders without __init__.py: {missing}"


def test_native_sources_are_packaged() -> None:
    """An installed package can build its op library: every native source matches a package-data pattern."""
    data = pyproject()["tool"]["setuptools"]["package-data"]
    kept = {
        path
        for package, patterns in data.items()
        for folder in _folders(package)
        for pattern in patterns
        for path in folder.glob(pattern)
    }
    sources = {
        path for folder in FOLDERS for end in ("h", "cc", "cu", "cuh") for path in (ROOT / folder).rglob(f"*.{end}")
    }
    assert not sources - kept, f"not packaged: {sorted(str(path) for path in sources - kept)}"


def _folders(package: str) -> list[Path]:
    names = [name for name in pyproject()["tool"]["setuptools"]["packages"] if package in ("*", name)]
    return [ROOT / _folder(name) for name in names]


def _folder(package: str) -> str:
    top = next(
        (folder for folder, name in FOLDERS.items() if name != "raggedrt" and f"{package}.".startswith(f"{name}.")),
        None,
    )
    if top is None:
        return package.replace(".", "/")
    return package.removeprefix("raggedrt.").replace(".", "/")


def _tracked(*patterns: str) -> list[Path]:
    done = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [Path(line) for line in done.stdout.splitlines() if (ROOT / line).exists()]


def test_files_are_short() -> None:
    long = [
        f"{path}: {lines} lines, at most {MOST_LINES[path.suffix]}"
        for path in _tracked(*(f"*{end}" for end in MOST_LINES))
        if (lines := (ROOT / path).read_text().count("\n")) > MOST_LINES[path.suffix]
    ]
    assert not long, "\n".join(long)


def test_functions_are_short() -> None:
    offenders = []
    for path in python_files():
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                if lines > MOST_FUNCTION_LINES:
                    offenders.append(
                        f"{path}:{node.lineno}: {node.name} has {lines} lines of code, at most {MOST_FUNCTION_LINES}"
                    )
    assert not offenders, "\n".join(offenders)


def _native_includes() -> list[tuple[Path, str]]:
    """Every native file below plugins/native with each header it includes."""
    sources = [path for path in NATIVE.rglob("*") if path.suffix in NATIVE_SOURCES]
    return [(path.relative_to(NATIVE), header) for path in sources for header in INCLUDE.findall(path.read_text())]


def test_kernels_see_no_runtime_header() -> None:
    """Only an adapter's folder knows its runtime; kernels take plain pointers and structs."""
    offenders = [f"{p}: {h}" for p, h in _native_includes() if RUNTIME_HEADER.search(h) and p.parts[0] not in ADAPTERS]
    assert not offenders, "\n".join(offenders)


def test_adapters_include_no_kernel_body() -> None:
    offenders = [f"{p}: {h}" for p, h in _native_includes() if KERNEL_BODY.search(h) and p.parts[0] in ADAPTERS]
    assert not offenders, "\n".join(offenders)


def test_packages_load_under_one_name() -> None:
    """Importing the whole front door never loads a folder a second time under its bare name."""
    bare = [folder for folder in FOLDERS if folder != "raggedrt"]
    code = (
        f"import raggedrt, raggedrt.plugins.registry, sys; sys.exit(str([n for n in {bare} if n in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) in ((0, ""), (1, "")), done.stderr


def test_typed() -> None:
    assert (ROOT / "raggedrt" / "py.typed").exists()
