"""BigBird and Longformer with the op in place of their attention compute what transformers computes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers.sparse_models import feeds, outputs, paddings, tiny  # noqa: E402
from helpers.tolerances import Tolerance, assert_close  # noqa: E402
from raggedrt.errors import InputError  # noqa: E402
from raggedrt.models import big_bird, longformer  # noqa: E402
from raggedrt.models.catalog import ADAPTERS, adapter_for  # noqa: E402

pytestmark = pytest.mark.none
CLOSE = Tolerance(1e-5, 1e-4)


@pytest.mark.parametrize("length", [5, 72, 73, 80, 131])
def test_big_bird(length: int) -> None:
    """Up to 72 slots it is dense; above, the length need not be a multiple of the block."""
    model = tiny("big_bird")
    feed = feeds(paddings(length), 0)
    found = outputs(big_bird.with_sparse_attention(model), feed)
    expected = outputs(model, feed)
    assert len(found) == len(expected) == 2
    for got, want in zip(found, expected, strict=True):
        assert_close(got, want, CLOSE)


@pytest.mark.parametrize("random", [1, 3])  # transformers itself fails with 0
def test_big_bird_counts_the_first_block_once_more_for_each_random_block(random: int) -> None:
    model = tiny("big_bird", num_random_blocks=random)
    feed = feeds(paddings(big_bird.dense_length(8, random) + 21), 0)
    found, expected = (outputs(m, feed)[0] for m in (big_bird.with_sparse_attention(model), model))
    assert_close(found, expected, CLOSE)


def test_big_bird_at_a_length_with_a_plan_of_its_own() -> None:
    """Transformers treats 1024, 3072 and 4096 slots in another way."""
    model = tiny("big_bird", max_position_embeddings=1024, block_size=16, num_hidden_layers=1)
    feed = feeds(paddings(1024), 0)
    found, expected = (outputs(m, feed)[0] for m in (big_bird.with_sparse_attention(model), model))
    assert_close(found, expected, CLOSE)


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "fill-mask"])
def test_big_bird_with_a_head(task: str) -> None:
    model = tiny("big_bird", task)
    feed = feeds(paddings(90), 0)
    found, expected = (outputs(m, feed)[0] for m in (big_bird.with_sparse_attention(model), model))
    assert_close(found, expected, CLOSE)


@pytest.mark.parametrize("length", [3, 16, 61])
@pytest.mark.parametrize("task", ["feature-extraction", "text-classification", "token-classification", "fill-mask"])
def test_longformer(task: str, length: int) -> None:
    """Classification has a global first token (with projections of its own); no length is a multiple of the window."""
    model = tiny("longformer", task)
    feed = feeds(paddings(length), 1)
    found = outputs(longformer.with_sparse_attention(model), feed)
    expected = outputs(model, feed)
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        assert_close(got, want, CLOSE)


def test_longformer_with_chosen_global_tokens() -> None:
    model = tiny("longformer")
    feed = feeds(paddings(45), 1)
    marked = torch.zeros_like(feed["input_ids"])
    marked[:, [0, 7]] = 1
    found = outputs(longformer.with_sparse_attention(model, [0, 7]), feed)[0]
    expected = outputs(model, {**feed, "global_attention_mask": marked})[0]
    assert_close(found, expected, CLOSE)


@pytest.mark.parametrize(("model_type", "module"), [("big_bird", big_bird), ("longformer", longformer)])
def test_the_original_is_left_alone_and_shares_its_weights(model_type: str, module: object) -> None:
    model = tiny(model_type)
    before = {name: type(part) for name, part in model.named_modules()}
    changed = module.with_sparse_attention(model)  # type: ignore[attr-defined]
    assert {name: type(part) for name, part in model.named_modules()} == before
    theirs = {tensor.data_ptr() for tensor in model.parameters()}
    assert {tensor.data_ptr() for tensor in changed.parameters()} <= theirs


def test_full_attention_needs_no_replacement() -> None:
    model = tiny("big_bird", attention_type="original_full")
    assert big_bird.with_sparse_attention(model) is model


def test_a_big_bird_decoder_is_refused() -> None:
    model = tiny("big_bird", "text-generation", is_decoder=True)
    with pytest.raises(InputError, match=r"as a decoder has full attention only.*original_full"):
        big_bird.with_sparse_attention(model)


def test_drawn_blocks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("big_bird")
    attention = type(model.encoder.layer[0].attention.self)  # type: ignore[union-attr,index]
    drawn = torch.ones(3, 2).numpy()
    monkeypatch.setattr(attention, "_bigbird_block_rand_mask", lambda *_: drawn)
    with pytest.raises(InputError, match="draws BigBird's random blocks in evaluation mode"):
        big_bird.with_sparse_attention(model)


def test_global_tokens_that_the_text_chooses_are_refused() -> None:
    model = tiny("longformer", "question-answering")
    with pytest.raises(InputError, match="LongformerForQuestionAnswering chooses its global tokens by the text"):
        longformer.with_sparse_attention(model)


def test_catalog_rows_name_modules_that_exist() -> None:
    import importlib

    named = [adapter for adapter in ADAPTERS if adapter.sparse_module]
    assert {adapter.name for adapter in named} == {"BigBird", "Longformer"}
    for adapter in named:
        assert callable(importlib.import_module(adapter.sparse_module).with_sparse_attention)
    assert adapter_for("modernbert").name == "ModernBERT"
    assert adapter_for("mistral").name == "Mistral"
