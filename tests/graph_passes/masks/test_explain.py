"""Masks of every understood kind, in the spellings of exporters; everything else is refused with what was seen."""

from __future__ import annotations

import sys

import numpy as np
import onnx_ir as ir
import pytest

from helpers.mask_graphs import INPUTS, LOWEST, MaskGraph, mask_of
from raggedrt.graph_passes.masks import GraphInputs, MaskAxes, MaskSpec, Polarity, explain_mask
from raggedrt.graph_passes.masks.algebra import Window
from raggedrt.graph_passes.masks.describe import describe_samples
from raggedrt.graph_passes.masks.samples import Sample

pytestmark = pytest.mark.ort_cpu

PADDING = MaskSpec(padding=True)
CAUSAL = MaskSpec(causal=True)
BOTH = MaskSpec(padding=True, causal=True)
ADD, KEEP, DROP = Polarity.ADDITIVE, Polarity.BOOL_KEEP, Polarity.BOOL_DROP


def _bidirectional(g: MaskGraph) -> ir.Value:
    always = g.op.And(g.constant(True, np.bool_), g.op.GreaterOrEqual(g.query, g.constant(0)))
    return g.op.And(always, g.padding())


def _old_style(g: MaskGraph) -> ir.Value:
    mask = g.op.Cast(g.op.Unsqueeze(g.attention_mask, g.constant([1, 2])), to=ir.DataType.FLOAT)
    return g.op.Mul(g.op.Sub(g.constant(1.0, np.float32), mask), g.constant(-10000.0, np.float32))


def _outer_product(g: MaskGraph) -> ir.Value:
    keys = g.op.Unsqueeze(g.attention_mask, g.constant([1, 2]))
    queries = g.op.Unsqueeze(g.op.Squeeze(keys, g.constant([-2])), g.constant([-1]))
    return g.op.Not(g.op.Cast(g.op.Mul(keys, queries), to=ir.DataType.BOOL))


def _trilu(g: MaskGraph) -> ir.Value:
    size = g.op.Shape(g.input_ids, start=1, end=2)
    full = g.op.Expand(g.constant(float("-inf"), np.float32), g.op.Concat(size, size, axis=0))
    return g.op.Trilu(full, g.constant(1), upper=1)


def _torchscript_gather(g: MaskGraph) -> ir.Value:
    """Flatten and Gather at b * S + k, then a Concat'ed Expand with -1 replaced, as TorchScript writes it."""
    op = g.op
    valid = op.Cast(g.attention_mask, to=ir.DataType.BOOL)
    flat = op.Flatten(op.Unsqueeze(valid, g.constant([2])), axis=2)
    flat = op.Reshape(flat, g.constant([-1]))
    rows = op.Unsqueeze(op.Range(g.constant(0), g.size(0), g.constant(1)), g.constant([1, 2, 3]))
    at = op.Add(g.key, op.Mul(rows, op.Gather(op.Shape(valid), g.constant(1), axis=0)))
    keep = op.And(g.causal(), op.Gather(flat, at, axis=0))
    sizes = op.Concat(
        op.Unsqueeze(g.size(0), g.constant([0])),
        g.constant([-1]),
        op.Unsqueeze(g.size(1), g.constant([0])),
        op.Unsqueeze(g.size(1), g.constant([0])),
        axis=0,
    )
    ones = op.ConstantOfShape(op.Shape(sizes), value=ir.tensor(np.array([1], dtype=np.int64)))
    target = op.Where(op.Equal(sizes, op.Mul(ones, g.constant(-1))), ones, sizes)
    return g.additive(op.Expand(keep, target))


def _causal_table(g: MaskGraph) -> ir.Value:
    """GPT-2's triangular buffer, cut to the sequence."""
    table = g.constant(np.tril(np.ones((1, 1, 64, 64), dtype=bool)), np.bool_)
    end = g.op.Shape(g.input_ids, start=1, end=2)
    rows = g.op.Slice(table, g.constant([0]), end, g.constant([2]), g.constant([1]))
    return g.op.Slice(rows, g.constant([0]), end, g.constant([3]), g.constant([1]))


