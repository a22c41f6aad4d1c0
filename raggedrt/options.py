"""Checks of the options that several verbs share; each error lists what is allowed."""

from __future__ import annotations

from collections.abc import Sequence

from raggedrt.errors import InputError

FEATURES = ("pack", "sparse", "fuse")
IO_KINDS = ("padded", "ragged")
DTYPES = ("fp32", "fp16", "bf16")


def choose(option: str, value: str, allowed: Sequence[str]) -> str:
    """`value` if it is one of `allowed`.

    Raises:
        InputError: it is not.
    """
    if value not in allowed:
        raise InputError(f"--{option} {value}: not known; choose one of {', '.join(allowed)}")
    return value


def parse_features(features: str | Sequence[str]) -> str | tuple[str, ...]:
    """`"auto"`, or the required features from `"pack,fuse"` or a sequence of names.

    Raises:
        InputError: an unknown or empty name.
    """
    if features == "auto":
        return "auto"
    names = tuple(features.split(",")) if isinstance(features, str) else tuple(features)
    if names == ("auto",):
        return "auto"
    if not names:
        raise InputError(f"--features: no name given; choose auto or some of {', '.join(FEATURES)}")
    return tuple(choose("features", name.strip(), FEATURES) for name in names)


def parse_shapes(option: str, text: str | None) -> dict[str, tuple[int, ...]]:
    """Shapes by input name from `"input_ids:8x128,attention_mask:8x128"` (the form of trtexec and ONNX Runtime).

    Raises:
        InputError: not of that form, or a size below 1.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for item in (text or "").split(",") if text else []:
        name, separator, sizes = item.strip().rpartition(":")
        parts = sizes.split("x")
        if not separator or not name or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
            raise InputError(f"--{option} {item.strip()!r}: expected NAME:SIZExSIZE, for example input_ids:8x128")
        shapes[name] = tuple(map(int, parts))
    return shapes
