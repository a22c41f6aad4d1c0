"""Masks as text: ``causal & window(64)``, ``longformer(window=512, global=[0])``, ``blocks(layout.npz)``.

Terms are joined by ``&`` (or ``and``), which binds stronger, and ``|`` (or ``or``); parentheses group. A printed
expression is read back as itself, but for block lists, which come from files. ``of=padded`` at the end says that
indices count slots of the padded row, ``of=own`` that they count the row's own tokens (the default). Windows are
reaches: ``window(256)`` shows the keys up to 256 before and 256 after the query, both ends included, and itself.
"""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import NoReturn

from raggedrt.errors import InputError
from raggedrt.graph_passes.masks.algebra import (
    Bias,
    BlockBand,
    Causal,
    Everything,
    GlobalTokens,
    KeyPadding,
    Prefix,
    QueryPadding,
    SameSegment,
    Strided,
    Term,
    Window,
)
from raggedrt.graph_passes.masks.bigbird import BigBird
from raggedrt.graph_passes.masks.block_list import load_block_list
from raggedrt.graph_passes.masks.expressions import MAX_DEPTH, all_terms, any_term
from raggedrt.graph_passes.masks.pairs import OWN, PADDED
from raggedrt.graph_passes.masks.short_rows import ShortRow
from raggedrt.graph_passes.masks.spec import MaskSpec

