from __future__ import annotations

from types import SimpleNamespace

import pytest

from raggedrt.errors import InputError
from raggedrt.models.catalog import ADAPTERS, GENERIC, adapter_for, position_limit
from raggedrt.models.tasks import TASK_NAMES, TASKS, task_from_architectures, task_named

pytestmark = pytest.mark.none


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertModel", "feature-extraction"),
        ("BertForPreTraining", "feature-extraction"),
        ("T5EncoderModel", "feature-extraction"),
        ("RobertaForSequenceClassification", "text-classification"),
        ("BertForTokenClassification", "token-classification"),
        ("DistilBertForQuestionAnswering", "question-answering"),
        ("MPNetForMaskedLM", "fill-mask"),
        ("LlamaForCausalLM", "text-generation"),
        ("GPT2LMHeadModel", "text-generation"),
    ],
)
def test_auto_follows_the_architecture(architecture: str, task: str) -> None:
    assert task_from_architectures([architecture], "model").name == task


def test_auto_without_architectures_is_a_plain_encoder() -> None:
    assert task_from_architectures(None, "model").name == "feature-extraction"


def test_auto_refuses_an_unknown_architecture() -> None:
    with pytest.raises(InputError, match=r"T5ForConditionalGeneration.*Name one with --task"):
        task_from_architectures(["T5ForConditionalGeneration"], "model")


def test_task_names() -> None:
    assert task_named("auto") is None
    assert {task_named(name) for name in TASK_NAMES[1:]} == set(TASKS)
    with pytest.raises(InputError, match="Unknown task 'embed'"):
        task_named("embed")


@pytest.mark.parametrize(
    ("model_type", "pad", "limit"),
    [("bert", 0, 514), ("distilbert", 0, 514), ("roberta", 1, 512), ("camembert", 1, 512), ("mpnet", 1, 512)],
)
def test_position_limit(model_type: str, pad: int, limit: int) -> None:
    config = SimpleNamespace(max_position_embeddings=514, pad_token_id=pad)
    assert position_limit(adapter_for(model_type), config) == limit


def test_no_position_table_is_no_limit() -> None:
    assert position_limit(GENERIC, SimpleNamespace()) is None
    assert position_limit(GENERIC, SimpleNamespace(max_position_embeddings=-1)) is None


def test_a_model_type_has_one_row() -> None:
    types = [model_type for adapter in ADAPTERS for model_type in adapter.model_types]
    assert len(types) == len(set(types))
    assert adapter_for("something-else") is GENERIC
