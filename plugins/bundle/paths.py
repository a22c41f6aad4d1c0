"""Which paths a bundle or an ONNX file may name: relative, normalised, inside its folder, through no link."""

from __future__ import annotations

import os
import pathlib
import stat

from raggedrt.errors import InputError

_LONGEST = 4096


def check_relative_path(path: str) -> str:
    """Return `path` if it is relative, normalised and written with `/`.

    Raises:
        ValueError: it is empty, absolute, has `.`, `..` or empty parts, backslashes, colons or NUL.
    """
    if any(character in path for character in "\\\0:"):
        raise ValueError(f"path {path!r} has a character that is not allowed (backslash, colon or NUL)")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"path {path!r} is not relative, normalised and inside the folder")
    return path


def regular_file(folder: pathlib.Path, path: str, named_by: str, *, follow_links: bool = False) -> os.stat_result:
    """Status of the regular file `folder/path`, reached through no link unless `follow_links`.

    Args:
        folder: the trusted root; it may itself have been reached through links.
        path: what `named_by` names.
        named_by: file or tensor to blame in messages.
        follow_links: for files outside bundles, such as those of a download cache.

    Raises:
        InputError: the path is not allowed, missing, a link or behind one, or no regular file.
    """
    if len(path) > _LONGEST:
        raise InputError(f"{named_by} names a file by {len(path)} characters, which no file system takes.")
    try:
        check_relative_path(path)
    except ValueError as error:
        raise InputError(f"{named_by} names a file outside its folder: {error}.") from None
    place, status = folder, None
    for part in path.split("/"):
        place /= part
        try:
            status = place.stat(follow_symlinks=follow_links)
        except OSError:
            raise InputError(
                f"{named_by} names {path!r}, which is missing in {folder}; copy the folder whole, or make it again."
            ) from None
        if stat.S_ISLNK(status.st_mode):
            raise InputError(f"{place} is a link, and a bundle holds none ({named_by} names {path!r}); copy the file.")
    if status is None or not stat.S_ISREG(status.st_mode):
        raise InputError(f"{place} is not a regular file ({named_by} names {path!r}).")
    return status
