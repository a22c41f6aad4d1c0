"""Numbers for formulas: their value at many pairs at once."""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Callable, Mapping

import numpy as np

from raggedrt.graph_passes.masks.formula import Atom, Formula, Junction, Negation, Truth, Unreadable
from raggedrt.graph_passes.masks.pairs import BoolArray, IntArray
from raggedrt.graph_passes.masks.poly import Poly

Slots = Mapping[str, IntArray]
"""Values of the variables q and k, arrays that broadcast."""


def poly_values(poly: Poly, slots: Slots) -> IntArray:
    """The values of an index expression."""
    total = np.zeros(np.broadcast_shapes(*(array.shape for array in slots.values())), dtype=np.int64)
    for mono, coefficient in poly.terms:
        total = total + coefficient * math.prod((variable_values(name, slots) for name in mono), start=np.int64(1))
    return total


def variable_values(name: str, slots: Slots) -> IntArray:
    """The values of a variable: a slot, or a quotient or remainder such as ``((q - k) % 4)``."""
    return _expression_values(parsed(name), slots)


@functools.lru_cache(maxsize=1024)
def parsed(name: str) -> ast.expr:
    """The name of a variable as an expression.

    Raises:
        Unreadable: it is no arithmetic.
    """
    try:
        return ast.parse(name, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise Unreadable(f"the index {name}") from error


_OPERATIONS: dict[type[ast.operator], Callable[[IntArray, IntArray], IntArray]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.remainder,
}


def _expression_values(item: ast.expr, slots: Slots) -> IntArray:
    if isinstance(item, ast.Name) and item.id in slots:
        return slots[item.id]
    if isinstance(item, ast.Constant) and type(item.value) is int:
        return np.asarray(item.value, dtype=np.int64)
    if isinstance(item, ast.UnaryOp) and isinstance(item.op, ast.USub):
        return -_expression_values(item.operand, slots)
    if isinstance(item, ast.BinOp) and type(item.op) in _OPERATIONS:
        left, right = (_expression_values(side, slots) for side in (item.left, item.right))
        return _OPERATIONS[type(item.op)](left, right)
    raise Unreadable(f"the index {ast.unparse(item)}")


def formula_values(formula: Formula, truth: Callable[[Atom], BoolArray]) -> BoolArray:
    """The values of a formula from those of its atoms."""
    if isinstance(formula, Truth):
        return np.asarray(formula.value)
    if isinstance(formula, Negation):
        return ~formula_values(formula.operand, truth)
    if isinstance(formula, Junction):
        join = np.logical_and if formula.every else np.logical_or
        return functools.reduce(join, (formula_values(operand, truth) for operand in formula.operands))
    return truth(formula)
