"""Mixtures of experts are exported as products per token, and computed as before afterwards."""

from __future__ import annotations

import contextlib

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from raggedrt.export.experts import EXPORTABLE, exportable_experts  # noqa: E402
from raggedrt.export.torch_to_onnx import export_model  # noqa: E402
from raggedrt.export.verify import verify_export  # noqa: E402
from raggedrt.models.contract import ModelSource  # noqa: E402

pytestmark = pytest.mark.ort_cpu


class Logits(torch.nn.Module):
    """A tiny Mixtral without a cache."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 3}
        self.model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes, **heads)).eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def test_a_mixture_of_experts_is_exported_and_left_as_it_was() -> None:
    module = Logits().eval()
    before = module.model.config._experts_implementation
    examples = {"input_ids": torch.randint(0, 50, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.int64)}
    axes = {name: {0: "batch", 1: "sequence"} for name in examples}
    source = ModelSource(module, examples, axes, ("logits",))
    exported = export_model(source, opset=20)
    assert module.model.config._experts_implementation == before
    assert verify_export(source, exported.model).passed


def test_the_setting_is_put_back_after_an_error() -> None:
    module = Logits()
    before = module.model.config._experts_implementation
    with contextlib.suppress(ZeroDivisionError), exportable_experts(module):
        assert module.model.config._experts_implementation == EXPORTABLE
        raise ZeroDivisionError
    assert module.model.config._experts_implementation == before


def test_modules_without_experts_are_left_alone() -> None:
    with exportable_experts(torch.nn.Linear(2, 2)):
        pass
    with exportable_experts(object()):
        pass
