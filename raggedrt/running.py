"""`run`: one inference from a bundle."""

from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from raggedrt.batches import pack_rows, pad_rows
from raggedrt.errors import InputError
from raggedrt.outputs import refuse_existing, refuse_input, staged
from raggedrt.plugins.bundle.reader import open_bundle
from raggedrt.tokenizing import read_texts, tokenize

if TYPE_CHECKING:
    from raggedrt.plugins.bundle.reader import Bundle


def run(
    bundle: str | os.PathLike[str],
    *,
    inputs: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    text: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    trust_bundle: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """One inference from a bundle.

    Args:
        bundle: bundle directory.
        inputs: arrays by input name, or an `.npz` file of them.
        text: instead of `inputs`, a file with one text per line for the bundle's tokenizer.
        output: `.npz` file to write the outputs to; with `text`, the fed mask or offsets are written with them.
        threads: threads of the session, default all cores.
        trust_bundle: load libraries that lie inside the bundle.
        force: replace an existing `output`.

    Returns:
        The outputs by name.

    Raises:
        InputError: an unusable bundle, file, input name, dtype, rank or length.
        TargetError: the bundle's target cannot be served on this machine.
    """
    from raggedrt.plugins.runtime.session import Session

    destination = None if output is None else pathlib.Path(output)
    if destination is not None:
        refuse_existing(destination, force=force)
        if isinstance(inputs, str | os.PathLike):
            refuse_input(destination, pathlib.Path(inputs))
    if (inputs is None) == (text is None):
        raise InputError("run: give either --inputs F.npz or --text FILE")
    opened = open_bundle(bundle)
    extra: dict[str, np.ndarray] = {}
    if text is not None:
        feeds, extra = text_feeds(opened, pathlib.Path(text))
    elif isinstance(inputs, Mapping):
        feeds = dict(inputs)
    else:
        feeds = load_npz(pathlib.Path(str(inputs)))
    outputs = Session(opened, threads=threads, trust_bundle=trust_bundle).run(feeds)
    if destination is not None:
        with staged(destination) as path, path.open("wb") as handle:
            save_npz(handle, {**outputs, **extra})
    return outputs


def text_feeds(bundle: Bundle, path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Feeds for the texts of a file, and what a reader of the outputs needs to find each text's rows."""
    rows = tokenize(bundle, read_texts(path))
    names = {record.name for record in bundle.manifest.inputs}
    ragged = bundle.manifest.io == "ragged"
    pads = {record.name: record.pad_value for record in bundle.manifest.inputs}
    feeds = pack_rows(rows) if ragged else pad_rows(rows, pads)
    key = "cu_seqlens" if ragged else "attention_mask"
    return {name: feeds[name] for name in feeds if name in names}, {key: feeds[key]}


def save_npz(handle: IO[bytes], arrays: Mapping[str, Any]) -> None:
    """Write an `.npz` file; unlike `numpy.savez`, an array may have any name, `file` for example."""
    with zipfile.ZipFile(handle, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def load_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file; pickled objects are refused.

    Raises:
        InputError: missing, no `.npz` file, or it holds Python objects.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path}: holds one array without a name; save inputs by name with numpy.savez")
        with archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected inputs saved with numpy.savez") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: not an .npz file of plain arrays ({error}); save inputs by name with numpy.savez, no objects"
        ) from error
