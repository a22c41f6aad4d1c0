"""Follow small integer tensors (shape arithmetic): `Concat(Shape(x)[0:1], [-1], [64])` is `(batch, -1, 64)`."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable

import onnx_ir as ir

from raggedrt.graph_passes.axes.atoms import Axes, Size, axis_size, feature

if typing.TYPE_CHECKING:
    from raggedrt.graph_passes.axes.analysis import AxisAnalysis

_END = 1 << 31


@dataclasses.dataclass(frozen=True)
class Content:
    """Elements of a scalar or vector; None where one is not known."""

    elements: tuple[Size | None, ...]
    scalar: bool = False

    def axes(self) -> Axes:
        """Axes of the tensor itself."""
        return () if self.scalar else (feature(Size(len(self.elements))),)


def is_integer(dtype: ir.DataType) -> bool:
    """Whether elements of that type are followed (booleans count as 0 and 1)."""
    return dtype in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


def infer(node: ir.Node, analysis: AxisAnalysis) -> Content | None:
    """The content of the node's first output, or None."""
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    return rule(node, analysis) if rule is not None else None


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _shape(node: ir.Node, analysis: AxisAnalysis) -> Content | None:
    axes = analysis.axes_of(node.inputs[0])
    if axes is None:
        return None
    start, end = int_attribute(node, "start", 0), int_attribute(node, "end", len(axes))
    return Content(tuple(axis_size(axis) for axis in axes[slice(start, end)]))


def _size(node: ir.Node, analysis: AxisAnalysis) -> Content | None:
    axes = analysis.axes_of(node.inputs[0])
    return None if axes is None else Content((math.prod((axis_size(a) for a in axes), start=Size(1)),), scalar=True)


def _same(node: ir.Node, analysis: AxisAnalysis) -> Content | None:
    return analysis.content_of(node.inputs[0])


def _cast(node: ir.Node, analysis: AxisAnalysis) -> Content | None:
    target = ir.DataType(int_attribute(node, "to", 0))
    if target is ir.DataType.BOOL:
        return _truth(node, analysis, lambda number: number != 0)
    return _same(node, analysis) if target in (ir.DataType.INT64, ir.DataType.INT32) else None


def _not(node: ir.Node, analysis: AxisAnalysis) -> Content | None:
    return _truth(node, analysis, lambda number: number == 0)


def _truth(node: ir.Node, analysis: AxisAnalysis, test: Callable[[int], bool]) -> Content | None:
    content = _same(node, analysis)
    if content is None:
        return None
    numbers = [None if element is None or element.plus else element.static for element in content.elements]
    return Content(tuple(None if n is None else Size(int(test(n))) for n in numbers), scalar=content.scalar)


def _vector(node: ir.Node, analysis: AxisAnalysis) -> Content | None:
    content = _same(node, analysis)
    shape = analysis.static_ints(node.inputs[1])
    if content is None or (node.op_type == "Reshape" and (shape is None or len(shape) > 1)):
        return None
    if node.op_type == "Unsqueeze" and (not content.scalar or shape not in ([0], [-1])):
        return None
    scalar = node.op_type == "Reshape" and not shape
    return Content(content.elements, scalar=scalar)


def _squeeze(node: ir.Node, analysis: AxisAnalysis) -> Content | None:
    content = _same(node, analysis)
    return Content(content.elements, scalar=True) if content is not None and len(content.elements) == 1 else None


def _concat(node: ir.Node, analysis: AxisAnalysis) -> Content | None:
    parts = [analysis.content_of(value) for value in node.inputs]
    known = [part for part in parts if part is not None]
    if len(known) != len(parts):
        return None
    return Content(tuple(element for part in known for element in part.elements))


def _gather(node: ir.Node, analysis: AxisAnalysis) -> Content | None:
    content, indices = _same(node, analysis), analysis.static_ints(node.inputs[1])
    index_content = analysis.content_of(node.inputs[1])
    if content is None or content.scalar or indices is None or index_content is None:
        return None
    length = len(content.elements)
    if any(not -length <= index < length for index in indices):
        return None
    return Content(tuple(content.elements[index] for index in indices), scalar=index_content.scalar)


def _slice(node: ir.Node, analysis: AxisAnalysis) -> Content | None:
    content = _same(node, analysis)
    bounds = [analysis.static_ints(value) for value in node.inputs[1:3]]
    steps = analysis.static_ints(node.inputs[4]) if len(node.inputs) > 4 else [1]
    if content is None or content.scalar or steps != [1] or any(b is None or len(b) != 1 for b in bounds):
        return None
    start, end = ((b or [0])[0] for b in bounds)
    return Content(content.elements[max(start, -_END) : min(end, _END)])


