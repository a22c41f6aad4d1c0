"""Symbolic readings of ops that compute elements: arithmetic, comparisons, conditions."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import onnx_ir as ir

from raggedrt.graph_passes.masks.elements import (
    Element,
    arithmetic,
    at_most,
    choose,
    equal,
    is_condition,
    map_leaves,
    number,
    number_of,
    truth_of,
)
from raggedrt.graph_passes.masks.formula import Formula, Unreadable, all_of, any_of, at_most_zero, negate
from raggedrt.graph_passes.masks.poly import SIZES, Poly, Ranges, divide
from raggedrt.graph_passes.masks.readings import NodeView, Reading
from raggedrt.graph_passes.masks.tensors import ONE, ZERO, Index, SymbolicTensor, broadcast_dims, constant_tensor

WIDE = {ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.DOUBLE}
"""Types that hold every slot number exactly (float32 up to 2^24)."""


def _elementwise(function: Callable[..., Element]) -> Reading:
    """A row from a function of broadcast elements."""

    def read(view: NodeView) -> SymbolicTensor:
        inputs = view.inputs()
        dims = broadcast_dims(*(tensor.dims for tensor in inputs))
        return SymbolicTensor(dims, lambda index: function(*(tensor.broadcast_at(index) for tensor in inputs)))

    return read


def _comparing(function: Callable[[Element, Element, Ranges], Element]) -> Reading:
    """A row from a comparison, which folds with the ranges of its slots."""
    return lambda view: _elementwise(lambda left, right: function(left, right, view.ranges))(view)


def _folding(function: Callable[[Element, Element, Ranges], Element]) -> Reading:
    """A row from a binary op taken over any number of inputs (Max, Min)."""

    def read(view: NodeView) -> SymbolicTensor:
        def fold(first: Element, *rest: Element) -> Element:
            for item in rest:
                first = function(first, item, view.ranges)
            return first

        return _elementwise(fold)(view)

    return read


def _larger(left: Element, right: Element, ranges: Ranges) -> Element:
    return choose(at_most(right, left, ranges), left, right)


def _smaller(left: Element, right: Element, ranges: Ranges) -> Element:
    return choose(at_most(left, right, ranges), left, right)


def _clip(view: NodeView) -> SymbolicTensor:
    data = view.input(0)

    def element(index: Index) -> Element:
        value = data.at(index)
        if view.has(1):
            value = _larger(value, view.input(1).scalar(), view.ranges)
        return _smaller(value, view.input(2).scalar(), view.ranges) if view.has(2) else value

    return SymbolicTensor(data.dims, element)


def _abs(view: NodeView) -> SymbolicTensor:
    def leaf(value: Element) -> Element:
        if isinstance(value, Poly):
            return choose(at_most_zero(-value, view.ranges), value, -value)
        return abs(value) if isinstance(value, float) else value

    return _elementwise(lambda value: map_leaves(value, leaf))(view)


def _grouped(poly: Poly) -> str:
    """The text of an operand of // or %."""
    return str(poly) if poly.single_variable else f"({poly})"


