"""Sparse masks in the spellings of exporters, explained exactly: windows, dilation, globals, blocks, biases."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from helpers.mask_graphs import INPUTS, LOWEST, MaskGraph, mask_of
from raggedrt.graph_passes.masks import GraphInputs, MaskSpec, Polarity, explain_mask
from raggedrt.graph_passes.masks.algebra import (
    BlockBand,
    Causal,
    GlobalTokens,
    KeyPadding,
    Prefix,
    QueryPadding,
    Strided,
    Term,
    Window,
)
from raggedrt.graph_passes.masks.block_list import BlockList
from raggedrt.graph_passes.masks.expressions import all_terms, any_term

pytestmark = pytest.mark.ort_cpu
KEEP, ADD = Polarity.BOOL_KEEP, Polarity.ADDITIVE
Build = Callable[[MaskGraph], ir.Value]


def _distance(g: MaskGraph) -> ir.Value:
    return g.op.Abs(g.op.Sub(g.query, g.key))


def _band(reach: int) -> Build:
    return lambda g: g.op.LessOrEqual(_distance(g), g.constant(reach))


def _dilated(g: MaskGraph) -> ir.Value:
    near = g.op.LessOrEqual(_distance(g), g.constant(16))
    return g.op.And(near, g.op.Equal(g.op.Mod(g.op.Sub(g.query, g.key), g.constant(4)), g.constant(0)))


def _dilated_by_size(g: MaskGraph) -> ir.Value:
    near = g.op.Less(_distance(g), g.constant(9))
    return g.op.And(near, g.op.Equal(g.op.Mod(_distance(g), g.constant(3)), g.constant(0)))


def _listed(g: MaskGraph, slots: ir.Value, positions: tuple[int, ...]) -> ir.Value:
    found = g.op.Equal(slots, g.constant(positions[0]))
    for position in positions[1:]:
        found = g.op.Or(found, g.op.Equal(slots, g.constant(position)))
    return found


def _globals(positions: tuple[int, ...], local: Build) -> Build:
    def build(g: MaskGraph) -> ir.Value:
        either = g.op.Or(_listed(g, g.query, positions), _listed(g, g.key, positions))
        return g.op.Or(either, local(g))

    return build


def _block_band(block: int, reach: int) -> Build:
    def build(g: MaskGraph) -> ir.Value:
        blocks = [g.op.Div(slots, g.constant(block)) for slots in (g.query, g.key)]
        return g.op.LessOrEqual(g.op.Abs(g.op.Sub(*blocks)), g.constant(reach))

    return build


def _block_global(g: MaskGraph) -> ir.Value:
    first = [g.op.Equal(g.op.Div(slots, g.constant(8)), g.constant(0)) for slots in (g.query, g.key)]
    return g.op.Or(_block_band(8, 1)(g), g.op.Or(*first))


def _prefix(g: MaskGraph) -> ir.Value:
    return g.op.Or(g.causal(), g.op.Less(g.key, g.constant(6)))


PATTERNS: dict[str, tuple[Build, Term]] = {
    "two-sided window, inclusive": (_band(4), Window(4, 4)),
    "two-sided window, exclusive": (lambda g: g.op.Less(_distance(g), g.constant(5)), Window(4, 4)),
    "window with unequal sides": (
        lambda g: g.op.And(g.window(8), g.op.LessOrEqual(g.key, g.op.Add(g.query, g.constant(3)))),
        Window(7, 3),
    ),
    "causal window": (lambda g: g.op.And(g.window(8), g.causal()), all_terms(Causal(), Window(7))),
    "causal window, inclusive": (
        lambda g: g.op.And(g.op.GreaterOrEqual(g.key, g.op.Sub(g.query, g.constant(8))), g.causal()),
        all_terms(Causal(), Window(8)),
    ),
    "one-sided window": (lambda g: g.window(8), Window(7)),
    "anticausal": (lambda g: g.op.GreaterOrEqual(g.key, g.query), Window(0)),
    "diagonal": (lambda g: g.op.Equal(g.key, g.query), all_terms(Causal(), Window(0))),
    "dilated": (_dilated, Window(16, 16, 4)),
    "dilated by size": (_dilated_by_size, Window(6, 6, 3)),
    "strides": (
        lambda g: g.op.Equal(g.op.Mod(g.op.Sub(g.query, g.key), g.constant(4)), g.constant(0)),
        Window(dilation=4),
    ),
    "global tokens and a window": (_globals((0, 1), _band(4)), any_term(GlobalTokens((0, 1)), Window(4, 4))),
    "scattered global tokens": (_globals((0, 7), _band(3)), any_term(GlobalTokens((0, 7)), Window(3, 3))),
    "global tokens and a dilated window": (_globals((0,), _dilated), any_term(GlobalTokens((0,)), Window(16, 16, 4))),
    "causal global tokens": (
        lambda g: g.op.And(g.causal(), _globals((0,), _band(4))(g)),
        all_terms(Causal(), any_term(GlobalTokens((0,)), Window(4))),
    ),
    "global columns": (
        lambda g: g.op.Or(g.op.Equal(g.key, g.constant(2)), _band(4)(g)),
        any_term(GlobalTokens((2,), rows=False), Window(4, 4)),
    ),
    "attention sinks": (  # a causal window, and the first keys for all
        lambda g: g.op.And(g.causal(), g.op.Or(g.op.Less(g.key, g.constant(4)), g.window(8))),
        all_terms(Causal(), any_term(Prefix(4), Window(7))),
    ),
    "block band": (_block_band(8, 1), BlockBand(8, 1, 1)),
    "block diagonal": (
        lambda g: g.op.Equal(*(g.op.Div(slots, g.constant(4)) for slots in (g.query, g.key))),
        BlockBand(4, 0, 0),
    ),
    "causal blocks": (
        lambda g: g.op.And(g.causal(), _block_band(8, 1)(g)),
        all_terms(Causal(), BlockBand(8, 1, -1)),
    ),
    "block band and a global block": (_block_global, any_term(BlockBand(8, 1, 1), GlobalTokens(tuple(range(8))))),
    "summary columns": (
        lambda g: g.op.Or(_band(3)(g), g.op.Equal(g.op.Mod(g.key, g.constant(8)), g.constant(7))),
        any_term(Window(3, 3), Strided(8, 7)),
    ),
    "chunks and their last columns": (
        lambda g: g.op.And(
            g.causal(), g.op.Or(_block_band(8, 0)(g), g.op.Equal(g.op.Mod(g.key, g.constant(8)), g.constant(7)))
        ),
        all_terms(Causal(), any_term(BlockBand(8, 0, -1), Strided(8, 7))),
    ),
    "a window and a stride": (
        lambda g: g.op.Or(
            _band(4)(g), g.op.Equal(g.op.Mod(g.op.Sub(g.query, g.key), g.constant(8)), g.constant(0))
        ),
        any_term(Window(4, 4), Window(dilation=8)),
    ),
    "prefix": (_prefix, any_term(Causal(), Prefix(6))),
}  # fmt: skip


def _meaning(spec: MaskSpec | None, length: int = 61) -> object:
    return None if spec is None else spec.visible(np.random.default_rng(5).integers(0, 2, (4, length))).tolist()


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("padding", ["none", "key", "key and query"])
def test_patterns_are_proved(name: str, padding: str) -> None:
    build, pattern = PATTERNS[name]

    def padded(g: MaskGraph) -> ir.Value:
        mask = build(g)
        mask = mask if padding == "none" else g.op.And(mask, g.padding())
        return g.op.And(mask, g.query_padding()) if padding == "key and query" else mask

    found = explain_mask(mask_of(padded), KEEP, INPUTS)
    terms = {"none": (), "key": (KeyPadding(),), "key and query": (KeyPadding(), QueryPadding())}[padding]
    assert (found.reason, found.proved) == (None, True)
    assert _meaning(found.spec) == _meaning(MaskSpec.of_expression(all_terms(pattern, *terms)))


@pytest.mark.parametrize("name", [name for name in PATTERNS if name != "strides"])
def test_patterns_that_cannot_be_read_are_tested(name: str) -> None:
    build, pattern = PATTERNS[name]

    def hidden(g: MaskGraph) -> ir.Value:
        return g.op.Cast(g.op.Sign(g.op.Cast(g.op.And(build(g), g.padding()), to=ir.DataType.FLOAT)), to=9)

    found = explain_mask(mask_of(hidden), KEEP, INPUTS)
    assert (found.reason, found.proved) == (None, False)
    assert _meaning(found.spec) == _meaning(MaskSpec.of_expression(all_terms(KeyPadding(), pattern)))


@pytest.mark.parametrize("name", ["two-sided window, inclusive", "causal window", "dilated", "causal global tokens"])
def test_patterns_with_an_analytic_form_have_it(name: str) -> None:
    spec = MaskSpec.of_expression(PATTERNS[name][1])
    found = explain_mask(mask_of(PATTERNS[name][0]), KEEP, INPUTS).spec
    assert found == spec
    assert spec.analytic() is not None


@pytest.mark.parametrize("length", [3, 4, 5, 6, 9, 16, 30])
@pytest.mark.parametrize("readable", [True, False])
def test_windows_below_at_and_above_a_static_length(length: int, readable: bool) -> None:
    def build(g: MaskGraph) -> ir.Value:
        mask = g.op.And(_band(4)(g), g.padding())
        return mask if readable else g.op.Sign(g.op.Cast(mask, to=ir.DataType.FLOAT))

    inputs = GraphInputs("attention_mask", ("input_ids",), 2, length)
    found = explain_mask(mask_of(build, batch=2, sequence=length), KEEP, inputs)
    assert found.spec == (MaskSpec(padding=True) if length <= 5 else MaskSpec(padding=True, pattern=Window(4, 4)))
    assert found.proved == readable


def test_rows_of_a_window_opened_because_they_see_nothing() -> None:
    """Older transformers: mask * ~(mask == lowest).all(-1)."""

    def build(g: MaskGraph) -> ir.Value:
        mask = g.additive(g.op.And(_band(4)(g), g.padding()))
        hidden = g.op.Cast(g.op.Equal(mask, g.constant(LOWEST, np.float32)), to=ir.DataType.INT32)
        nothing = g.op.Cast(g.op.ReduceMin(hidden, g.constant([-1]), keepdims=1), to=ir.DataType.BOOL)
        return g.op.Mul(mask, g.op.Cast(g.op.Not(nothing), to=ir.DataType.FLOAT))

    found = explain_mask(mask_of(build), ADD, INPUTS)
    assert found.spec == MaskSpec(padding=True, unattended_rows_open=True, pattern=Window(4, 4))


def test_blocks_too_large_to_prove_are_tested() -> None:
    def build(g: MaskGraph) -> ir.Value:
        blocks = [g.op.Div(slots, g.constant(512)) for slots in (g.query, g.key)]
        return g.op.And(g.op.And(g.causal(), g.op.Equal(*blocks)), g.padding())

    found = explain_mask(mask_of(build), KEEP, INPUTS)
    assert found.spec == MaskSpec(padding=True, causal=True, pattern=BlockBand(512, 0, -1))
    assert (found.proved, max(found.probed_lengths)) == (False, 1539)


def test_a_window_too_large_to_probe_is_proved_by_its_formula() -> None:
    found = explain_mask(mask_of(lambda g: g.op.And(g.window(200_000), g.causal())), KEEP, INPUTS)
    assert found.spec == MaskSpec(causal=True, pattern=Window(199_999))
    assert (found.proved, found.unprobed_constants) == (True, (200_000,))


# --- static sequences -------------------------------------------------------------------------------------------


def _table(length: int, seed: int = 11) -> np.ndarray:  # type: ignore[type-arg]
    tiles = np.random.default_rng(seed).random((length // 16, length // 16)) < 0.4
    np.fill_diagonal(tiles, val=True)
    table = np.kron(tiles, np.ones((16, 16), dtype=bool))
    table[3, 4] = False
    return table


def test_static_patterns_are_frozen_to_tiles_with_their_bits() -> None:
    table = _table(64)

    def build(g: MaskGraph) -> ir.Value:
        return g.op.And(g.constant(table[None, None], np.bool_), g.padding())

    found = explain_mask(mask_of(build, batch=2, sequence=64), KEEP, GraphInputs("attention_mask", (), 2, 64))
    assert found.spec == MaskSpec(padding=True, pattern=BlockList.of_matrix(table, 16))
    assert not found.proved
    assert found.spec.analytic() is None
    assert "tiles of 16 x 16 at 64 tokens" in found.spec.describe()


def test_a_frozen_formula_is_proved_pair_by_pair() -> None:
    def build(g: MaskGraph) -> ir.Value:  # an odd pattern: every block sees all blocks at an even distance
        blocks = [g.op.Div(slots, g.constant(16)) for slots in (g.query, g.key)]
        return g.op.Equal(g.op.Mod(g.op.Sub(*blocks), g.constant(2)), g.constant(0))

    inputs = GraphInputs("attention_mask", (), 2, 64)
    found = explain_mask(mask_of(build, batch=2, sequence=64), KEEP, inputs)
    block = np.arange(64) // 16
    table = (block[:, None] - block) % 2 == 0
    assert (found.spec, found.proved) == (MaskSpec(pattern=BlockList.of_matrix(table, 16)), True)
    assert explain_mask(mask_of(build), KEEP, INPUTS).spec is None


def test_static_patterns_at_a_length_that_no_tile_divides_are_refused() -> None:
    table = _table(64)[:50, :50]
    mask = mask_of(lambda g: g.constant(table[None, None], np.bool_), batch=1, sequence=50)
    assert explain_mask(mask, KEEP, GraphInputs("attention_mask", (), 1, 50)).spec is None


# --- biases -----------------------------------------------------------------------------------------------------


def _relative(g: MaskGraph, heads: int = 2) -> ir.Value:
    """A table by bucketed distance, one row per head, as T5 has it: [1, N, S, S]."""
    table = g.constant(np.random.default_rng(1).normal(size=(9, heads)), np.float32)
    bucket = g.op.Clip(g.op.Sub(g.slots(1, 2), g.slots(0, 2)), g.constant(-4), g.constant(4))
    bias = g.op.Gather(table, g.op.Add(bucket, g.constant(4)), axis=0)
    return g.op.Unsqueeze(g.op.Transpose(bias, perm=[2, 0, 1]), g.constant([0]))


def _dense(g: MaskGraph) -> ir.Value:
    table = g.constant(np.random.default_rng(2).normal(size=(1, 1, 400, 400)), np.float32)
    end = g.op.Shape(g.input_ids, start=1, end=2)
    for axis in (2, 3):
        table = g.op.Slice(table, g.constant([0]), end, g.constant([axis]), g.constant([1]))
    return table


@pytest.mark.parametrize(
    ("bias", "kind", "heads"), [(_relative, "distance", 2), (_dense, "dense", 1)], ids=["distance", "dense"]
)
@pytest.mark.parametrize("mask", ["none", "padding", "window"])
def test_biases_are_told_from_masks(bias: Build, kind: str, heads: int, mask: str) -> None:
    def build(g: MaskGraph) -> ir.Value:
        if mask == "none":
            return bias(g)
        keep = g.padding() if mask == "padding" else g.op.And(_band(4)(g), g.padding())
        return g.op.Add(bias(g), g.additive(keep))

    found = explain_mask(mask_of(build), ADD, INPUTS)
    specs = {"none": MaskSpec(), "padding": MaskSpec(padding=True)}
    assert found.spec == specs.get(mask, MaskSpec(padding=True, pattern=Window(4, 4)))
    assert found.bias is not None
    assert (found.bias.kind, found.bias.heads, found.reason, found.proved) == (kind, heads, None, False)
    if kind == "distance":
        table = np.random.default_rng(1).normal(size=(9, heads)).astype(np.float32)
        reach = 4 if mask == "window" else 8
        middle = found.bias.length - 1
        expected = table[np.clip(np.arange(-reach, reach + 1), -4, 4) + 4].T
        assert found.bias.values[:, middle - reach : middle + reach + 1].tolist() == expected.tolist()


def test_a_mask_over_a_bias_keeps_both() -> None:
    def build(g: MaskGraph) -> ir.Value:
        bias = g.op.Cast(g.op.Neg(_distance(g)), to=ir.DataType.FLOAT)
        return g.op.Where(g.padding(), bias, g.constant(LOWEST, np.float32))

    found = explain_mask(mask_of(build), ADD, INPUTS)
    assert found.spec == MaskSpec(padding=True)
    assert found.bias is not None
    assert found.bias.to_json() == {"kind": "distance", "heads": 1, "length": found.bias.length}


def test_a_bias_that_depends_on_an_input_is_refused() -> None:
    def build(g: MaskGraph) -> ir.Value:
        return g.op.Cast(g.op.Unsqueeze(g.input_ids, g.constant([1, 2])), to=ir.DataType.FLOAT)

    assert "depends on input input_ids" in (explain_mask(mask_of(build), ADD, INPUTS).reason or "")


# --- what the content of a batch decides ------------------------------------------------------------------------


def _packed(g: MaskGraph) -> ir.Value:
    """transformers' masks of packed sequences: documents start where positions jump."""
    op, positions = g.op, g.input_ids
    before = op.Slice(positions, g.constant([0]), g.constant([1]), g.constant([1]))
    before = op.Concat(op.Sub(before, g.constant(1)), positions, axis=1)
    before = op.Slice(before, g.constant([0]), op.Shape(positions, start=1, end=2), g.constant([1]))
    jumps = op.Cast(op.Not(op.Equal(op.Sub(positions, before), g.constant(1))), to=ir.DataType.INT64)
    document = op.CumSum(jumps, g.constant(1))
    same = op.Equal(op.Unsqueeze(document, g.constant([1, 3])), op.Unsqueeze(document, g.constant([1, 2])))
    return op.And(same, g.causal())


def _numbered(g: MaskGraph) -> ir.Value:
    return g.op.Equal(g.op.Unsqueeze(g.input_ids, g.constant([1, 2])), g.op.Unsqueeze(g.input_ids, g.constant([1, 3])))


def _marked(g: MaskGraph) -> ir.Value:
    marked = g.op.Equal(g.op.Unsqueeze(g.input_ids, g.constant([1, 2])), g.constant(0))
    return g.op.Or(marked, g.causal())


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (_packed, "documents packed into one row, told apart by jumps of their positions"),
        (_numbered, "documents packed into one row, numbered by the input"),
        (_marked, "a prefix that the input marks with 0"),
    ],
)
def test_content_dependent_masks_are_named_and_refused(build: Build, words: str) -> None:
    found = explain_mask(mask_of(build), KEEP, INPUTS)
    assert found.spec is None
    assert "depends on input input_ids" in (found.reason or "")
    assert words in (found.reason or "")
