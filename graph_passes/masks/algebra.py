"""Terms of a mask and their and/or: one condition on a query and a key each.

Every term is evaluable (`holds`), printable (`str` is what `short_spec` parses, `words` is prose) and a row of
`TERM_TYPES`, from which JSON is written and read. Indices are slots or own tokens, as the spec says.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol

import numpy as np

from raggedrt.errors import InputError
from raggedrt.graph_passes.masks.pairs import BoolArray, Pairs


class Term(Protocol):
    """What every term and every combination of terms offers."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]
    """In JSON and in short specs."""

    @property
    def words(self) -> str:
        """In prose."""

    def __hash__(self) -> int:
        """Terms are values."""

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible; broadcasts to the shape of the pairs."""


@dataclasses.dataclass(frozen=True)
class Everything:
    """Always true."""

    name: ClassVar[str] = "all"
    words: ClassVar[str] = "every key is visible"

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        return np.ones((1,) * len(pairs.shape), dtype=np.bool_)

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class KeyPadding:
    """The key holds a token."""

    name: ClassVar[str] = "padding"
    words: ClassVar[str] = "key is not padding"

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        return np.asarray(pairs.key_valid)

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class QueryPadding:
    """The query holds a token."""

    name: ClassVar[str] = "query_padding"
    words: ClassVar[str] = "query is not padding"

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        return np.asarray(pairs.query_valid)

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class Causal:
    """key <= query."""

    name: ClassVar[str] = "causal"
    words: ClassVar[str] = "key <= query"

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        return np.asarray(pairs.key <= pairs.query)

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class Window:
    """-left <= key - query <= right, both inclusive (-1: unbounded), at multiples of `dilation`."""

    name: ClassVar[str] = "window"
    left: int = -1
    right: int = -1
    dilation: int = 1

    def __post_init__(self) -> None:
        if self.left < -1 or self.right < -1 or self.dilation < 1:
            raise InputError(f"{self}: distances are at least 0, or -1 for unbounded, and the dilation is at least 1.")

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        distance = pairs.key - pairs.query
        visible = np.ones(np.shape(distance), dtype=np.bool_)
        if self.left >= 0:
            visible &= distance >= -self.left
        if self.right >= 0:
            visible &= distance <= self.right
        if self.dilation > 1:
            visible &= distance % self.dilation == 0
        return visible

    @property
    def words(self) -> str:
        """In prose."""
        low = "" if self.right < 0 else f"{-self.right} <= "
        high = "" if self.left < 0 else f" <= {self.left}"
        reach = [f"{low}query - key{high}"] if low or high else []
        return " and ".join([*reach, *([f"query - key is a multiple of {self.dilation}"] if self.dilation > 1 else [])])

    def __str__(self) -> str:
        dilation = f", dilation={self.dilation}" if self.dilation > 1 else ""
        return f"window(left={self.left}, right={self.right}{dilation})"


@dataclasses.dataclass(frozen=True)
class GlobalTokens:
    """The query (rows) or the key (columns) stands at one of these positions."""

    name: ClassVar[str] = "global"
    positions: tuple[int, ...]
    rows: bool = True
    columns: bool = True

    def __post_init__(self) -> None:
        if any(position < 0 for position in self.positions) or not (self.rows or self.columns):
            raise InputError(f"{self}: global positions are at least 0, and rows or columns are wanted.")
        object.__setattr__(self, "positions", tuple(sorted(set(self.positions))))

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        listed = np.asarray(self.positions, dtype=np.int64)
        rows = np.isin(pairs.query, listed) if self.rows else np.zeros((1,) * len(pairs.shape), dtype=np.bool_)
        return rows | np.isin(pairs.key, listed) if self.columns else rows

    @property
    def words(self) -> str:
        """In prose."""
        sides = [side for side, wanted in (("query", self.rows), ("key", self.columns)) if wanted]
        return f"{' or '.join(sides)} is a global token ({ranges_text(self.positions)})"

    def __str__(self) -> str:
        sides = ("" if self.rows else ", rows=0") + ("" if self.columns else ", columns=0")
        return f"global([{', '.join(map(str, self.positions))}]{sides})"


def ranges_text(numbers: tuple[int, ...]) -> str:
    """Ascending numbers with runs drawn together: 0-3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