def _divide(view: NodeView) -> SymbolicTensor:
    def exact(left: Poly, right: Poly) -> Poly:
        quotient, rest = divide(left, right)
        if rest == ZERO and right != ZERO and right.variables <= SIZES:
            return quotient
        by = right.constant
        if not view.integral() or not by or by < 0 or not view.ranges.at_most_zero(-left):
            raise Unreadable(f"Div of {left} by {right}")
        return (
            Poly.number(left.constant // by)
            if left.constant is not None
            else Poly.variable(f"({_grouped(left)} // {by})")
        )

    def rounded(left: float, right: float) -> float:
        if right == 0:
            raise Unreadable("Div by zero")
        return left / right

    return _elementwise(arithmetic(exact, rounded))(view)


def _modulo(view: NodeView) -> SymbolicTensor:
    def exact(left: Poly, right: Poly) -> Poly:
        by = right.constant
        floored = view.integral() and not view.integer("fmod", 0)  # the remainder has the sign of the divisor
        if not by or by < 0 or not (floored or view.ranges.at_most_zero(-left)):
            raise Unreadable(f"Mod of {left} by {right}")
        return (
            Poly.number(left.constant % by)
            if left.constant is not None
            else Poly.variable(f"({_grouped(left)} % {by})")
        )

    return _elementwise(arithmetic(exact, math.fmod))(view)


def _cast(view: NodeView) -> SymbolicTensor:
    to = ir.DataType(view.integer("to", 0))
    return _elementwise(lambda value: cast(value, to))(view)


def _cast_like(view: NodeView) -> SymbolicTensor:
    like = view.node.inputs[1]
    if like is None or like.dtype is None:
        raise Unreadable("CastLike without a known type")
    to, data = like.dtype, view.input(0)
    return SymbolicTensor(data.dims, lambda index: cast(data.at(index), to))


def cast(value: Element, to: ir.DataType) -> Element:
    """The element in another type, where no slot number changes by it."""
    if to == ir.DataType.BOOL:
        return truth_of(value)

    def leaf(item: Element) -> Element:
        if isinstance(item, float) and to.is_integer():
            if not math.isfinite(item):
                raise Unreadable(f"a cast of {item} to {to.name}")
            return number(float(math.trunc(item)))
        if to in WIDE or isinstance(item, float):
            return item
        constant = item.constant if isinstance(item, Poly) else None
        if constant is None or not 0 <= constant <= 127:  # what every type holds
            raise Unreadable(f"a cast of {item} to {to.name}")
        return item

    return map_leaves(number_of(value), leaf)


def _where(condition: Element, then: Element, otherwise: Element) -> Element:
    return choose(truth_of(condition), then, otherwise)


def _logical(function: Callable[[Formula, Formula], Formula]) -> Callable[[Element, Element], Element]:
    def apply(left: Element, right: Element) -> Element:
        if not (is_condition(left) and is_condition(right)):
            raise Unreadable("bitwise arithmetic on numbers")
        return function(truth_of(left), truth_of(right))

    return apply


def _not(value: Element) -> Element:
    if not is_condition(value):
        raise Unreadable("bitwise arithmetic on numbers")
    return negate(truth_of(value))


def _exclusive(left: Formula, right: Formula) -> Formula:
    return any_of(all_of(left, negate(right)), all_of(negate(left), right))


def _range(view: NodeView) -> SymbolicTensor:
    start, limit, delta = (view.input(position).scalar() for position in range(3))
    if delta.constant != 1:
        raise Unreadable("Range with a step")
    return SymbolicTensor((limit - start,), lambda index: start + index[0])


def _constant_of_shape(view: NodeView) -> SymbolicTensor:
    dims = view.input(0).vector() if view.input(0).dims != (ZERO,) else ()
    fill = view.node.attributes.get("value")
    if fill is None:
        return SymbolicTensor(dims, lambda index: ZERO)
    inner = constant_tensor(fill.as_tensor().numpy().reshape(()), view.ranges)
    return SymbolicTensor(dims, lambda index: inner.at(()))


def _trilu(view: NodeView) -> SymbolicTensor:
    data = view.input(0)
    offset = view.input(1).scalar() if view.has(1) else ZERO
    upper = view.integer("upper", 1)

    def element(index: Index) -> Element:
        distance = index[-1] - index[-2] - offset  # column - row - diagonal
        kept = at_most_zero(-distance if upper else distance, view.ranges)
        value = data.at(index)
        return choose(kept, value, truth_of(ZERO) if is_condition(value) else ZERO)

    return SymbolicTensor(data.dims, element)


def _cumulative_sum(view: NodeView) -> SymbolicTensor:
    data = view.input(0)
    bounds: dict[str | None, Poly] = dict(view.ranges.bounds)

    def element(index: Index) -> Element:
        # Zero at a slot that stands for the whole axis: every prefix is zero.
        whole = all(dim in (ONE, bounds.get(i.single_variable)) for i, dim in zip(index, data.dims, strict=True))
        if data.at(index) != ZERO or not whole:
            raise Unreadable("CumSum of what is not zero everywhere")
        return ZERO

    return SymbolicTensor(data.dims, element)


VALUE_READINGS: dict[str, Reading] = {
    "Add": _elementwise(arithmetic(operator.add, operator.add)),
    "Sub": _elementwise(arithmetic(operator.sub, operator.sub)),
    "Mul": _elementwise(arithmetic(operator.mul, operator.mul)),
    "Neg": _elementwise(lambda value: arithmetic(operator.sub, operator.sub)(ZERO, value)),
    "Div": _divide,
    "Mod": _modulo,
    "Abs": _abs,
    "Max": _folding(_larger),
    "Min": _folding(_smaller),
    "Clip": _clip,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Where": _elementwise(_where),
    "And": _elementwise(_logical(all_of)),
    "BitwiseAnd": _elementwise(_logical(all_of)),
    "Or": _elementwise(_logical(any_of)),
    "BitwiseOr": _elementwise(_logical(any_of)),
    "Xor": _elementwise(_logical(_exclusive)),
    "BitwiseXor": _elementwise(_logical(_exclusive)),
    "Not": _elementwise(_not),
    "BitwiseNot": _elementwise(_not),
    "Equal": _comparing(equal),
    "LessOrEqual": _comparing(at_most),
    "GreaterOrEqual": _comparing(lambda left, right, ranges: at_most(right, left, ranges)),
    "Less": _comparing(lambda left, right, ranges: negate(at_most(right, left, ranges))),
    "Greater": _comparing(lambda left, right, ranges: negate(at_most(left, right, ranges))),
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "Trilu": _trilu,
    "CumSum": _cumulative_sum,
}
