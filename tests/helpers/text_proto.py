"""Reads protobuf's text format into dictionaries: every field is the list of its values."""

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')


def parse_text_proto(text: str) -> dict[str, list[Any]]:
    """Fields by name, messages as dictionaries.

    Raises:
        ValueError: not in text format.
    """
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != re.sub(r'\s+(?=(?:[^"]*"[^"]*")*[^"]*$)', "", text):
        raise ValueError("a character that belongs to no token")
    message, rest = _message(tokens)
    if rest:
        raise ValueError(f"a closing brace too many before {rest[:3]}")
    return message


def _message(tokens: list[str]) -> tuple[dict[str, list[Any]], list[str]]:
    fields: dict[str, list[Any]] = {}
    while tokens and tokens[0] != "}":
        name, tokens = tokens[0], tokens[1:]
        values, tokens = _values(tokens)
        fields.setdefault(name, []).extend(values)
    return fields, tokens


def _values(tokens: list[str]) -> tuple[list[Any], list[str]]:
    if tokens[0] == "{":
        inner, rest = _message(tokens[1:])
        if rest[:1] != ["}"]:
            raise ValueError("a message that does not end")
        return [inner], rest[1:]
    if tokens[0] != ":":
        raise ValueError(f"expected a value before {tokens[:3]}")
    if tokens[1] != "[":
        return [_scalar(tokens[1])], tokens[2:]
    end = tokens.index("]")
    return [_scalar(token) for token in tokens[2:end] if token != ","], tokens[end + 1 :]


def _scalar(token: str) -> str | int | bool:
    if token.startswith('"'):
        return token[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if token in ("true", "false"):
        return token == "true"
    return int(token) if re.fullmatch(r"-?\d+", token) else token
