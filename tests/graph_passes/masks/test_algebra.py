"""Random mask expressions: evaluated as defined, counted exactly, printed and parsed, written and read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.mask_specs import CONTENT_FREE, expressions, sees
from raggedrt.errors import InputError
from raggedrt.graph_passes.masks import MaskSpec
from raggedrt.graph_passes.masks.algebra import BlockBand, Causal, GlobalTokens, SameSegment, Strided, Term, Window
from raggedrt.graph_passes.masks.bigbird import BigBird
from raggedrt.graph_passes.masks.block_list import BlockList
from raggedrt.graph_passes.masks.density import kept_pairs
from raggedrt.graph_passes.masks.expressions import all_terms, any_term, from_json, to_json
from raggedrt.graph_passes.masks.short_spec import parse_expression, parse_mask
from raggedrt.plugins.contract.mask_rules import visible
from raggedrt.plugins.ops.ragged_attention.reference import reference

pytestmark = pytest.mark.none
quick = settings(max_examples=60, deadline=None)
rows_of_tokens = st.integers(1, 14).flatmap(lambda n: st.lists(st.booleans(), min_size=n, max_size=n))


@quick
@given(expressions(), rows_of_tokens)
def test_every_pair_is_seen_as_defined(expression: Term, valid: list[bool]) -> None:
    spec = MaskSpec.of_expression(expression)
    size = range(len(valid))
    expected = [[sees(expression, query, key, valid) for key in size] for query in size]
    assert spec.visible([valid]).tolist() == [expected]


@quick
@given(expressions(), rows_of_tokens)
def test_own_positions_are_those_of_the_row_without_padding(expression: Term, valid: list[bool]) -> None:
    tokens = np.flatnonzero(valid)
    own = MaskSpec.of_expression(expression, of="own").visible([valid])[0]
    length = len(valid)  # of the row: patterns that count from its end see all its slots
    alone = MaskSpec.of_expression(expression).visible_at(np.arange(len(tokens)), np.arange(len(tokens)), length)
    assert own[np.ix_(tokens, tokens)].tolist() == alone.tolist()
    assert own.sum() == alone.sum()


@quick
@given(expressions(), st.integers(1, 40))
def test_density_counts_the_pairs(expression: Term, length: int) -> None:
    spec = MaskSpec.of_expression(expression)
    assert kept_pairs(spec.expression, length) == int(spec.visible(np.ones((1, length))).sum())


@quick
@given(expressions())
def test_json_and_text_come_back(expression: Term) -> None:
    spec = MaskSpec.of_expression(expression)
    assert from_json(json.loads(json.dumps(to_json(expression)))) == expression
    assert MaskSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert parse_expression(str(expression)) == expression
    assert parse_mask(str(spec), of="padded") == spec
    assert MaskSpec.of_expression(spec.expression) == spec


@quick
@given(expressions(CONTENT_FREE), st.integers(0, 2**31))
def test_analytic_masks_are_what_the_op_makes_of_them(expression: Term, seed: int) -> None:
    analytic = MaskSpec.of_expression(expression).analytic()
    if analytic is None:
        return
    positions = np.sort(np.random.default_rng(seed).choice(20, 11, replace=False)).astype(np.int32)
    count = len(positions)
    bounds, carrier = np.array([0, count], np.int32), np.zeros(20, np.float32)
    flat = np.zeros((count, 8), np.float32)
    inputs = {
        "query": flat, "key": flat, "value": np.eye(count, dtype=np.float32),
        "cu_seqlens_q": bounds, "cu_seqlens_k": bounds, "max_seqlen_q": carrier, "max_seqlen_k": carrier,
        "positions_q": positions, "positions_k": positions,
    }  # fmt: skip
    weights = reference(inputs, {"num_heads": 1, **analytic.attributes()})["output"]
    expected = MaskSpec.of_expression(expression).visible_at(positions, positions, 20)
    assert (weights > 0).tolist() == expected.tolist()


@quick
@given(expressions(CONTENT_FREE), st.integers(1, 16))
def test_rules_show_the_same_pairs(expression: Term, length: int) -> None:
    spec = MaskSpec.of_expression(expression)
    clauses = spec.clauses()
    if clauses is None:
        return
    size = range(length)
    shown = [[visible(clauses, query, key, length) for key in size] for query in size]
    assert shown == spec.visible_at(size, size, length).tolist()


def test_canonical_specs_drop_what_is_idle() -> None:
    causal_window = MaskSpec.of_expression(all_terms(Causal(), Window(128, 64), Window(256, -1)))
    assert causal_window == MaskSpec(causal=True, pattern=Window(128, -1))
    assert MaskSpec.of_expression(Window(128, 0)) == causal_window
    globals_ = any_term(Window(4, 4), GlobalTokens((0,)))
    assert MaskSpec.of_expression(all_terms(Causal(), globals_)).analytic() is not None
    assert MaskSpec.of_expression(all_terms(Causal(), BlockBand(8, 1, 1))).pattern == BlockBand(8, 1, -1)
    assert MaskSpec.of_expression(BlockBand(8, 1, 1)).analytic() is None


def test_large_densities_have_closed_forms() -> None:
    length = 2**20
    assert MaskSpec(pattern=Window(256, 256)).density(length) == pytest.approx(513 / length, rel=1e-3)
    both = any_term(Window(256, 256), GlobalTokens((0, length - 1)))
    assert MaskSpec(pattern=both).density(length) == pytest.approx(517 / length, rel=1e-3)
    chunks = MaskSpec(causal=True, pattern=BlockBand(64, 0, -1))
    assert chunks.density(length) == pytest.approx(65 / 2 / length)
    assert MaskSpec(pattern=BigBird()).density(4096) == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize(
    ("term", "shown"),
    [
        (Window(3, 3, 2), True),
        (any_term(Window(0, 0), Strided(4)), True),
        (Strided(4), False),
        (GlobalTokens((0,)), False),
        (BigBird(), True),
        (BlockList.of_matrix(np.eye(16, dtype=bool), 16), True),
        (BlockList.of_matrix(~np.eye(16, dtype=bool), 16), False),
    ],
)
def test_which_masks_always_show_a_token_itself(term: Term, shown: bool) -> None:
    assert MaskSpec(pattern=term).shows_itself == shown


def test_documents_are_given_at_run_time() -> None:
    spec = MaskSpec.of_expression(all_terms(Causal(), SameSegment()))
    assert spec.visible([[1, 1, 1]], segments=[[0, 0, 1]]).astype(int).tolist() == [[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]
    with pytest.raises(InputError, match="document of every token"):
        spec.visible([[1, 1, 1]])


def test_random_blocks_are_the_same_always() -> None:
    tiles = BigBird(block=1, window=1, global_blocks=1, random=2, seed=7).tiles(6)
    assert tiles.astype(int).tolist() == [
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 0, 1, 0],
        [1, 0, 1, 0, 1, 1],
        [1, 1, 1, 1, 0, 0],
        [1, 0, 1, 0, 1, 1],
        [1, 1, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize("length", [16, 50])
@pytest.mark.parametrize("block", [4, 16])
def test_block_lists_hold_every_bit(length: int, block: int) -> None:
    visible = np.random.default_rng(3).random((length, length)) < 0.5
    visible[:block, :block] = True
    visible[block : 2 * block, :block] = False
    found = BlockList.of_matrix(visible, block)
    spec = MaskSpec(pattern=found)
    assert spec.visible(np.ones((1, length)))[0].tolist() == visible.tolist()
    assert MaskSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.density(length) == pytest.approx(visible.mean())
    assert (found.tags or (-1,))[0] == -1


def test_frozen_tiles_are_the_largest_that_waste_little() -> None:
    blocks = np.kron(np.eye(4, dtype=bool), np.ones((64, 64), dtype=bool))
    assert [getattr(BlockList.frozen(m), "block", None) for m in (blocks, np.eye(256, dtype=bool))] == [64, 16]
    assert BlockList.frozen(np.ones((50, 50), dtype=bool)) is None


BAD_LISTS = {
    "unsorted": (4, 8, (0, 2, 3), (1, 0, 1), "ascend"),
    "duplicate": (4, 8, (0, 2, 3), (1, 1, 1), "ascend"),
    "out of range": (4, 8, (0, 1, 2), (0, 2), "from 0 to 1"),
    "rows": (4, 8, (0, 1), (0,), "row_ptr has 3 entries"),
    "falling": (4, 8, (0, 2, 1), (0, 1), "does not fall"),
    "end": (4, 8, (0, 1, 1), (0, 1), "ends at"),
    "block": (0, 8, (0,), (), "at least 1"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_unusable_block_lists_are_refused(case: str) -> None:
    *fields, words = BAD_LISTS[case]
    with pytest.raises(InputError, match=words):
        BlockList(*fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "is a dictionary"),
        ({"padding": 1}, "no field 'padding'"),
        ({"mask": True}, "no field 'mask'"),
        ({"of": "both"}, "not of 'both'"),
        ({"pattern": {"term": "secret"}}, "Unknown mask term 'secret'"),
        ({"pattern": {"term": "window", "reach": 3}}, "'window' has unusable fields"),
        ({"pattern": {"term": "window", "left": 1.5}}, "neither a number"),
        ({"pattern": {"and": [{"term": "causal"}]}}, "two terms or more"),
        ({"pattern": {"term": "blocks", "block": 4}}, "'blocks' has unusable fields"),
    ],
)
def test_unusable_json_is_refused(document: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        MaskSpec.from_json(document)


def test_json_that_is_nested_too_deeply_is_refused() -> None:
    document: dict[str, object] = {"term": "causal"}
    for _ in range(100):
        document = {"and": [document, {"term": "causal"}]}
    with pytest.raises(InputError, match="deeper than"):
        from_json(document)