def _sum_of_masks(g: MaskGraph) -> ir.Value:
    return g.op.Add(g.additive(g.causal()), g.additive(g.padding()))


def _packed_positions(g: MaskGraph) -> ir.Value:
    """Sequences told apart by jumps of position, of which arange has none."""
    op = g.op
    shape = op.Concat(op.Shape(g.input_ids, start=0, end=1), g.constant([1]), axis=0)
    numbers = op.Range(g.constant(0), g.size(1), g.constant(1))
    positions = op.Expand(op.Unsqueeze(numbers, g.constant([0])), shape)
    first = op.Slice(positions, g.constant([0]), g.constant([1]), g.constant([1]))
    longer = op.Concat(op.Sub(first, g.constant(1)), positions, axis=-1)
    length = op.Shape(g.input_ids, start=1, end=2)
    after = op.Slice(longer, g.constant([1]), op.Add(length, g.constant([1])), g.constant([-1]))
    before = op.Slice(longer, g.constant([0]), length, g.constant([-1]))
    jumps = op.Not(op.Equal(op.Sub(after, before), g.constant(1)))
    sequence = op.CumSum(op.Cast(jumps, to=ir.DataType.INT64), g.constant(-1))
    same = op.Equal(op.Unsqueeze(sequence, g.constant([1, 3])), op.Unsqueeze(sequence, g.constant([1, 2])))
    return op.And(same, g.causal())


def _vision(g: MaskGraph) -> ir.Value:
    shape = g.op.Concat(g.op.Shape(g.input_ids, start=0, end=1), g.constant([1, 17, 17]), axis=0)
    return g.op.Expand(g.constant(np.ones((1, 1, 17, 1), dtype=bool), np.bool_), shape)


