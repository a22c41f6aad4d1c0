"""Random formulas of causal, padding, window, block and global terms: explained exactly as their truth, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from helpers.mask_graphs import INPUTS, MaskGraph, mask_of
from raggedrt.graph_passes.masks import Polarity, explain_mask
from raggedrt.graph_passes.masks.pairs import Pairs
from raggedrt.graph_passes.masks.spec import UNDERSTOOD, MaskSpec

pytestmark = pytest.mark.ort_cpu

Truth = Callable[[Pairs], npt.NDArray[np.bool_]]
Build = Callable[[MaskGraph], ir.Value]
LENGTHS = (1, 2, 3, 6, 13, 29, 61)


def _term(rng: np.random.Generator) -> tuple[Build, Truth]:
    """One condition, as a graph and as numpy."""
    c = int(rng.integers(1, 13))
    terms: list[tuple[Build, Truth]] = [
        (lambda g: g.causal(), lambda p: p.key <= p.query),
        (lambda g: g.padding(), lambda p: p.key_valid),
        (lambda g: g.query_padding(), lambda p: p.query_valid),
        (lambda g: g.window(c), lambda p: p.query - p.key < c),
        (lambda g: g.op.Less(g.op.Abs(g.op.Sub(g.key, g.query)), g.constant(c)), lambda p: abs(p.key - p.query) < c),
        (lambda g: g.op.GreaterOrEqual(g.query, g.constant(0)), lambda p: p.query >= 0),
        (lambda g: g.op.Less(g.key, g.constant(c)), lambda p: p.key < c),
        (lambda g: g.op.GreaterOrEqual(g.op.Sub(g.key, g.query), g.constant(-c)), lambda p: p.key - p.query >= -c),
        (
            lambda g: g.op.Equal(*(g.op.Div(slots, g.constant(c)) for slots in (g.query, g.key))),
            lambda p: p.query // c == p.key // c,
        ),
    ]
    # The first three are what models are made of: weigh them.
    return terms[int(rng.choice(len(terms), p=[0.2, 0.2, 0.1, *[0.5 / 6] * 6]))]


def _formula(rng: np.random.Generator, depth: int) -> tuple[Build, Truth]:
    if depth == 0 or rng.random() < 0.2:
        return _term(rng)
    (left, left_truth), (right, right_truth) = _formula(rng, depth - 1), _formula(rng, depth - 1)
    kind = rng.random()
    if kind < 0.55:
        return lambda g: g.op.And(left(g), right(g)), lambda p: left_truth(p) & right_truth(p)
    if kind < 0.85:
        return lambda g: g.op.Or(left(g), right(g)), lambda p: left_truth(p) | right_truth(p)
    return lambda g: g.op.Not(left(g)), lambda p: ~left_truth(p)


def _truth_at(truth: Truth, padding: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    batch, length = padding.shape
    return np.broadcast_to(truth(Pairs.of(padding)), (batch, length, length))


def _same(spec: MaskSpec, truth: Truth) -> bool:
    rng = np.random.default_rng(7)
    for length in LENGTHS:
        padding = (rng.random((6, length)) < [[1.0], [0.0], [0.2], [0.5], [0.8], [0.9]]).astype(np.int64)
        if not (spec.visible(padding) == _truth_at(truth, padding)).all():
            return False
    return True


def _unreadable(g: MaskGraph, mask: ir.Value) -> ir.Value:
    """The same mask through an op that the symbolic reading does not have."""
    return g.op.Cast(g.op.Sign(g.op.Cast(mask, to=ir.DataType.FLOAT)), to=ir.DataType.BOOL)


@pytest.mark.parametrize("seed", range(60))
def test_readable_formulas_are_explained_exactly_or_refused(seed: int) -> None:
    build, truth = _formula(np.random.default_rng(seed), depth=3)
    found = explain_mask(mask_of(build), Polarity.BOOL_KEEP, INPUTS)
    expected = [spec for spec in UNDERSTOOD if _same(spec, truth)]
    assert found.spec == expected[0] if expected else found.spec not in UNDERSTOOD, found.formula
    assert (found.reason is None) == (found.spec is not None) == found.proved
    if found.spec is not None:
        assert _same(found.spec, truth), found.formula


@pytest.mark.parametrize("seed", range(60))
def test_unreadable_formulas_are_never_explained_wrongly(seed: int) -> None:
    build, truth = _formula(np.random.default_rng(1000 + seed), depth=3)
    found = explain_mask(mask_of(lambda g: _unreadable(g, build(g))), Polarity.BOOL_KEEP, INPUTS)
    assert not found.proved
    assert (found.spec is None) == (found.reason is not None)
    if found.spec is not None:
        assert _same(found.spec, truth)
    else:
        assert not any(_same(spec, truth) for spec in UNDERSTOOD)
