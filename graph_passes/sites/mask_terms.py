"""Take apart what is added to the scores: `Where(keep, bias, lowest)` is a mask and a bias, `bias + mask` two terms.

Exact either way: terms are added to the scores one by one, or hide keys.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from raggedrt.graph_passes.masks.inputs import MASKED_AT_MOST, MaskAxes, Polarity
from raggedrt.graph_passes.sites.site import MaskTerm

_MAX_DEPTH = 8


def scalar(value: ir.Value | None) -> float | None:
    """The number in a constant of one element."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return float(np.asarray(value.const_value.numpy()).reshape(()))


def hidden_by_where(node: ir.Node) -> tuple[MaskTerm, ir.Value] | None:
    """`Where(keep, x, lowest)` or `Where(drop, lowest, x)`: the term that hides keys, and x."""
    condition, then, other = node.inputs
    for kept, filled, polarity in ((then, other, Polarity.BOOL_KEEP), (other, then, Polarity.BOOL_DROP)):
        fill = scalar(filled)
        if fill is not None and fill <= MASKED_AT_MOST and condition is not None and kept is not None:
            return MaskTerm(condition, polarity), kept
    return None


def split_terms(terms: list[MaskTerm]) -> list[MaskTerm]:
    """Terms as small as they get, each once."""
    return list(dict.fromkeys(part for term in terms for part in _split(term, _MAX_DEPTH)))


def _split(term: MaskTerm, depth: int) -> list[MaskTerm]:
    node = term.value.producer()
    if term.polarity is not Polarity.ADDITIVE or term.axes is not MaskAxes.BROADCAST or node is None or not depth:
        return [term]
    if node.op_type == "Add" and not node.domain:
        parts = [value for value in node.inputs if value is not None and scalar(value) != 0.0]
        if parts and all(scalar(value) is None for value in parts):
            return [p for value in parts for p in _split(dataclasses.replace(term, value=value), depth - 1)]
    if node.op_type == "Where" and not node.domain:
        found = hidden_by_where(node)
        if found is not None and _hides_where_non_zero(found[0], found[1]):
            return [found[0]]
        if found is not None and scalar(found[1]) is None:
            return [found[0], *_split(dataclasses.replace(term, value=found[1]), depth - 1)]
    return [term]


def _hides_where_non_zero(term: MaskTerm, kept: ir.Value) -> bool:
    """`Where(Cast(x, BOOL), lowest, x)`, such as `x.masked_fill(x.bool(), lowest)` of 1 - mask: x is 0 where kept."""
    test = term.value.producer()
    if term.polarity is not Polarity.BOOL_DROP or test is None or test.op_type != "Cast" or test.domain:
        return False
    return test.inputs[0] is kept