UNDERSTOOD = {
    "bidirectional": (_bidirectional, KEEP, PADDING),
    "bidirectional eager": (lambda g: g.additive(_bidirectional(g)), ADD, PADDING),
    "fp16 fill": (lambda g: g.additive(g.padding(), -65504.0), ADD, PADDING),
    "one minus mask": (_old_style, ADD, PADDING),
    "causal": (lambda g: g.causal(), KEEP, CAUSAL),
    "causal and padding": (lambda g: g.op.And(g.causal(), g.padding()), KEEP, BOTH),
    "causal times padding": (
        lambda g: g.op.Cast(
            g.op.Mul(g.op.Cast(g.causal(), to=ir.DataType.INT64), g.op.Cast(g.padding(), to=ir.DataType.INT64)),
            to=ir.DataType.BOOL,
        ),
        KEEP,
        BOTH,
    ),
    "not hidden": (lambda g: g.op.Not(g.op.And(g.causal(), g.padding())), DROP, BOTH),
    "sum of two masks": (_sum_of_masks, ADD, BOTH),
    "upper triangle of -inf": (_trilu, ADD, CAUSAL),
    "triangular table": (_causal_table, KEEP, CAUSAL),
    "TorchScript gather": (_torchscript_gather, ADD, BOTH),
    "outer product": (_outer_product, DROP, MaskSpec(padding=True, padded_queries_masked=True)),
    "packed positions that never jump": (_packed_positions, KEEP, CAUSAL),
    "wide band": (
        lambda g: g.op.And(g.op.LessOrEqual(g.key, g.op.Add(g.query, g.constant(3))), g.causal()),
        KEEP,
        CAUSAL,
    ),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_understood_masks_are_proved(name: str) -> None:
    build, polarity, spec = UNDERSTOOD[name]
    found = explain_mask(mask_of(build), polarity, INPUTS)
    assert found.reason is None
    assert (found.spec, found.proved) == (spec, True)
    assert len(found.probed_lengths) >= 5


def test_no_mask_shows_everything() -> None:
    assert explain_mask(None, ADD, INPUTS).spec == MaskSpec()


def test_a_vision_model_without_token_inputs_takes_its_length_from_the_mask() -> None:
    found = explain_mask(mask_of(_vision), KEEP, GraphInputs(None))
    assert (found.spec, found.proved, found.probed_lengths) == (MaskSpec(), True, (17,))


@pytest.mark.parametrize(("batch", "sequence"), [(1, 16), (2, 12), (5, 7), (3, 1)])
def test_static_shapes_are_probed_at_that_size_only(batch: int, sequence: int) -> None:
    mask = mask_of(_sum_of_masks, batch=batch, sequence=sequence)
    found = explain_mask(mask, ADD, GraphInputs("attention_mask", ("input_ids",), batch, sequence))
    assert (found.spec, found.proved) == (BOTH if sequence > 1 else PADDING, True)
    assert found.probed_lengths == (sequence,)


def test_a_window_that_never_bites_at_a_static_length_is_no_window() -> None:
    mask = mask_of(lambda g: g.op.And(g.window(32), g.causal()), batch=2, sequence=16)
    assert explain_mask(mask, KEEP, GraphInputs("attention_mask", ("input_ids",), 2, 16)).spec == CAUSAL


REFUSED = {
    "nothing visible": (lambda g: g.op.Less(g.key, g.constant(0)), KEEP, "no key is visible"),
    "padding shifts the bias": (
        lambda g: g.op.Add(
            g.op.Cast(g.op.Unsqueeze(g.attention_mask, g.constant([1, 2])), to=ir.DataType.FLOAT),
            g.op.Cast(g.op.Sub(g.query, g.key), to=ir.DataType.FLOAT),
        ),
        ADD,
        "adds a bias that depends on the padding mask",
    ),
    "all but the diagonal": (lambda g: g.op.Not(g.op.Equal(g.query, g.key)), KEEP, "a pattern of distances"),
    "strictly causal": (lambda g: g.op.Less(g.key, g.query), KEEP, "1 <= q-k"),
    "padded queries only": (lambda g: g.query_padding(), KEEP, "attention_mask[b, q]"),
    "inverted padding": (lambda g: g.op.Not(g.padding()), KEEP, "not attention_mask[b, k]"),
    "segments from ids": (
        lambda g: g.op.Equal(
            g.op.Unsqueeze(g.input_ids, g.constant([1, 2])), g.op.Unsqueeze(g.input_ids, g.constant([1, 3]))
        ),
        KEEP,
        "depends on input input_ids",
    ),
    "padding from a rare id": (
        lambda g: g.op.Not(g.op.Equal(g.op.Unsqueeze(g.input_ids, g.constant([1, 2])), g.constant(50256))),
        KEEP,
        "depends on input input_ids",
    ),
    "padding from a negative id": (
        lambda g: g.op.Not(g.op.Equal(g.op.Unsqueeze(g.input_ids, g.constant([1, 2])), g.constant(-100))),
        KEEP,
        "depends on input input_ids",
    ),
    "left padding shifts blocks": (lambda g: _chunks(g), KEEP, "count from the first token of a row"),
    "heads differ": (
        lambda g: g.op.LessOrEqual(g.op.Sub(g.key, g.query), g.constant([[[[0]], [[1]]]])),
        KEEP,
        "differs between heads",
    ),
    "cross attention": (lambda g: g.op.Concat(g.causal(), g.causal(), axis=-1), KEEP, "different length"),
    "matrix product": (
        lambda g: g.op.MatMul(g.op.Cast(g.query, to=ir.DataType.FLOAT), g.op.Cast(g.key, to=ir.DataType.FLOAT)),
        ADD,
        "matrix product",
    ),
    "random": (lambda g: g.op.Bernoulli(g.op.Cast(g.padding(), to=ir.DataType.FLOAT)), KEEP, "random"),
    "foreign op": (lambda g: g.op.op("Secret", [g.padding()], domain="com.example"), KEEP, "com.example::Secret"),
}


def _chunks(g: MaskGraph) -> ir.Value:
    """Blocks that start at the first token of each row."""
    op = g.op
    tokens = op.ReduceSum(g.attention_mask, g.constant([1]), keepdims=0)
    start = op.Unsqueeze(op.Sub(g.size(1), tokens), g.constant([1, 2, 3]))
    blocks = [op.Div(op.Sub(slots, start), g.constant(4)) for slots in (g.query, g.key)]
    return op.And(op.And(op.Equal(*blocks), g.causal()), g.padding())


@pytest.mark.parametrize("name", REFUSED)
def test_other_masks_are_refused_with_what_was_seen(name: str) -> None:
    build, polarity, words = REFUSED[name]
    found = explain_mask(mask_of(build), polarity, INPUTS)
    assert found.spec is None
    assert not found.proved
    assert words in (found.reason or "")


def test_an_input_with_another_axis_is_named() -> None:
    def build(g: MaskGraph) -> ir.Value:
        past = g.add_input("past", ["batch", "past_length"])
        total = g.op.Add(g.size(1), g.op.Squeeze(g.op.Shape(past, start=1, end=2)))
        return g.op.LessOrEqual(g.op.Range(g.constant(0), total, g.constant(1)), g.query)

    assert "input past, whose axis past_length" in (explain_mask(mask_of(build), KEEP, INPUTS).reason or "")


def test_unreadable_masks_are_tested_but_not_proved() -> None:
    def build(g: MaskGraph) -> ir.Value:
        return g.op.Cast(g.op.Sign(g.op.Cast(g.op.And(g.causal(), g.padding()), to=ir.DataType.FLOAT)), to=9)

    found = explain_mask(mask_of(build), KEEP, INPUTS)
    assert (found.spec, found.proved, found.reason) == (BOTH, False, None)


@pytest.mark.parametrize("limit", [7.5, 1000.5])
def test_a_distance_compared_as_a_float_is_a_window(limit: float) -> None:
    def build(g: MaskGraph) -> ir.Value:
        distance = g.op.Cast(g.op.Abs(g.op.Sub(g.query, g.key)), to=ir.DataType.FLOAT)
        return g.op.LessOrEqual(distance, g.constant(limit, np.float32))

    window = MaskSpec(pattern=Window(int(limit), int(limit)))
    found = explain_mask(mask_of(build), KEEP, INPUTS)
    assert (found.spec, found.proved) == (window, True)
    unread = explain_mask(mask_of(lambda g: g.op.Sign(g.op.Cast(build(g), to=ir.DataType.FLOAT))), KEEP, INPUTS)
    assert (unread.spec, unread.proved) == (window, False)


@pytest.mark.parametrize("causal", [False, True])
def test_rows_opened_because_they_see_nothing_are_tested(causal: bool) -> None:
    """Older transformers: mask * ~(mask == lowest).all(-1)."""

    def build(g: MaskGraph) -> ir.Value:
        mask = g.additive(g.op.And(g.causal(), g.padding()) if causal else g.padding())
        hidden = g.op.Cast(g.op.Equal(mask, g.constant(LOWEST, np.float32)), to=ir.DataType.INT32)
        nothing = g.op.Cast(g.op.ReduceMin(hidden, g.constant([-1]), keepdims=1), to=ir.DataType.BOOL)
        return g.op.Mul(mask, g.op.Cast(g.op.Not(nothing), to=ir.DataType.FLOAT))

    found = explain_mask(mask_of(build), ADD, INPUTS)
    assert found.spec == MaskSpec(padding=True, causal=causal, unattended_rows_open=True)
    assert not found.proved


def test_an_unreadable_mask_with_a_constant_too_large_to_probe_is_refused() -> None:
    def build(g: MaskGraph) -> ir.Value:
        keep = g.op.And(g.op.And(g.window(100_000), g.causal()), g.padding())
        return g.op.Cast(g.op.Sign(g.op.Cast(keep, to=ir.DataType.FLOAT)), to=9)

    found = explain_mask(mask_of(build), KEEP, INPUTS)
    assert found.spec is None
    assert found.unprobed_constants == (100_000,)
    assert "100000 are too large" in (found.reason or "")


def test_a_mask_that_is_a_graph_input_itself() -> None:
    graph = MaskGraph()
    mask = graph.attention_mask
    graph.finish(graph.op.Identity(mask))
    found = explain_mask(mask, KEEP, INPUTS, MaskAxes.BATCH_KEYS)
    assert (found.spec, found.proved) == (PADDING, True)


def test_a_four_dimensional_mask_input_is_named() -> None:
    graph = MaskGraph()
    mask = graph.add_input("mask4d", ["batch", 1, "seq", "seq"], ir.DataType.BOOL)
    graph.finish(graph.op.Identity(mask))
    assert "depends on input mask4d" in (explain_mask(mask, KEEP, INPUTS).reason or "")


@pytest.mark.parametrize("mask_type", [ir.DataType.INT32, ir.DataType.BOOL, ir.DataType.FLOAT])
def test_padding_masks_of_every_type(mask_type: ir.DataType) -> None:
    found = explain_mask(mask_of(_bidirectional, mask_type=mask_type), KEEP, INPUTS)
    assert (found.spec, found.proved) == (PADDING, True)


def test_key_lengths_are_the_number_of_tokens_in_each_row_or_refused() -> None:
    mask = mask_of(lambda g: g.op.Cast(g.op.ReduceSum(g.attention_mask, g.constant([1]), keepdims=0), to=6))
    assert explain_mask(mask, KEEP, INPUTS, MaskAxes.KEY_LENGTHS).spec == MaskSpec(padding=True)
    last = mask_of(lambda g: g.op.Cast(g.op.ReduceMax(g.attention_mask, g.constant([1]), keepdims=0), to=6))
    reason = explain_mask(last, KEEP, INPUTS, MaskAxes.KEY_LENGTHS).reason
    assert reason is not None
    assert reason.startswith("it gives key lengths that are not the number of tokens in each row")


def test_contrib_mask_of_batch_queries_keys() -> None:
    mask = mask_of(lambda g: g.op.Squeeze(g.op.And(g.causal(), g.padding()), g.constant([1])))
    assert explain_mask(mask, KEEP, INPUTS, MaskAxes.BATCH_QUERIES_KEYS).spec == BOTH


def test_a_table_that_is_too_large_is_refused() -> None:
    mask = mask_of(lambda g: g.op.And(g.constant(np.ones((1, 1, 8200, 8200), dtype=bool), np.bool_), g.padding()))
    assert "a constant of 64 MiB" in (explain_mask(mask, KEEP, INPUTS).reason or "")


def test_a_sub_graph_that_is_too_long_is_refused() -> None:
    def build(g: MaskGraph) -> ir.Value:
        mask = g.padding()
        for _ in range(400):
            mask = g.op.Identity(mask)
        return mask

    assert "more than 400 nodes" in (explain_mask(mask_of(build), KEEP, INPUTS).reason or "")


def test_without_onnxruntime_the_reference_evaluator_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = explain_mask(mask_of(_bidirectional), KEEP, INPUTS)
    assert (found.spec, found.proved) == (PADDING, True)
    assert "different length" in (explain_mask(mask_of(REFUSED["cross attention"][0]), KEEP, INPUTS).reason or "")


def test_the_original_graph_is_left_as_it_is() -> None:
    mask = mask_of(_sum_of_masks)
    node = mask.producer()
    assert node is not None
    graph = node.graph
    assert graph is not None
    before = [(n.op_type, [v.name for v in n.inputs if v], [v.name for v in n.outputs]) for n in graph]
    explain_mask(mask, ADD, INPUTS)
    assert [(n.op_type, [v.name for v in n.inputs if v], [v.name for v in n.outputs]) for n in graph] == before
    assert mask.producer() is node


def test_a_mask_that_shows_nothing_without_padding_is_called_inverted() -> None:
    padding = np.array([[1, 1, 1], [1, 1, 0]])
    visible = np.broadcast_to(padding[:, None, :] == 0, (2, 3, 3))
    assert "is the mask inverted?" in describe_samples([Sample(padding, visible)])
