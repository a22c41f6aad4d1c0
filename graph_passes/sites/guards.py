"""What exporters put around a Softmax so that a row without any visible key gives zeros, as our op does.

`Where(IsNaN(p), 0, p)` in decomposed attention of torch.onnx; `Where(Not(any(scores != -inf)), 0, p)` where the program
was decomposed before (`aten._safe_softmax`).
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
    if where.op_type != "Where" or where.inputs[2] is not weights or not _is_zero(where.inputs[1]):
        return False
    test = _producer(where.inputs[0])
    if test is not None and test.op_type == "IsNaN":
        return test.inputs[0] is weights
    return test is not None and test.op_type == "Not" and _any_finite(test.inputs[0], softmax.inputs[0])


def only_looks(node: ir.Node) -> bool:
    """Whether a reader of the weights only asks for their size, or whether they are NaN."""
    return node.op_type == "IsNaN" or node.op_type in _SIZES_ONLY


def _is_zero(value: ir.Value | None) -> bool:
    node = _producer(value)
    if node is not None and node.op_type == "Expand":
        value = node.inputs[0]
    return scalar(value) == 0.0


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
