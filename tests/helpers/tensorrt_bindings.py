"""TensorRT's own Python bindings over libraries that only write down what they are asked: for calls, never for results.

Packages such as `tensorrt-cu13-bindings` have the bindings and none of TensorRT's libraries. Classes that record every
call are made of the declarations in TensorRT's headers, which have to be of the bindings' version.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import pathlib
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from raggedrt.errors import TargetError
from raggedrt.plugins.native.cache import cache_folder
from raggedrt.plugins.native.compiler import find_compiler, made_once
from raggedrt.plugins.native.plugin_library import tensorrt_headers, tensorrt_version

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "plugins" / "native" / "tensorrt"
SOURCE = FOLDER / "recorders.cc"
CLASSES = ("VBuilder", "VBuilderConfig", "VNetworkDefinition", "VOptimizationProfile", "VTensor", "VTimingCache")
PARSER = "IParser"
GENERATED = "recorders.gen.h"
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
DISTRIBUTIONS = ("tensorrt-cu13-bindings", "tensorrt-cu12-bindings")
_DECLARED = re.compile(
    r"virtual\s+(?P<type>[^;()]+?[\s&*])(?P<name>\w+)\((?P<arguments>[^;]*?)\)(?P<rest>[^;{]*)=\s*0;", re.S
)


def unusable() -> str | None:
    """Why bindings cannot be driven here; None: they can."""
    try:
        headers, _ = tensorrt_headers()
    except TargetError as error:
        return str(error)
    if not (headers / "NvOnnxParser.h").is_file():
        return f"{headers} has no header of the ONNX parser"
    found = next(iter(_versions()), None)
    if found is None:
        return f"none of {', '.join(DISTRIBUTIONS)} is installed"
    if importlib.util.find_spec("tensorrt_libs") is not None:
        return "TensorRT itself is here"
    wanted = ".".join(map(str, tensorrt_version(headers)))
    return None if found.startswith(f"{wanted}.") else f"the headers are of TensorRT {wanted}, the bindings {found}"


def _versions() -> Iterator[str]:
    for name in DISTRIBUTIONS:
        with contextlib.suppress(PackageNotFoundError):
            yield version(name)


def recording_libraries() -> pathlib.Path:
    """A folder with libraries of TensorRT's names."""
    headers, cuda = tensorrt_headers()
    major = tensorrt_version(headers)[0]
    generated = recorders(headers)
    digest = hashlib.sha256(generated.encode() + SOURCE.read_bytes() + str(headers).encode()).hexdigest()[:32]
    folder = cache_folder() / "tests" / f"tensorrt-recorders-{digest}"

    def build(scratch: pathlib.Path, name: str) -> None:
        (scratch / GENERATED).write_text(generated, encoding="utf-8")
        flags = [
            "-std=c++17",
            "-O1",
            "-fPIC",
            "-shared",
            "-w",  # deprecated names are implemented too
            f"-I{scratch}",
            "-isystem",
            str(headers),
            "-isystem",
            str(cuda),
        ]
        soname = f"lib{name}.so.{major}"
        sources = [str(SOURCE)] if name == "nvinfer" else ["-xc++", "/dev/null"]
        command = [find_compiler(), *flags, f"-Wl,-soname,{soname}", *sources, "-ldl", "-o", str(scratch / soname)]
        subprocess.run(command, check=True, timeout=600)

    for name in LIBRARIES:
        made_once(folder / f"lib{name}.so.{major}", lambda scratch, name=name: build(scratch, name))
    return folder


def recorders(headers: pathlib.Path) -> str:
    """Classes that implement each interface of `CLASSES` and the parser's, and record every call."""
    text = (headers / "NvInferImpl.h").read_text()
    parts = [_recorder(text, name, "nvinfer1::apiv::") for name in CLASSES]
    parts.append(_recorder((headers / "NvOnnxParser.h").read_text(), PARSER, "nvonnxparser::"))
    return "\n".join(["#pragma once", *parts])


def _recorder(text: str, name: str, scope: str) -> str:
    match = re.search(rf"^class {name}\b[^;{{]*\{{(.*?)^\}};", text, re.S | re.M)
    assert match is not None, name
    body = re.sub(r"//[^\n]*", "", match[1]).replace("TRT_DEPRECATED ", "")
    methods = []
    for found in _DECLARED.finditer(body):
        result, rest = found["type"].strip(), found["rest"].replace("= 0", "")
        given = "" if result == "void" else " return {};" if not result.endswith("&") else " return none();"
        if result.endswith("&"):
            given = f" static void* nothing = nullptr; return *reinterpret_cast<{result[:-1]}*>(nothing);"
        arguments = " ".join(found["arguments"].split())
        methods.append(
            f"  {result} {found['name']}({arguments}) {' '.join(rest.split())} override "
            f'{{ record("{name}.{found["name"]}");{given} }}'
        )
    return f"class {name}Recorder : public {scope}{name} {{\n public:\n" + "\n".join(methods) + "\n};\n"


def flag(name: str) -> int:
    """The number of a builder's or a network's flag in the headers."""
    headers, _ = tensorrt_headers()
    found = re.search(rf"\bk{name}\b[^=,\n]*= (\d+)", (headers / "NvInfer.h").read_text())
    assert found is not None, name
    return int(found[1])
