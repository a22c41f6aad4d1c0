"""Compiles the library that registers the TensorRT plugins when ONNX Runtime opens it.

Standard library only. It lies beside the plugin library, which it opens, and needs the same headers.
"""

from __future__ import annotations

import pathlib

from raggedrt.plugins.native.build import SOURCE_FOLDER
from raggedrt.plugins.native.compiler import find_compiler, made_once, run_compiler
from raggedrt.plugins.native.objects import Unit, compile_unit, exports_flag
from raggedrt.plugins.native.plugin_library import FLAGS, LINK_FLAGS, build_plugin_library, header_flags

REGISTRAR_NAME = "libraggedrt_trt_ort.so"
SOURCE = "tensorrt/ort/register.cc"
EXPORTS = ("raggedrt_register_plugins",)
WHAT = "the registration of plugins with the headers of TensorRT"


def build_registrar() -> pathlib.Path:
    """The registering library in the folder of the plugin library, both from the user's cache or compiled now.

    Raises:
        TargetError: no headers or compiler, or the compiler refuses a source.
    """
    registrar = build_plugin_library().with_name(REGISTRAR_NAME)
    flags = (*FLAGS, *header_flags())

    def build(folder: pathlib.Path) -> None:
        compiled = compile_unit(Unit(SOURCE), flags, {}, (SOURCE_FOLDER,), WHAT)
        command = [find_compiler(), "-o", str(folder / REGISTRAR_NAME), compiled, *LINK_FLAGS]
        run_compiler([*command, exports_flag(folder, EXPORTS)], WHAT)

    return made_once(registrar, build)