def _arithmetic(operation: Callable[[Size, Size], Size | None]) -> Callable[[ir.Node, AxisAnalysis], Content | None]:
    def rule(node: ir.Node, analysis: AxisAnalysis) -> Content | None:
        left, right = (analysis.content_of(value) for value in node.inputs[:2])
        if left is None or right is None:
            return None
        length = max(len(left.elements), len(right.elements))
        if length not in (len(left.elements), 1) or {len(left.elements), len(right.elements)} - {1, length}:
            return None
        pairs = zip(_stretch(left, length), _stretch(right, length), strict=True)
        elements = tuple(None if a is None or b is None else operation(a, b) for a, b in pairs)
        return Content(elements, scalar=left.scalar and right.scalar)

    return rule


def _stretch(content: Content, length: int) -> tuple[Size | None, ...]:
    return content.elements if len(content.elements) == length else content.elements * length


def _add(a: Size, b: Size) -> Size | None:
    return a + b


def _subtract(a: Size, b: Size) -> Size | None:
    return a + -b


def _divide(a: Size, b: Size) -> Size | None:
    """The exact quotient, or for plain numbers that of integers (`(64 + 1) // 2` of a chunk)."""
    exact = a.divided_by(b)
    plain = not (a.plus or b.plus or a.symbols or b.symbols)
    if exact is None and plain and a.coefficient >= 0 and b.coefficient > 0:
        return Size(a.coefficient // b.coefficient)
    return exact


def _equal(a: Size, b: Size) -> Size | None:
    if a == b:
        return Size(1)
    both_static = a.static is not None and b.static is not None
    # A symbolic size (unless it was subtracted from 0) is never negative, so it is not Reshape's or Expand's -1.
    pairs = ((a, b), (b, a))
    negative = any(one.static is not None and one.static < 0 <= other.coefficient for one, other in pairs)
    negative = negative and not (a.plus or b.plus)
    return Size(0) if both_static or negative else None


def _minimum(a: Size, b: Size) -> Size | None:
    return None if a.static is None or b.static is None else min(a, b, key=lambda size: size.coefficient)


def _maximum(a: Size, b: Size) -> Size | None:
    return None if a.static is None or b.static is None else max(a, b, key=lambda size: size.coefficient)


def _where(node: ir.Node, analysis: AxisAnalysis) -> Content | None:
    parts = [analysis.content_of(value) for value in node.inputs]
    known = [part for part in parts if part is not None]
    if len(known) != 3:
        return None
    length = max(len(part.elements) for part in known)
    rows = zip(*(_stretch(part, length) for part in known), strict=True)
    chosen = tuple(None if test is None else (then if test != Size(0) else other) for test, then, other in rows)
    return Content(chosen, scalar=all(part.scalar for part in known))


def _constant_of_shape(node: ir.Node, analysis: AxisAnalysis) -> Content | None:
    lengths = analysis.static_ints(node.inputs[0])
    attribute = node.attributes.get("value")
    if lengths is None or len(lengths) > 1 or (lengths and lengths[0] > 64):
        return None
    tensor = attribute.as_tensor() if attribute is not None else None
    if tensor is None or not is_integer(tensor.dtype):
        return None
    item = Size(int(tensor.numpy().reshape(-1)[0]))
    return Content((item,) * (lengths[0] if lengths else 1), scalar=not lengths)


def _reduce_product(node: ir.Node, analysis: AxisAnalysis) -> Content | None:
    content = _same(node, analysis)
    if content is None or any(element is None for element in content.elements):
        return None
    total = math.prod((element for element in content.elements if element is not None), start=Size(1))
    return Content((total,), scalar=int_attribute(node, "keepdims", 1) == 0)


_RULES: dict[str, Callable[[ir.Node, AxisAnalysis], Content | None]] = {
    "Add": _arithmetic(_add),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _arithmetic(_divide),
    "Equal": _arithmetic(_equal),
    "Gather": _gather,
    "Identity": _same,
    "Max": _arithmetic(_maximum),
    "Min": _arithmetic(_minimum),
    "Mul": _arithmetic(Size.__mul__),
    "Not": _not,
    "ReduceProd": _reduce_product,
    "Reshape": _vector,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _arithmetic(_subtract),
    "Unsqueeze": _vector,
    "Where": _where,
}
