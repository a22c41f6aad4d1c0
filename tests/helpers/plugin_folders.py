"""Folders with plugin libraries that say something of themselves and hold no plugins: for what looks for them."""

from __future__ import annotations

import json
import pathlib
import subprocess

import pytest

from helpers.project import compiler
from raggedrt.plugins.contract.abi import ABI_VERSION
from raggedrt.plugins.native.plugin_library import PLUGIN_LIBRARY_NAME
from raggedrt.plugins.native.plugin_registrar import REGISTRAR_NAME

CREATORS = dict.fromkeys(("PackingPlan", "PackTokens", "UnpackTokens", "RaggedAttention"), 2**32 - 1)
"""Plugins that the libraries claim to have."""


def plugins_in(
    folder: pathlib.Path, *, abi: int = ABI_VERSION, tensorrt: str = "10.9", creators: dict[str, int] = CREATORS
) -> pathlib.Path:
    """Libraries that say so of themselves."""
    program = compiler()
    if program is None:
        pytest.skip("no C++ compiler")
    folder.mkdir(parents=True, exist_ok=True)
    info = json.dumps(json.dumps({"version": "0.1.0", "abi": abi, "tensorrt": tensorrt, "creators": creators}))
    (folder / "a.cc").write_text(f'extern "C" const char* raggedrt_tensorrt_info() {{ return {info}; }}\n')
    (folder / "b.cc").write_text('extern "C" const char* raggedrt_register_plugins() { return "no registry"; }\n')
    for source, name in (("a.cc", PLUGIN_LIBRARY_NAME), ("b.cc", REGISTRAR_NAME)):
        subprocess.run([program, "-shared", "-fPIC", source, "-o", name], cwd=folder, check=True)
    return folder
