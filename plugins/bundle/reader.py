"""Open a bundle: nothing in it is used before its manifest, paths, hashes and external data have been checked."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from raggedrt.errors import InputError
from raggedrt.plugins.bundle.ep_context import check_context_files, ep_contexts
from raggedrt.plugins.bundle.manifest import (
    ENGINE_FOLDER,
    LIBRARY_FOLDER,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    REPORT_NAME,
    FileRecord,
    Manifest,
    parse_manifest,
)
from raggedrt.plugins.bundle.model_facts import ModelFacts, check_external_data, load_proto, model_facts
from raggedrt.plugins.bundle.paths import regular_file

if TYPE_CHECKING:
    from raggedrt.plugins.runtime.session import Session

LARGE_WEIGHTS_BYTES = 10**9
"""Weights above this are checked by size alone unless `verify=True`."""
MAX_ENTRIES = 100_000
LIBRARY_SUFFIXES = frozenset({".so", ".dll", ".dylib"})
CODE_SUFFIXES = LIBRARY_SUFFIXES | {".pyd", ".plan", ".engine", ".cubin", ".fatbin", ".ptx"}


class Bundle:
    """A checked bundle directory. Made by `open_bundle` or the writer.

    Attributes:
        path: the bundle's directory, absolute.
        manifest: its checked manifest.
        facts: our nodes and the external data of its model.
        verified: whether every byte was hashed, large weights included.
    """

    def __init__(self, path: pathlib.Path, manifest: Manifest, facts: ModelFacts, *, verified: bool) -> None:
        self.path = path
        self.manifest = manifest
        self.facts = facts
        self.verified = verified

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}, target={self.manifest.target!r}, io={self.manifest.io!r})"

    @property
    def model_path(self) -> pathlib.Path:
        """The ONNX file."""
        return self.path / self.manifest.model

    @property
    def tokenizer_path(self) -> pathlib.Path | None:
        """The tokenizer's folder, None if the source had none."""
        return self.path / self.manifest.tokenizer if self.manifest.tokenizer else None

    @property
    def libraries(self) -> tuple[pathlib.Path, ...]:
        """Op libraries inside the bundle. They are code: load one only if the caller trusts the bundle."""
        names = [name for name in self.manifest.files if name.startswith(f"{LIBRARY_FOLDER}/")]
        return tuple(self.path / name for name in names if _has_suffix(name, LIBRARY_SUFFIXES))

    @functools.cached_property
    def report(self) -> dict[str, Any]:
        """The content of `report.json`.

        Raises:
            InputError: the bundle has no report, or it is no JSON object.
        """
        if REPORT_NAME not in self.manifest.files:
            raise InputError(f"{self.path} has no {REPORT_NAME}; convert the model again.")
        try:
            report = json.loads((self.path / REPORT_NAME).read_bytes())
        except (OSError, ValueError, RecursionError):
            report = None
        if not isinstance(report, dict):
            raise InputError(f"{self.path / REPORT_NAME} is no JSON object; convert the model again.")
        return report

    def session(self, **options: Any) -> Session:
        """A `Session` over this bundle; `options` are those of `Session`."""
        # The session is built on bundles; only this shortcut looks the other way.
        from raggedrt.plugins.runtime.session import Session

        return Session(self, **options)


def open_bundle(path: str | os.PathLike[str], verify: bool = False) -> Bundle:
    """Check a bundle and return it. Loads no code and no weights.

    Args:
        path: the directory that `convert` wrote.
        verify: hash weights above 1 GB too, not only compare their size.

    Raises:
        InputError: no bundle, a link or a path that leaves it, a file that is missing, changed or (libraries, engines,
            tokenizer files) not listed in the manifest, an unknown manifest version, an invalid model.
    """
    root = pathlib.Path(os.path.abspath(path))
    if not root.is_dir() or not (root / MANIFEST_NAME).exists():
        raise InputError(
            f"{path} is no bundle: expected a directory with {MANIFEST_NAME}, as `raggedrt convert` writes."
        )
    # The caller may reach the bundle through a link; inside it there are none.
    root = root.resolve()
    size = regular_file(root, MANIFEST_NAME, "the bundle").st_size
    if size > MAX_MANIFEST_BYTES:
        raise InputError(f"{root / MANIFEST_NAME} has {size} bytes, more than any manifest ({MAX_MANIFEST_BYTES}).")
    manifest = parse_manifest(_read(root / MANIFEST_NAME), str(root / MANIFEST_NAME))
    if manifest.model not in manifest.files:
        raise InputError(f"the manifest of {root} does not list its model {manifest.model!r}; convert the model again.")
    _check_unlisted(root, manifest)
    for name, record in manifest.files.items():
        _check_size(root, name, record)
    # Before anything parses it, the model is what the manifest says; only its size can defer that.
    trusted_by_size = set() if verify else {n for n, r in manifest.files.items() if r.size > LARGE_WEIGHTS_BYTES}
    _check_hashes(root, manifest, [n for n in manifest.files if n not in trusted_by_size or n == manifest.model])
    facts = model_facts(load_proto(root / manifest.model))
    model_folder = (root / manifest.model).parent
    check_external_data(facts, model_folder, str(root / manifest.model))
    weights = {(model_folder / name).relative_to(root).as_posix() for name in facts.external_files}
    if manifest.plugin_model is not None:
        _check_plugin_model(root, manifest, weights)
    if manifest.ep_context is not None:
        _check_context(root, manifest, manifest.ep_context.file)
    if unlisted := weights - manifest.files.keys():
        raise InputError(f"{root / manifest.model} reads {min(unlisted)!r}, which the manifest does not list.")
    _check_hashes(root, manifest, sorted(trusted_by_size - weights - {manifest.model}))
    return Bundle(root, manifest, facts, verified=verify or not trusted_by_size & weights)


