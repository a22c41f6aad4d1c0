"""The op library as it was built from the present sources."""

from __future__ import annotations

import pathlib

import pytest


@pytest.fixture(scope="session")
def library(op_library: pathlib.Path) -> pathlib.Path:
    """A shorter name for the tests of this folder."""
    return op_library
