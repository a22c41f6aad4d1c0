"""attn_implementation="raggedrt": equal to eager attention, and strict about what it does not take."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers import masking_utils  # noqa: E402

from helpers.sparse_models import TASKS, feeds, outputs, paddings, tiny  # noqa: E402
from helpers.tolerances import Tolerance, assert_close  # noqa: E402
from raggedrt.errors import InputError  # noqa: E402
from raggedrt.models.attention_interface import Pattern, pattern_of, register_attention  # noqa: E402
from raggedrt.models.factories import TINY_CONFIGS  # noqa: E402

pytestmark = pytest.mark.none


def _with_op(model_type: str, **config: Any) -> Any:
    task = TASKS.get(model_type, "feature-extraction")
    auto = transformers.AutoModelForCausalLM if task == "text-generation" else transformers.AutoModel
    settings = transformers.AutoConfig.for_model(model_type, **{**TINY_CONFIGS[model_type], **config})
    return auto.from_config(settings, attn_implementation=register_attention()).eval()


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "mistral"])
def test_equal_to_transformers_own_attention(model_type: str) -> None:
    model, feed = tiny(model_type), feeds(paddings(30), 0)
    other = _with_op(model_type)
    other.load_state_dict(model.state_dict())
    found, expected = (outputs(m, feed)[0] for m in (other, model))
    assert_close(found, expected, Tolerance(1e-5, 1e-4))


@pytest.mark.parametrize(
    ("function", "pattern"),
    [
        (masking_utils.causal_mask_function, Pattern(causal=True)),
        (masking_utils.bidirectional_mask_function, Pattern()),
        (masking_utils.sliding_window_causal_mask_function(7), Pattern(True, (6, -1))),
        (masking_utils.sliding_window_bidirectional_mask_function(8), Pattern(False, (8, 8))),
    ],
)
def test_mask_functions_are_read(function: Any, pattern: Pattern) -> None:
    assert pattern_of(function) == pattern


@pytest.mark.parametrize(
    "function",
    [
        masking_utils.chunked_causal_mask_function(4, torch.zeros(1)),
        masking_utils.or_masks(masking_utils.causal_mask_function, masking_utils.bidirectional_mask_function),
        lambda b, h, q, k: q == k,
    ],
)
def test_other_mask_functions_are_refused(function: Any) -> None:
    with pytest.raises(InputError, match=r"attn_implementation='raggedrt': the mask '.*' is not known"):
        pattern_of(function)


def test_a_cap_on_scores_is_refused() -> None:
    settings = {**TINY_CONFIGS["mistral"], "head_dim": 8}
    config = transformers.AutoConfig.for_model("gemma2", **settings)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=register_attention()).eval()
    with pytest.raises(InputError, match=r"Gemma2Attention: .*does not take softcap"):
        model(**feeds(paddings(9), 0))


def test_a_mask_of_another_origin_is_refused() -> None:
    model = _with_op("bert")
    ids = torch.ones(2, 5, dtype=torch.int64)
    with pytest.raises(InputError, match=r"needs the mask that transformers' mask functions make"):
        model(ids, attention_mask=torch.ones(2, 1, 5, 5))


def test_a_position_bias_is_refused() -> None:
    from raggedrt.models.attention_interface import attention, padding_mask

    heads = torch.ones(1, 2, 3, 4)
    mask = padding_mask(1, 3, 3, mask_function=masking_utils.bidirectional_mask_function)
    with pytest.raises(InputError, match="does not take position_bias, s_aux"):
        attention(torch.nn.Identity(), heads, heads, heads, mask, position_bias=heads, s_aux=heads, sliding_window=2)
