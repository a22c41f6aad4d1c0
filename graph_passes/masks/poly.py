"""Integer index expressions: polynomials in the slots q, k, b and the sizes B, S."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

Monomial = tuple[str, ...]
"""Sorted variable names; () is the constant term."""

SIZES = frozenset({"B", "S"})
"""Variables that are sizes (batch, padded sequence length): at least 1."""


@dataclasses.dataclass(frozen=True)
class Poly:
    """A polynomial with integer coefficients, in canonical form: equal means equal."""

    terms: tuple[tuple[Monomial, int], ...]

    @classmethod
    def of(cls, terms: Mapping[Monomial, int]) -> Poly:
        """Drop zero terms and sort."""
        return cls(tuple(sorted((mono, coef) for mono, coef in terms.items() if coef)))

    @classmethod
    def number(cls, value: int) -> Poly:
        """A constant."""
        return cls.of({(): value})

    @classmethod
    def variable(cls, name: str) -> Poly:
        """One variable; any text that names an integer will do, such as ``(q // 8)``."""
        return cls((((name,), 1),))

    @property
    def constant(self) -> int | None:
        """The value where there are no variables, else None."""
        if not self.terms:
            return 0
        return self.terms[0][1] if len(self.terms) == 1 and self.terms[0][0] == () else None

    @property
    def variables(self) -> frozenset[str]:
        """Names of all variables."""
        return frozenset(name for mono, _ in self.terms for name in mono)

    @property
    def single_variable(self) -> str | None:
        """The name where the polynomial is exactly one variable, else None."""
        if len(self.terms) == 1 and self.terms[0][1] == 1 and len(self.terms[0][0]) == 1:
            return self.terms[0][0][0]
        return None

    def __add__(self, other: Poly | int) -> Poly:
        total = dict(self.terms)
        for mono, coef in as_poly(other).terms:
            total[mono] = total.get(mono, 0) + coef
        return Poly.of(total)

    def __neg__(self) -> Poly:
        return Poly(tuple((mono, -coef) for mono, coef in self.terms))

    def __sub__(self, other: Poly | int) -> Poly:
        return self + -as_poly(other)

    def __mul__(self, other: Poly | int) -> Poly:
        total: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in as_poly(other).terms:
                mono = tuple(sorted(left + right))
                total[mono] = total.get(mono, 0) + a * b
        return Poly.of(total)

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        text = ""
        for mono, coef in sorted(self.terms, key=lambda term: (not term[0], -term[1], term[0])):
            size = "*".join(([str(abs(coef))] if abs(coef) != 1 or not mono else []) + list(mono))
            text += (" - " if coef < 0 else " + ") + size if text else ("-" if coef < 0 else "") + size
        return text


def as_poly(value: Poly | int) -> Poly:
    """A polynomial from a polynomial or a number."""
    return value if isinstance(value, Poly) else Poly.number(value)


def _divide_monomial(mono: Monomial, by: Monomial) -> Monomial | None:
    rest = list(mono)
    for name in by:
        if name not in rest:
            return None
        rest.remove(name)
    return tuple(rest)


def divide(poly: Poly, divisor: Poly) -> tuple[Poly, Poly]:
    """Split ``poly`` into ``quotient * divisor + rest``, for a divisor of one term.

    The rest collects the terms that do not divide; nothing is said about its sign or size.
    """
    if len(divisor.terms) != 1:
        return Poly.number(0), poly
    (by, size), quotient, rest = divisor.terms[0], {}, {}
    for mono, coef in poly.terms:
        reduced = _divide_monomial(mono, by)
        if reduced is None or coef % size:
            rest[mono] = coef
        else:
            quotient[reduced] = coef // size
    return Poly.of(quotient), Poly.of(rest)


@dataclasses.dataclass(frozen=True)
class Ranges:
    """Upper bounds (exclusive) of the slots: 0 <= variable < bound; sizes are at least 1."""

    bounds: tuple[tuple[str, Poly], ...]

    def largest(self, poly: Poly) -> int | None:
        """An upper bound of ``poly`` over all slots and sizes; None where there is none (or none is seen)."""
        for name, bound in self.bounds:
            if name not in poly.variables:
                continue
            slope, rest = divide(poly, Poly.variable(name))
            slope_sign = self._sign_of_size(slope)
            if slope_sign is None or name in rest.variables:
                return None
            poly = rest + slope * (bound - 1) if slope_sign > 0 else rest
        return self._largest_of_size(poly)

    def at_most_zero(self, poly: Poly) -> bool:
        """``poly <= 0`` always holds (False: not shown)."""
        largest = self.largest(poly)
        return largest is not None and largest <= 0

    def _sign_of_size(self, poly: Poly) -> int | None:
        """The sign of a polynomial in sizes alone, where its terms agree."""
        if any(name not in SIZES for name in poly.variables):
            return None
        signs = {coef > 0 for _, coef in poly.terms}
        return None if len(signs) != 1 else 1 if signs.pop() else -1

    def _largest_of_size(self, poly: Poly) -> int | None:
        """The largest value of a polynomial in sizes; each size is at least 1."""
        total = 0
        for mono, coef in poly.terms:
            if mono and coef > 0:
                return None
            if any(name not in SIZES for name in mono):
                return None
            total += coef  # a falling term is largest where every size is 1
        return total
