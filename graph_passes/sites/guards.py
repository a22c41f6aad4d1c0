"""What exporters put around a Softmax so that a row without any visible key gives zeros, as our op does.

`Where(IsNaN(p), 0, p)` in decomposed attention of torch.onnx; `Where(Not(any(scores != -inf)), 0, p)` where the program
was decomposed before (`aten._safe_softmax`); `Where(max(bias) == -inf, 0, p)` in the function of ONNX `Attention`.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from raggedrt.graph_passes.sites.mask_terms import scalar

_SAME_TRUTH = ("Cast", "Identity")
_SIZES_ONLY = ("Shape", "Size")


def is_guard(where: ir.Node, weights: ir.Value, softmax: ir.Node) -> bool:
    """Whether `where` gives zeros where `weights` are those of a row without a visible key, else the weights."""
    if where.op_type != "Where" or where.inputs[2] is not weights or not _is_number(where.inputs[1], 0.0):
        return False
    test = _producer(where.inputs[0])
    if test is not None and test.op_type == "IsNaN":
        return test.inputs[0] is weights
    if test is not None and test.op_type == "Equal":
        return _all_hidden(test, softmax.inputs[0])
    return test is not None and test.op_type == "Not" and _any_finite(test.inputs[0], softmax.inputs[0])


def only_looks(node: ir.Node) -> bool:
    """Whether a reader of the weights only asks for their size, or whether they are NaN."""
    return node.op_type == "IsNaN" or node.op_type in _SIZES_ONLY


def _any_finite(value: ir.Value | None, scores: ir.Value | None) -> bool:
    """`ReduceMax(Not(scores == -inf))` along the keys, through casts."""
    node = _behind_casts(value)
    if (
        node is None
        or node.op_type != "ReduceMax"
        or not node.attributes.get_int("keepdims", 1)
        or not _last_axis(node)
    ):
        return False
    kept = _behind_casts(node.inputs[0])
    if kept is None or kept.op_type != "Not":
        return False
    equal = _producer(kept.inputs[0])
    return (
        equal is not None
        and equal.op_type == "Equal"
        and scores in equal.inputs
        and any(scalar(operand) == -math.inf for operand in equal.inputs)
    )


def _all_hidden(equal: ir.Node, scores: ir.Value | None) -> bool:
    """`ReduceMax(bias) == -inf` along the keys, of what was added to the scores last."""
    infinite = [operand for operand in equal.inputs if _is_number(operand, -math.inf)]
    rest = [operand for operand in equal.inputs if operand not in infinite]
    highest = _producer(rest[0]) if len(infinite) == len(rest) == 1 else None
    added = _behind_casts(scores)
    return (
        highest is not None
        and highest.op_type == "ReduceMax"
        and bool(highest.attributes.get_int("keepdims", 1))
        and _last_axis(highest)
        and added is not None
        and added.op_type == "Add"
        and highest.inputs[0] in added.inputs
    )


def _is_number(value: ir.Value | None, number: float) -> bool:
    """A constant of one element, through a cast or spread over a shape."""
    node = _producer(value)
    while node is not None and node.op_type in ("Cast", "CastLike", "Expand"):
        value = node.inputs[0]
        node = _producer(value)
    return scalar(value) == number


def _last_axis(node: ir.Node) -> bool:
    axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    return axes is not None and np.asarray(axes.numpy()).tolist() == [-1]


def _behind_casts(value: ir.Value | None) -> ir.Node | None:
    node = _producer(value)
    while node is not None and node.op_type in _SAME_TRUTH:
        node = _producer(node.inputs[0])
    return node


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()
