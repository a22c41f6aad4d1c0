"""The library that registers the plugins when ONNX Runtime's TensorRT provider opens it, and nothing else does.

Needs TensorRT's headers, not TensorRT: a registry of this folder stands under its name, in a process of its own.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from raggedrt.errors import TargetError
from raggedrt.plugins.native.compiler import find_compiler
from raggedrt.plugins.native.plugin_library import tensorrt_headers, tensorrt_version
from raggedrt.plugins.native.plugin_registrar import build_registrar
from raggedrt.plugins.tensorrt.form import LSE_PLUGINS

pytestmark = pytest.mark.tensorrt
FOLDER = pathlib.Path(__file__).parent
PROGRAM = """
import ctypes, sys
def text(library, name):
    function = getattr(library, name)
    function.restype = ctypes.c_char_p
    return function().decode()
registrar, *tensorrt = sys.argv[1:]
first = ctypes.CDLL(tensorrt[0]) if tensorrt else None
library = ctypes.CDLL(registrar)
print(text(first, "registered") if first else "")
print("--")
print(text(library, "raggedrt_register_plugins"))
print("--")
print(text(first, "registered") if first else "")
"""


@pytest.fixture(scope="module")
def registrar() -> pathlib.Path:
    try:
        tensorrt_headers()
    except TargetError as error:
        pytest.skip(str(error))
    return build_registrar()


@pytest.fixture(scope="module")
def tensorrt(registrar: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A library with TensorRT's name and a registry."""
    headers, cuda = tensorrt_headers()
    name = f"libnvinfer.so.{tensorrt_version(headers)[0]}"
    library = tmp_path_factory.mktemp("tensorrt") / name
    includes = ["-isystem", str(headers), "-isystem", str(cuda)]
    flags = ["-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", f"-Wl,-soname,{name}"]
    subprocess.run(
        [find_compiler(), *flags, *includes, str(FOLDER / "registry.cc"), "-o", str(library)], check=True, timeout=300
    )
    return library


def loaded(*libraries: pathlib.Path) -> list[str]:
    """Creators after loading, what registering again says, creators after that."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, libraries)], capture_output=True, text=True, check=True, timeout=60
    )
    return [part.strip() for part in done.stdout.split("--\n")]


def test_opening_it_registers_every_creator_once(registrar: pathlib.Path, tensorrt: pathlib.Path) -> None:
    after, problem, again = loaded(registrar, tensorrt)
    names = after.splitlines()
    wanted = {"PackingPlan", "PackTokens", "UnpackTokens", *LSE_PLUGINS, *LSE_PLUGINS.values()}
    assert {f"raggedrt.{name}.1" for name in wanted} <= set(names)
    assert len(names) == len(set(names))
    assert problem == ""
    assert again == after


def test_without_tensorrt_in_the_process_it_says_so(registrar: pathlib.Path) -> None:
    after, problem, again = loaded(registrar)
    assert after == again == ""
    assert "libnvinfer.so." in problem
    assert "is not loaded in this process" in problem


def test_without_the_plugins_beside_it_it_names_them(
    registrar: pathlib.Path, tensorrt: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    alone = tmp_path / registrar.name
    alone.write_bytes(registrar.read_bytes())
    _, problem, again = loaded(alone, tensorrt)
    assert str(tmp_path / "libraggedrt_trt.so") in problem
    assert again == ""