@dataclasses.dataclass(frozen=True)
class BlockBand:
    """-left <= key // block - query // block <= right (-1: unbounded)."""

    name: ClassVar[str] = "block_band"
    block: int
    left: int = 0
    right: int = 0

    def __post_init__(self) -> None:
        if self.block < 1 or self.left < -1 or self.right < -1:
            raise InputError(f"{self}: a block has at least 1 token, and -1 is an unbounded number of blocks.")

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        return Window(self.left, self.right).holds(
            dataclasses.replace(pairs, query=pairs.query // self.block, key=pairs.key // self.block)
        )

    @property
    def words(self) -> str:
        """In prose."""
        inner = Window(self.left, self.right).words or "anything"
        return inner.replace("query", f"query//{self.block}").replace("key", f"key//{self.block}")

    def __str__(self) -> str:
        return f"block_band(block={self.block}, left={self.left}, right={self.right})"


@dataclasses.dataclass(frozen=True)
class Prefix:
    """The key is one of the first `size`."""

    name: ClassVar[str] = "prefix"
    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise InputError(f"{self}: a prefix has at least 0 tokens.")

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        return np.asarray(pairs.key < self.size)

    @property
    def words(self) -> str:
        """In prose."""
        return f"key < {self.size}"

    def __str__(self) -> str:
        return f"prefix({self.size})"


@dataclasses.dataclass(frozen=True)
class Strided:
    """key % stride == offset: the columns that summarise their neighbourhood."""

    name: ClassVar[str] = "strided"
    stride: int
    offset: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.offset < self.stride:
            raise InputError(f"{self}: the offset is at least 0 and below the stride.")

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        return np.asarray(pairs.key % self.stride == self.offset)

    @property
    def words(self) -> str:
        """In prose."""
        return f"key % {self.stride} == {self.offset}"

    def __str__(self) -> str:
        return f"strided({self.stride}, offset={self.offset})"


@dataclasses.dataclass(frozen=True)
class SameSegment:
    """Query and key are of the same document; which one is said at run time."""

    name: ClassVar[str] = "segment"
    words: ClassVar[str] = "query and key are of the same document"

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        if pairs.query_segment is None or pairs.key_segment is None:
            raise InputError("The mask compares documents (segment); give the document of every token.")
        return np.asarray(pairs.query_segment == pairs.key_segment)

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class Bias:
    """Marks that a bias is added to the scores; hides nothing."""

    name: ClassVar[str] = "bias"
    kind: str = "dense"

    def __post_init__(self) -> None:
        if self.kind not in ("dense", "distance"):
            raise InputError(f"Unknown kind of bias '{self.kind}'; expected dense or distance.")

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        return Everything().holds(pairs)

    @property
    def words(self) -> str:
        """In prose."""
        return f"a {self.kind} bias is added"

    def __str__(self) -> str:
        return f"bias({self.kind})"


@dataclasses.dataclass(frozen=True)
class And:
    """Every operand holds."""

    name: ClassVar[str] = "and"
    operands: tuple[Term, ...]

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        visible = Everything().holds(pairs)
        for operand in self.operands:
            visible = visible & operand.holds(pairs)
        return visible

    @property
    def words(self) -> str:
        """In prose."""
        return " and ".join(f"({o.words})" if isinstance(o, Or) else o.words for o in self.operands)

    def __str__(self) -> str:
        return " & ".join(f"({o})" if isinstance(o, Or) else str(o) for o in self.operands)


@dataclasses.dataclass(frozen=True)
class Or:
    """At least one operand holds."""

    name: ClassVar[str] = "or"
    operands: tuple[Term, ...]

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        visible = ~Everything().holds(pairs)
        for operand in self.operands:
            visible = visible | operand.holds(pairs)
        return visible

    @property
    def words(self) -> str:
        """In prose."""
        return " or ".join(f"({o.words})" if isinstance(o, And) else o.words for o in self.operands)

    def __str__(self) -> str:
        return " | ".join(f"({o})" if isinstance(o, And) else str(o) for o in self.operands)
