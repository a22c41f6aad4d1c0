"""The op library as it was built from the present sources."""

from __future__ import annotations

import pathlib

import pytest

from helpers.project import compiler
from raggedrt.errors import TargetError
from raggedrt.plugins.native.build import build_in_cache
from raggedrt.plugins.runtime.library import op_library_path


@pytest.fixture(scope="session")
def library() -> pathlib.Path:
    """The library, built now where it is missing and this machine has a compiler and headers."""
    try:
        return op_library_path()
    except TargetError as error:
        if compiler() is None:
            pytest.skip(str(error))
        try:
            return build_in_cache(obtain=False)
        except TargetError as no_headers:
            pytest.skip(str(no_headers))
