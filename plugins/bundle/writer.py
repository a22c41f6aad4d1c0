"""Write a bundle: under a temporary name beside its place, renamed when whole, removed on any failure."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pathlib
import secrets
import shutil
import types
from collections.abc import Callable, Mapping

from raggedrt.errors import InputError, RaggedRTError
from raggedrt.plugins.bundle.manifest import (
    MANIFEST_NAME,
    FileRecord,
    ManifestDraft,
    draft_to_manifest,
    dump_manifest,
)
from raggedrt.plugins.bundle.paths import check_relative_path
from raggedrt.plugins.bundle.reader import Bundle, open_bundle

Content = bytes | os.PathLike[str] | Callable[[pathlib.Path], object]
"""Bytes, a file or folder to copy, or a function that writes to the path it is given."""

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class BundleWriter:
    """A directory that becomes a bundle, or vanishes.

    ```python
    with BundleWriter("out", force=False) as writer:      # refuses an existing output before any work is done
        onnx_ir.save(model, writer.directory / "model.onnx", external_data="model.onnx.data")
        ...                                               # verify what stands there; raise to leave nothing behind
        bundle = writer.finish(draft)                     # hash every file, write the manifest, rename, check
    ```
    Leaving the block without `finish`, by any exception too (an interrupt included), removes the directory.

    Args:
        output: the bundle's place. Missing parent folders are made, and removed again on failure.
        force: replace an existing bundle (or empty directory); anything else that exists is never removed.

    Raises:
        InputError: on entry, if `output` exists and may not be replaced, or its folder cannot be written.
        RaggedRTError: on exit, if the disk was full.
    """

    def __init__(self, output: str | os.PathLike[str], *, force: bool = False) -> None:
        self.output = pathlib.Path(os.path.abspath(output))
        if not self.output.name:
            raise InputError(f"{self.output} cannot become a bundle; choose another output directory.")
        self.force = force
        self.directory = self.output.with_name(f".{self.output.name}.partial-{secrets.token_hex(4)}")
        self._made_parents: list[pathlib.Path] = []
        self._finished = False

    def __enter__(self) -> BundleWriter:
        self._check_replaceable()
        try:
            for parent in [p for p in reversed(self.output.parents) if not p.exists()]:
                parent.mkdir(exist_ok=True)
                self._made_parents.insert(0, parent)
            self.directory.mkdir()
        except OSError as error:
            self._remove()
            if error.errno in FULL_DISK:
                raise self._full_disk(error) from error
            raise InputError(
                f"{self.output} cannot be written ({os.strerror(error.errno or 0)}); choose another output directory."
            ) from None
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> None:
        if self._finished:
            return
        self._remove()
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise self._full_disk(error) from error

    def finish(self, draft: ManifestDraft) -> Bundle:
        """Hash every file of `directory`, write the manifest, move the whole to `output` and open it.

        Raises:
            InputError: what stands in `directory` is no valid bundle, or `output` came into being meanwhile.
        """
        files = {
            path.relative_to(self.directory).as_posix(): _file_record(path)
            for path in sorted(self.directory.rglob("*"))
            if path.is_symlink() or not path.is_dir()
        }
        (self.directory / MANIFEST_NAME).write_bytes(dump_manifest(draft_to_manifest(draft, files)))
        checked = open_bundle(self.directory)
        self._check_replaceable()
        self._publish()
        return Bundle(self.output.resolve(), checked.manifest, checked.facts, verified=True)

    def _publish(self) -> None:
        old = self.output.with_name(f".{self.output.name}.old-{secrets.token_hex(4)}")
        replaced = self.output.exists()
        if replaced:
            self.output.rename(old)
        try:
            self.directory.rename(self.output)
        except BaseException:
            if replaced and not self.output.exists():
                old.rename(self.output)
            raise
        self._finished = True
        if replaced:
            shutil.rmtree(old, ignore_errors=True)

    def _check_replaceable(self) -> None:
        if not os.path.lexists(self.output):
            return
        if not self.force:
            raise InputError(
                f"{self.output} already exists; choose another output directory, or replace it with --force."
            )
        if self.output.is_symlink() or not self.output.is_dir():
            raise InputError(
                f"{self.output} is not a directory, and --force replaces only bundles; remove it yourself."
            )
        if not (self.output / MANIFEST_NAME).is_file() and any(self.output.iterdir()):
            raise InputError(
                f"{self.output} is neither a bundle nor empty, and --force replaces only these; remove it yourself, "
                "or choose another output directory."
            )

    def _remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        for parent in self._made_parents:
            with contextlib.suppress(OSError):
                parent.rmdir()

    def _full_disk(self, error: OSError) -> RaggedRTError:
        return RaggedRTError(
            f"{self.output} could not be written: {os.strerror(error.errno or 0)}. Nothing was left there; make room "
            "or choose another output directory."
        )


def write_bundle(
    output: str | os.PathLike[str], draft: ManifestDraft, contents: Mapping[str, Content], *, force: bool = False
) -> Bundle:
    """Write a bundle in one call; see `BundleWriter`, which also allows to verify before finishing.

    Args:
        output: the bundle's directory.
        draft: what the manifest says beside the file list.
        contents: by path inside the bundle: bytes, a file or folder to copy (links are resolved), or a function
            that is called with the path to write.
        force: replace an existing bundle.

    Raises:
        InputError: `output` exists, a path is not allowed, or the result is no valid bundle.
        RaggedRTError: the disk is full.
    """
    with BundleWriter(output, force=force) as writer:
        for name, content in contents.items():
            try:
                place = writer.directory / check_relative_path(name)
            except ValueError as error:
                raise InputError(f"{name!r} cannot be put into a bundle: {error}.") from None
            place.parent.mkdir(parents=True, exist_ok=True)
            _put(content, place)
        return writer.finish(draft)


def _put(content: Content, place: pathlib.Path) -> None:
    if isinstance(content, bytes):
        place.write_bytes(content)
    elif isinstance(content, os.PathLike):
        source = pathlib.Path(content)
        if source.is_dir():
            shutil.copytree(source, place)
        else:
            shutil.copyfile(source, place)
    else:
        content(place)


def _file_record(path: pathlib.Path) -> FileRecord:
    if path.is_symlink():
        raise InputError(f"{path.name} is a link, and a bundle holds none; copy the file it points to.")
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return FileRecord(size=path.stat().st_size, sha256=digest)