def _check_plugin_model(root: pathlib.Path, manifest: Manifest, weights: set[str]) -> None:
    """The second form of the model is listed, and reads no other weights than the first."""
    place = root / str(manifest.plugin_model)
    if manifest.plugin_model not in manifest.files:
        raise InputError(f"the manifest of {root} does not list {manifest.plugin_model!r}; convert the model again.")
    facts = model_facts(load_proto(place))
    check_external_data(facts, place.parent, str(place))
    read = {(place.parent / name).relative_to(root).as_posix() for name in facts.external_files}
    if others := read - weights:
        raise InputError(f"{place} reads {min(others)!r}, and the model itself does not; convert the model again.")


def _check_context(root: pathlib.Path, manifest: Manifest, name: str) -> None:
    """The compiled model, and every file that it names, lie in the bundle and are listed."""
    if name not in manifest.files:
        raise InputError(f"the manifest of {root} does not list {name!r}; build it again.")
    place = root / name
    model = load_proto(place)
    facts = model_facts(model)
    check_external_data(facts, place.parent, str(place))
    contexts = ep_contexts(model)
    if not contexts:
        raise InputError(f"{place} has nothing that was compiled (no EPContext node); build it again.")
    read = {*check_context_files(contexts, place.parent, str(place)), *facts.external_files}
    listed = {(place.parent / file).relative_to(root).as_posix() for file in read}
    if unlisted := listed - manifest.files.keys():
        raise InputError(f"{place} reads {min(unlisted)!r}, which the manifest does not list; build it again.")


def _check_size(root: pathlib.Path, name: str, record: FileRecord) -> None:
    size = regular_file(root, name, f"the manifest of {root}").st_size
    if size != record.size:
        raise InputError(
            f"{root / name} has {size} bytes, and the manifest says {record.size}: the bundle was changed or copied "
            "in part; copy it or convert the model again."
        )


def _check_hashes(root: pathlib.Path, manifest: Manifest, names: list[str]) -> None:
    for name in names:
        try:
            with (root / name).open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"{root / name} cannot be read ({os.strerror(error.errno or 0)}).") from None
        if digest != manifest.files[name].sha256:
            raise InputError(
                f"{root / name} was changed after the bundle was written (its SHA-256 differs from the manifest's); "
                "copy the bundle or convert the model again."
            )


def _check_unlisted(root: pathlib.Path, manifest: Manifest) -> None:
    """Refuse links anywhere, and files that somebody might load though nobody vouches for them."""
    guarded = {LIBRARY_FOLDER, ENGINE_FOLDER, *((manifest.tokenizer,) if manifest.tokenizer else ())}
    for entry in _entries(root):
        name = pathlib.Path(entry.path).relative_to(root).as_posix()
        if entry.is_symlink():
            raise InputError(f"{entry.path} is a link, and a bundle has none; copy the file it points to.")
        if entry.is_dir(follow_symlinks=False) or name in manifest.files:
            continue
        if _has_suffix(name, CODE_SUFFIXES) or any(name.startswith(f"{folder}/") for folder in guarded):
            raise InputError(
                f"{entry.path} is not listed in the bundle's manifest; remove it or convert the model again."
            )


def _entries(folder: pathlib.Path) -> Iterator[os.DirEntry[str]]:
    pending, count = [os.fspath(folder)], 0
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError as error:
            raise InputError(f"{error.filename} cannot be read ({os.strerror(error.errno or 0)}).") from None
        count += len(entries)
        if count > MAX_ENTRIES:
            raise InputError(f"{folder} has more than {MAX_ENTRIES} files, so it is no bundle.")
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)


def _has_suffix(name: str, suffixes: frozenset[str]) -> bool:
    # `libx.so.1.2` counts too.
    return not suffixes.isdisjoint(pathlib.PurePosixPath(name.lower()).suffixes)


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({os.strerror(error.errno or 0)}).") from None
