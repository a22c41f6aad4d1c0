"""The vocabulary of the axis analysis: symbolic sizes, atoms, axes.

An axis is a product of atoms: `[B*N, S, H]` has the axes `(B, N), (S,), (H,)`. Views (Reshape, Transpose, …) only
regroup and permute atoms, so a chain of views can be read as one permutation however an exporter spelled it.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
from collections.abc import Hashable, Iterable

BATCH_SYMBOL = "batch"
TOKEN_SYMBOL = "sequence"


@dataclasses.dataclass(frozen=True)
class Size:
    """A product of one integer and symbols: `2 * batch * sequence`. Negative one stands for itself (Reshape's -1).

    `plus` is added to a product with symbols: `sequence + 2`, where a position table is cut; no axis has such a size.
    """

    coefficient: int
    symbols: tuple[str, ...] = ()
    plus: int = 0

    def __mul__(self, other: Size) -> Size:
        plus = self.plus * other.coefficient if not other.symbols else other.plus * self.coefficient
        symbols = tuple(sorted(self.symbols + other.symbols))
        if (self.plus and other.symbols) or (other.plus and self.symbols):  # no such product is a sum of this form
            return Size(1, (f"({self})*({other})",))
        return Size(self.coefficient * other.coefficient, symbols, plus)

    def __add__(self, other: Size) -> Size | None:
        """The sum, or None where it is not of this form."""
        if not self.symbols or not other.symbols:
            one, number = (self, other.coefficient) if not other.symbols else (other, self.coefficient)
            if not one.symbols:
                return Size(one.coefficient + number)
            return Size(one.coefficient, one.symbols, one.plus + number)
        if self.symbols != other.symbols:
            return None
        plus, coefficient = self.plus + other.plus, self.coefficient + other.coefficient
        return Size(coefficient, self.symbols, plus) if coefficient else Size(plus)

    def __neg__(self) -> Size:
        return Size(-self.coefficient, self.symbols, -self.plus)

    def divided_by(self, other: Size) -> Size | None:
        """The exact quotient, or None where it is not a product of an integer and symbols."""
        if self.plus or other.plus:
            return Size(1) if self == other else None
        rest = list(self.symbols)
        for symbol in other.symbols:
            if symbol not in rest:
                return None
            rest.remove(symbol)
        if other.coefficient == 0 or self.coefficient % other.coefficient:
            return None
        return Size(self.coefficient // other.coefficient, tuple(rest))

    @property
    def static(self) -> int | None:
        """The integer, where there is no symbol."""
        return None if self.symbols else self.coefficient


ONE = Size(1)


def product(sizes: Iterable[Size]) -> Size:
    """The product of sizes; of none it is one."""
    return math.prod(sizes, start=ONE)


class Kind(enum.Enum):
    """What an index along an atom selects."""

    BATCH = "batch"
    TOKEN = "token"
    FEATURE = "feature"


@dataclasses.dataclass(frozen=True)
class Atom:
    """A factor of an axis that never splits between meanings.

    `repeat` marks an atom made by Expand: the values do not vary along it (grouped-query heads).
    """

    kind: Kind
    size: Size
    key: Hashable
    repeat: bool = False


Axis = tuple[Atom, ...]
"""Atoms of one axis, slowest first; the empty axis has size one."""
Axes = tuple[Axis, ...]

_fresh = itertools.count()


def feature(size: Size, *, repeat: bool = False) -> Axis:
    """A new feature axis (empty where the size is one)."""
    return () if size == ONE else (Atom(Kind.FEATURE, size, next(_fresh), repeat),)


def kinds(axis: Axis) -> tuple[Kind, ...]:
    """The kinds in an axis, without features."""
    return tuple(atom.kind for atom in axis if atom.kind is not Kind.FEATURE)


def count(axes: Axes, kind: Kind) -> int:
    """How many atoms of a kind the axes hold."""
    return sum(atom.kind is kind for axis in axes for atom in axis)


def has(axes: Axes | None, kind: Kind) -> bool:
    """Whether some axis holds an atom of that kind."""
    return axes is not None and count(axes, kind) > 0


def axis_of(axes: Axes, kind: Kind) -> int | None:
    """The number of the axis that holds the only atom of that kind."""
    found = [number for number, axis in enumerate(axes) for atom in axis if atom.kind is kind]
    return found[0] if len(found) == 1 else None


def axis_size(axis: Axis) -> Size:
    """The size of an axis."""
    return product(atom.size for atom in axis)


def regroup(atoms: Iterable[Atom], targets: Iterable[Size]) -> Axes | None:
    """Group atoms, in order, into axes of the target sizes; features may be split. None where it does not work out."""
    rest = [atom for atom in atoms if atom.size != ONE or atom.kind is not Kind.FEATURE]
    axes: list[Axis] = []
    for target in targets:
        axis: list[Atom] = []
        missing = target
        if target == ONE and rest and rest[0].size == ONE:  # a batch of one keeps its meaning
            axis.append(rest.pop(0))
        while missing != ONE:
            if not rest:
                return None
            atom = rest.pop(0)
            after = missing.divided_by(atom.size)
            if after is None:
                tail = atom.size.divided_by(missing)
                if tail is None or atom.kind is not Kind.FEATURE:
                    return None
                key = (atom.key, missing, tail)
                rest.insert(0, Atom(Kind.FEATURE, tail, (*key, 1), atom.repeat))
                atom, after = Atom(Kind.FEATURE, missing, (*key, 0), atom.repeat), ONE
            axis.append(atom)
            missing = after
        axes.append(tuple(axis))
    return tuple(axes) if not rest else None
