"""Outputs appear whole or not at all: they are written in a hidden folder beside their place, then renamed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from raggedrt.errors import InputError


def refuse_existing(output: pathlib.Path, *, force: bool) -> None:
    """Check, before any work, that the file `output` may be written.

    Raises:
        InputError: it exists and `force` is false, or it is a directory, or its parent is not one.
    """
    if output.is_dir():
        raise InputError(f"{output}: is a directory; name the file to write")
    if output.exists() and not force:
        raise InputError(f"{output}: exists already; name another output or pass --force to replace it")
    if not nearest_directory(output).is_dir():
        raise InputError(f"{output}: {nearest_directory(output)} is not a directory")


def refuse_input(output: pathlib.Path, *inputs: pathlib.Path) -> None:
    """Check that `output` is none of the files that are read, nor a file of a directory that is read.

    Raises:
        InputError: it is.
    """
    place = output.resolve()
    for path in (path.resolve() for path in inputs):
        if place == path or (path in place.parents and place.exists()):
            raise InputError(f"{output}: is an input of this command and would be overwritten; name another output")


def refuse_collisions(*outputs: pathlib.Path) -> None:
    """Check that no output is another one, or lies inside one that is a directory.

    Raises:
        InputError: one would overwrite or change the other.
    """
    for one, other in itertools.permutations(outputs, 2):
        if one.resolve() == other.resolve() or other.resolve() in one.resolve().parents:
            raise InputError(f"{one}: would change {other}, which this command writes too; name another file")


def nearest_directory(output: pathlib.Path) -> pathlib.Path:
    """The nearest existing ancestor of `output`, which is on the file system that will hold it."""
    return next(parent for parent in output.absolute().parents if parent.exists())


@contextlib.contextmanager
def workspace(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """A hidden folder on the file system of `output`, removed at the end whatever happens."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".tmp", dir=nearest_directory(output)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def staged(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields where to write what shall become the file `output`; files written beside it move along, before it."""
    with workspace(output) as folder:
        written = folder / output.name
        yield written
        output.parent.mkdir(parents=True, exist_ok=True)
        for companion in sorted(folder.iterdir()):
            if companion != written:
                os.replace(companion, output.parent / companion.name)
        os.replace(written, output)


def write_json(output: pathlib.Path, data: Any) -> None:
    """Write `data` to `output` as indented JSON, whole or not at all."""
    with staged(output) as path:
        path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
