"""The families of the model matrix: tiny configurations with random weights, tasks, and what each is exported from.

Configurations that the package ships (`raggedrt.models.factories.TINY_CONFIGS`) are used as they are; the others stand
here. A row is data; what is special about a family is said by its columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from raggedrt.models.contract import ModelSource
from raggedrt.models.factories import TINY_CONFIGS, randomize

TEXT = ("feature-extraction",)
ENCODER_TASKS = ("text-classification", "token-classification", "question-answering", "fill-mask")
DECODER_TASKS = (
    "feature-extraction",
    "text-classification",
    "token-classification",
    "question-answering",
    "text-generation (last token)",
    "sentence-embedding (last token)",
)
_TINY = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
    "pad_token_id": 0,
}
_DECODER = {**_TINY, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
_GROUPED_EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
}
_DEBERTA = {
    **_TINY,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_buckets": 8,
    "max_relative_positions": -1,
    "position_biased_input": False,
    "norm_rel_ebd": "layer_norm",
    "type_vocab_size": 0,
}
_T5 = {
    "vocab_size": 100,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "pad_token_id": 0,
}
_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
_WINDOW = 7
MORE_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "deberta-v2": {**_DEBERTA, "share_att_key": False},
    "deberta-v3": {**_DEBERTA, "share_att_key": True},
    "t5": _T5,
    "umt5": _T5,
    "vit": _VISION,
    "deit": _VISION,
    "siglip_vision_model": _VISION,
    "whisper": {
        "vocab_size": 100,
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_layers": 1,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 64,
        "num_mel_bins": 16,
        "max_source_positions": 20,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "decoder_start_token_id": 2,
    },
    "gpt2": {
        "vocab_size": 100,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 80,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    "qwen3": {**_DECODER, "head_dim": 8},
    "gemma2": {
        **_DECODER,
        "head_dim": 8,
        "sliding_window": _WINDOW,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma3_text": {
        **_DECODER,
        "head_dim": 8,
        "sliding_window": _WINDOW,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "phi3": {**_DECODER, "sliding_window": _WINDOW},
    "gpt_oss": {
        **_DECODER,
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": _WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "zaya": {**_DECODER, "head_dim": 8, "num_experts": 4, "moe_intermediate_size": 32},
    "nomic_bert": _TINY,
    "gte": _TINY,
    "jina_embeddings_v3": {**_TINY, "type_vocab_size": 1},
    "eurobert": _DECODER,
    "qwen2": _DECODER,
    "phi": {**_DECODER, "partial_rotary_factor": 0.5},
    "opt": {
        "vocab_size": 100,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "max_position_embeddings": 80,
        "pad_token_id": 1,
    },
    "gpt_neox": {**_TINY, "rotary_pct": 0.5, "bos_token_id": 2, "eos_token_id": 3},
    "stablelm": _DECODER,
    "cohere": _DECODER,
    "olmo2": _DECODER,
    "granite": _DECODER,
    "smollm3": _DECODER,
    "bloom": {"vocab_size": 100, "hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0},
    "mixtral": {**_DECODER, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**_DECODER, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "glm4_moe": {**_DECODER, "head_dim": 8, **_GROUPED_EXPERTS},
    "deepseek_v3": {
        **_DECODER,
        **_GROUPED_EXPERTS,
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
    },
    "mpt": {"vocab_size": 100, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 80, "pad_token_id": 0},
    "xglm": {
        "vocab_size": 100,
        "d_model": 32,
        "num_layers": 2,
        "attention_heads": 4,
        "ffn_dim": 64,
        "max_position_embeddings": 80,
        "pad_token_id": 1,
    },
}


@dataclasses.dataclass(frozen=True)
class Family:
    """One row of the matrix.

    Attributes:
        name: as people write it.
        key: key of its configuration, in `TINY_CONFIGS` or `MORE_CONFIGS`.
        model_type: transformers' name, where it differs from the key.
        task: what the main matrix exports.
        tasks: what the task table exports as well.
        auto_class: transformers class that builds it, where the task does not say it.
        part: attribute of the built model that is exported; "" for all of it.
        pixels: name and shape [...] of the only input of a model that reads no text, without the batch axis.
        experts: implementation that mixtures of experts are set to before a plain export.
        overrides: a configuration in place of the tiny one.
    """

    name: str
    key: str
    model_type: str = ""
    task: str = "feature-extraction"
    tasks: tuple[str, ...] = ()
    auto_class: str = ""
    part: str = ""
    pixels: tuple[str, tuple[int, ...]] | None = None
    experts: str = ""
    overrides: Mapping[str, Any] | None = None

    @property
    def config(self) -> Mapping[str, Any]:
        """Its configuration."""
        if self.overrides is not None:
            return self.overrides
        return TINY_CONFIGS.get(self.key) or MORE_CONFIGS[self.key]


_ENCODER: dict[str, Any] = {"tasks": ENCODER_TASKS}
_CAUSAL: dict[str, Any] = {"task": "text-generation", "tasks": DECODER_TASKS}
_MORE_ENCODERS: dict[str, Any] = {"tasks": ("text-classification",)}
_MORE_DECODERS: dict[str, Any] = {"task": "text-generation"}
_IMAGES = ("pixel_values", (3, 32, 32))
FAMILIES: tuple[Family, ...] = (
    Family("BERT", "bert", **_ENCODER),
    Family("RoBERTa", "roberta", **_ENCODER),
    Family("DistilBERT", "distilbert", **_ENCODER),
    Family("ALBERT", "albert", **_ENCODER),
    Family("MPNet", "mpnet", **_ENCODER),
    Family("ELECTRA", "electra", **_ENCODER),
    Family("DeBERTa-v2", "deberta-v2", **_ENCODER),
    Family("DeBERTa-v3", "deberta-v3", model_type="deberta-v2", **_ENCODER),
    Family("ModernBERT", "modernbert", **_ENCODER),
    Family("T5 encoder", "t5", auto_class="AutoModelForTextEncoding"),
    Family("UMT5 encoder", "umt5", auto_class="AutoModelForTextEncoding"),
    Family("BigBird", "big_bird", **_ENCODER),
    Family("Longformer", "longformer", **_ENCODER),
    Family("ViT", "vit", pixels=_IMAGES),
    Family("DeiT", "deit", pixels=_IMAGES),
    Family("SigLIP vision", "siglip_vision_model", pixels=_IMAGES),
    Family("Whisper encoder", "whisper", part="encoder", pixels=("input_features", (16, 40))),
    Family("GPT-2", "gpt2", **_CAUSAL),
    Family("Llama", "llama", **_CAUSAL),
    Family("Mistral", "mistral", **_CAUSAL),
    Family("Qwen3", "qwen3", **_CAUSAL),
    Family("Gemma 2", "gemma2", **_CAUSAL),
    Family("Gemma 3", "gemma3_text", **_CAUSAL),
    Family("Phi-3", "phi3", **_CAUSAL),
    Family("GPT-OSS", "gpt_oss", experts="batched_mm", **_CAUSAL),
    Family("ZAYA", "zaya", experts="batched_mm", **_CAUSAL),
    Family("XLM-RoBERTa", "xlm-roberta", **_MORE_ENCODERS),
    Family("CamemBERT", "camembert", **_MORE_ENCODERS),
    Family("NomicBERT", "nomic_bert", **_MORE_ENCODERS),
    Family("GTE", "gte", **_MORE_ENCODERS),
    Family("Jina embeddings 3", "jina_embeddings_v3", **_MORE_ENCODERS),
    Family("EuroBERT", "eurobert", **_MORE_ENCODERS),
    Family("Qwen2", "qwen2", **_MORE_DECODERS),
    Family("Phi", "phi", **_MORE_DECODERS),
    Family("OPT", "opt", **_MORE_DECODERS),
    Family("GPT-NeoX", "gpt_neox", **_MORE_DECODERS),
    Family("StableLM", "stablelm", **_MORE_DECODERS),
    Family("Cohere", "cohere", **_MORE_DECODERS),
    Family("OLMo 2", "olmo2", **_MORE_DECODERS),
    Family("Granite", "granite", **_MORE_DECODERS),
    Family("SmolLM3", "smollm3", **_MORE_DECODERS),
    Family("Bloom", "bloom", **_MORE_DECODERS),
    Family("Mixtral", "mixtral", experts="batched_mm", **_MORE_DECODERS),
    Family("Qwen3 MoE", "qwen3_moe", experts="batched_mm", **_MORE_DECODERS),
    Family("GLM-4 MoE", "glm4_moe", experts="batched_mm", **_MORE_DECODERS),
    Family("DeepSeek-V3", "deepseek_v3", experts="batched_mm", **_MORE_DECODERS),
    Family("MPT", "mpt", **_MORE_DECODERS),
    Family("XGLM", "xglm", **_MORE_DECODERS),
)


class NotInTransformers(Exception):  # noqa: N818 - an outcome of the matrix, not a fault
    """transformers itself has no such combination."""


def build(family: Family, task: str, attention: str) -> nn.Module:
    """A random model of a family for a task, with one attention implementation.

    Raises:
        NotInTransformers: transformers has no such task or attention implementation for it.
    """
    import transformers

    from raggedrt.models.tasks import FEATURE_EXTRACTION, task_named

    config = transformers.AutoConfig.for_model(family.model_type or family.key, **family.config)
    row = task_named(task) or FEATURE_EXTRACTION
    auto = getattr(transformers, family.auto_class or row.auto_class)
    if type(config) not in auto._model_mapping:
        raise NotInTransformers(f"transformers has no {row.auto_class} for it")
    try:
        model: Any = auto.from_config(config, attn_implementation=attention)
    except ValueError as error:
        raise NotInTransformers(str(error).split(". ")[0].splitlines()[0][:160]) from error
    randomize(model, 0)
    model.eval()
    return getattr(model, family.part) if family.part else model


class FirstOutput(nn.Module):
    """A model whose only input is pixels or sound: gives its last hidden state."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Takes the input by its name; returns float [batch, slots, features]."""
        result: torch.Tensor = self.model(**inputs)[0]
        return result


class Pixels(FirstOutput):
    """Of images."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Takes float [batch, channels, height, width]."""
        return super().forward(pixel_values=pixel_values)


class Features(FirstOutput):
    """Of sound."""

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Takes float [batch, mel bins, frames]."""
        return super().forward(input_features=input_features)


def pixel_source(family: Family, model: nn.Module) -> ModelSource:
    """What a user's own factory would return for a model without text inputs."""
    assert family.pixels is not None
    name, shape = family.pixels
    wrapper = {"pixel_values": Pixels, "input_features": Features}[name](model, name).eval()
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    return ModelSource(wrapper, {name: example}, {name: {0: "batch"}}, ["last_hidden_state"], mask_input=None)