Value = int | str | tuple[int, ...]
Location = int
"""Characters before it in the text."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?\d+(?![\w./\\]))|(?P<word>[^\s()\[\],=&|'\"]+)|(?P<quoted>'[^']*'|\"[^\"]*\")|(?P<sign>.))"
)
_UNBOUNDED = -1
_ABSENT = -2


def _window(reach: int = _ABSENT, *, left: int = _ABSENT, right: int = _ABSENT, dilation: int = 1) -> Term:
    if reach == left == right == _ABSENT:
        raise InputError("window needs a reach, or left and right")
    if reach != _ABSENT and (left, right) != (_ABSENT, _ABSENT):
        raise InputError("window takes a reach, or left and right, not both")
    before, after = (_UNBOUNDED if side == _ABSENT else side for side in (left, right))
    return Window(before, after, dilation) if reach == _ABSENT else Window(reach, reach, dilation)


def _dilated(window: int, dilation: int) -> Term:
    return Window(window, window, dilation)


def _longformer(window: int, global_: tuple[int, ...] = ()) -> Term:
    if window % 2:
        raise InputError("longformer's window counts both sides, so it is even")
    local = Window(window // 2, window // 2)
    return any_term(local, GlobalTokens(global_)) if global_ else local


def _global(positions: tuple[int, ...], rows: int = 1, columns: int = 1) -> Term:
    return GlobalTokens(positions, bool(rows), bool(columns))


def _bigbird(
    block: int = 64, window: int = 3, global_: int = 2, random: int = 3, seed: int = 0, length: int = 0
) -> Term:
    return BigBird(block, window, global_, random, seed, length)


def _block_band(block: int, left: int = 0, right: int = 0) -> Term:
    return BlockBand(block, left, right)


def _prefix(size: int) -> Term:
    return Prefix(size)


def _strided(stride: int, offset: int = 0) -> Term:
    return Strided(stride, offset)


def _bias(kind: str = "dense") -> Term:
    return Bias(kind)


def _blocks(path: str) -> Term:
    return load_block_list(pathlib.Path(path))


TERMS: dict[str, Callable[..., Term]] = {
    "all": Everything,
    "padding": KeyPadding,
    "query_padding": QueryPadding,
    "causal": Causal,
    "segment": SameSegment,
    "window": _window,
    "dilated": _dilated,
    "longformer": _longformer,
    "global": _global,
    "bigbird": _bigbird,
    "block_band": _block_band,
    "prefix": _prefix,
    "strided": _strided,
    "short_row": ShortRow,
    "bias": _bias,
    "blocks": _blocks,
}
"""What each name makes; a parameter `global_` is spelled `global`."""


@dataclasses.dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: Location


def parse_mask(text: str, *, of: str = OWN) -> MaskSpec:
    """The canonical spec of a short spec.

    Args:
        text: such as ``causal & window(64)``.
        of: what its indices count where the text does not say; an imposed mask counts the valid tokens of a row.

    Raises:
        InputError: it does not parse; the message shows where.
    """
    parser = _Parser(text)
    return MaskSpec.of_expression(parser.expression(), of=parser.rest() or of)


def parse_expression(text: str) -> Term:
    """The expression of a short spec, flattened.

    Raises:
        InputError: it does not parse; the message shows where.
    """
    parser = _Parser(text)
    found = parser.expression()
    parser.end()
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0

    def rest(self) -> str | None:
        """What indices count, as far as the end of the text says it."""
        if not self._take("of"):
            self.end()
            return None
        self._expect("=")
        kind = self._peek()
        if kind.text not in (OWN, PADDED):
            self._fail(f"{_shown(kind)} where '{OWN}' or '{PADDED}' is expected", kind.at)
        self._next += 1
        self.end()
        return kind.text

    def end(self) -> None:
        """Nothing follows."""
        if self._peek().kind != "end":
            self._fail(f"'{self._peek().text}' where '&', '|' or the end is expected", self._peek().at)

    def expression(self) -> Term:
        """The expression that comes next."""
        return self._any()

    def _any(self) -> Term:
        operands = [self._all()]
        while self._take("|") or self._take("or"):
            operands.append(self._all())
        return operands[0] if len(operands) == 1 else any_term(*operands)

    def _all(self) -> Term:
        operands = [self._one()]
        while self._take("&") or self._take("and"):
            operands.append(self._one())
        return operands[0] if len(operands) == 1 else all_terms(*operands)

    def _one(self) -> Term:
        token = self._peek()
        if self._take("("):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                self._fail(f"more than {MAX_DEPTH} parentheses within each other", token.at)
            inner = self._any()
            self._depth -= 1
            self._expect(")")
            return inner
        if token.kind != "word" or token.text not in TERMS:
            seen = (
                f"unknown mask '{token.text}'" if token.kind == "word" else f"{_shown(token)} where a mask is expected"
            )
            self._fail(f"{seen}; the masks are {', '.join(TERMS)}", token.at)
        self._next += 1
        return self._make(token, *self._arguments())

    def _make(self, token: _Token, positional: list[Value], named: dict[str, Value]) -> Term:
        make = TERMS[token.text]
        try:
            inspect.signature(make).bind(*positional, **named)
        except TypeError as error:
            self._fail(f"{token.text}: {error}; it takes {_parameters(make)}".replace("global_", "global"), token.at)
        hints = inspect.get_annotations(make, eval_str=True) if inspect.isfunction(make) else {}
        names = [name for name in hints if name != "return"]
        for name, value in [*zip(names, positional, strict=False), *named.items()]:
            if not isinstance(value, tuple if hints[name] == tuple[int, ...] else hints[name]):
                expected = {int: "an integer", str: "a word"}.get(hints[name], "a list such as [0, 5]")
                self._fail(f"{token.text}: {name.rstrip('_')} is {expected}, not {value!r}", token.at)
        try:
            return make(*positional, **named)
        except InputError as error:
            self._fail(str(error).rstrip("."), token.at)

    def _arguments(self) -> tuple[list[Value], dict[str, Value]]:
        positional: list[Value] = []
        named: dict[str, Value] = {}
        if not self._take("("):
            return positional, named
        while not self._take(")"):
            token = self._peek()
            if token.kind == "word" and self._tokens[self._next + 1].text == "=":
                name = "global_" if token.text == "global" else token.text
                if name in named:
                    self._fail(f"'{token.text}' is given twice", token.at)
                self._next += 2
                named[name] = self._value()
            elif named:
                self._fail(f"{_shown(token)} after named arguments; name it, too", token.at)
            else:
                positional.append(self._value())
            if self._peek().text != ")":
                self._expect(",")
        return positional, named

    def _value(self) -> Value:
        token = self._peek()
        self._next += token.kind != "end"
        if token.kind == "number":
            return int(token.text)
        if token.kind in ("word", "quoted"):
            return token.text.strip("'\"")
        if token.text != "[":
            self._fail(f"{_shown(token)} where a number, a word or a list is expected", token.at)
        items: list[int] = []
        while not self._take("]"):
            item = self._peek()
            if item.kind != "number":
                self._fail(f"{_shown(item)} where an integer is expected", item.at)
            self._next += 1
            items.append(int(item.text))
            if self._peek().text != "]":
                self._expect(",")
        return tuple(items)

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, text: str) -> bool:
        found = self._peek().text == text and self._peek().kind != "quoted"
        self._next += found
        return found

    def _expect(self, text: str) -> None:
        if not self._take(text):
            self._fail(f"{_shown(self._peek())} where '{text}' is expected", self._peek().at)

    def _fail(self, what: str, at: Location) -> NoReturn:
        where = f"after '{self._text[:at].rstrip()}'" if self._text[:at].strip() else "its start"
        raise InputError(f"The mask '{self._text}' does not parse at character {at + 1}, {where}: {what}.")


def _tokens(text: str) -> Iterator[_Token]:
    end = len(text.rstrip())
    at = 0
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            break
        yield _Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup))
        at = match.end()
    yield _Token("end", "", end)


def _shown(token: _Token) -> str:
    return "the end" if token.kind == "end" else f"'{token.text}'"


def _parameters(make: Callable[..., Term]) -> str:
    names = list(inspect.signature(make).parameters) if inspect.isfunction(make) else []
    return ", ".join(names) or "no arguments"
