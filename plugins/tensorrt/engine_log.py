"""What the builder says of a finished engine: its layers, inputs and outputs.

The inspector has to load an engine, which needs the GPU. The builder logs the same as text when it is done, and that
is true on a machine without a GPU too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

LAYERS, TENSORS = "Layers:", "I/O Tensors:"
"""What begins the message, and the part of it that is no list of layers."""
_BOUNDS = ("MinShape", "OptShape", "MaxShape")


def is_engine_text(text: str) -> bool:
    """Whether a message of the builder is the one about the finished engine."""
    return text.startswith(LAYERS) and TENSORS in text


def layers_of(text: str) -> list[dict[str, Any]]:
    """The layers, with the keys of the inspector."""
    lines = text.partition(TENSORS)[0].splitlines()
    return [_layer(_fields(line)) for line in lines if line.startswith("Name: ")]


def tensors_of(text: str) -> list[dict[str, Any]]:
    """Inputs and outputs: `Name`, `IOMode`, `Dimensions`, `Datatype`, and by profile the least, best, greatest shape.

    `Profiles` is empty for outputs.
    """
    tensors = []
    for line in text.partition(TENSORS)[2].splitlines():
        if line.startswith(" Name: "):
            fields = _fields(line.strip())
            profiles = [
                tuple(_shape(part[bound]) for bound in _BOUNDS) for part in _parts(fields) if _BOUNDS[0] in part
            ]
            tensors.append(
                {
                    "Name": fields["Name"],
                    "IOMode": fields["IOMode"],
                    "Dimensions": _shape(fields["Dimensions"]),
                    "Datatype": fields.get("DataType", ""),
                    "Profiles": profiles,
                }
            )
    return tensors


def _layer(fields: dict[str, str]) -> dict[str, Any]:
    return {
        "Name": fields["Name"],
        "LayerType": fields.get("LayerType", ""),
        "Inputs": [_tensor(part) for part in _list(fields.get("Inputs", ""))],
        "Outputs": [_tensor(part) for part in _list(fields.get("Outputs", ""))],
        "TacticName": fields.get("TacticName", ""),
        "Metadata": fields.get("Metadata", ""),
    }


def _tensor(text: str) -> dict[str, Any]:
    fields = _fields(text)
    return {
        "Name": fields.get("Name", ""),
        "Dimensions": _shape(fields.get("Dimensions", "")),
        "Format/Datatype": fields.get("Datatype", ""),
    }


def _parts(fields: dict[str, str]) -> Iterator[dict[str, str]]:
    return (_fields(part) for part in _list(fields.get("ProfileInfo", "")))


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"-?\d+", text))


def _list(text: str) -> list[str]:
    """The inside of every brace of `[ { … }, { … } ]`."""
    inner = text.strip().removeprefix("[").removesuffix("]").strip()
    return [part.strip().removeprefix("{").removesuffix("}").strip() for part in _split(inner) if part.strip()]


def _fields(text: str) -> dict[str, str]:
    """`Key: value, Key: value`; brackets in a value hold its commas together."""
    pairs = (part.partition(": ") for part in _split(text))
    return {key.strip(): value.strip() for key, found, value in pairs if found}


def _split(text: str) -> Iterator[str]:
    depth, begin = 0, 0
    for place, letter in enumerate(text):
        if letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        elif letter == "," and depth <= 0 and text[place + 1 : place + 2] == " ":
            yield text[begin:place]
            begin = place + 2
    yield text[begin:]
