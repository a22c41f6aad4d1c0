"""Random-weight models for tests, examples and benchmarks: `raggedrt.models.factories:tiny_bert` and its siblings.

Every parameter is random, biases and norm weights too: with zeros and ones the exporter would merge unrelated weights,
and a pass that mixed them up would not be noticed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raggedrt.models.tasks import FEATURE_EXTRACTION, TASKS
from raggedrt.models.transformers_loader import import_transformers, quiet_transformers

_TINY = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
}
_PADDING_ONE = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": 82}
# model_type -> configuration
TINY_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "bert": {**_TINY, "pad_token_id": 0},
    "roberta": {**_TINY, **_PADDING_ONE, "type_vocab_size": 1},
    "xlm-roberta": {**_TINY, **_PADDING_ONE, "type_vocab_size": 1},
    "camembert": {**_TINY, **_PADDING_ONE, "type_vocab_size": 1},
    "distilbert": {
        "vocab_size": 100,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 80,
        "pad_token_id": 0,
    },
    "albert": {**_TINY, "embedding_size": 16, "pad_token_id": 0},
    "mpnet": {**_TINY, **_PADDING_ONE},
    "electra": {**_TINY, "embedding_size": 16, "pad_token_id": 0},
    "modernbert": {
        **_TINY,
        "pad_token_id": 0,
        "num_hidden_layers": 3,
        "global_attn_every_n_layers": 3,
        "local_attention": 16,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
    "mistral": {
        **_TINY,
        "num_key_value_heads": 2,
        "sliding_window": 7,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    "big_bird": {
        **_TINY,
        "max_position_embeddings": 256,
        "attention_type": "block_sparse",
        "block_size": 8,
        "num_random_blocks": 2,
        "pad_token_id": 0,
    },
    "longformer": {**_TINY, **_PADDING_ONE, "attention_window": [8, 16], "type_vocab_size": 1},
    "llama": {**_TINY, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
}
_BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
# google/bigbird-roberta-base
BIG_BIRD_BASE: Mapping[str, Any] = {
    **_BASE,
    "vocab_size": 50358,
    "max_position_embeddings": 4096,
    "attention_type": "block_sparse",
    "block_size": 64,
    "num_random_blocks": 3,
}


def random_model(
    model_type: str, config: Mapping[str, Any], *, task: str = "feature-extraction", seed: int = 0
) -> nn.Module:
    """Builds a transformers model of any family with random weights, in evaluation mode."""
    transformers = import_transformers(model_type)
    row = next((row for row in TASKS if row.name == task), FEATURE_EXTRACTION)
    settings = transformers.AutoConfig.for_model(model_type, **config)
    model: nn.Module = getattr(transformers, row.auto_class).from_config(settings)
    randomize(model, seed)
    return model.eval()


def tiny_model(model_type: str, *, task: str = "feature-extraction", seed: int = 0) -> nn.Module:
    """Builds a model with two layers of 32 features, 4 heads and 100 token ids."""
    return random_model(model_type, TINY_CONFIGS[model_type], task=task, seed=seed)


def randomize(model: nn.Module, seed: int) -> None:
    """Fills every parameter: matrices by their fan-in, vectors around zero or, where they were ones, around one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():  # a tied weight comes once
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            else:
                parameter.copy_(0.2 * noise + float(bool((parameter == 1).all())))


tiny_bert = partial(tiny_model, "bert")
tiny_minilm = tiny_bert
tiny_roberta = partial(tiny_model, "roberta")
tiny_xlm_roberta = partial(tiny_model, "xlm-roberta")
tiny_camembert = partial(tiny_model, "camembert")
tiny_distilbert = partial(tiny_model, "distilbert")
tiny_albert = partial(tiny_model, "albert")
tiny_mpnet = partial(tiny_model, "mpnet")
tiny_llama = partial(tiny_model, "llama", task="text-generation")
tiny_modernbert = partial(tiny_model, "modernbert")
tiny_mistral = partial(tiny_model, "mistral", task="text-generation")
tiny_big_bird = partial(tiny_model, "big_bird")
tiny_bigbird = tiny_big_bird
tiny_longformer = partial(tiny_model, "longformer")
bert_base = partial(random_model, "bert", _BASE)
big_bird_base = partial(random_model, "big_bird", BIG_BIRD_BASE)


def save_tiny_directory(
    directory: str | Path,
    model_type: str = "bert",
    *,
    task: str = "feature-extraction",
    seed: int = 0,
    sentence_transformers: bool = False,
) -> Path:
    """Writes a tiny Hugging Face directory with a tokenizer, as `save_pretrained` does.

    Args:
        directory: Where to; created.
        model_type: A key of `TINY_CONFIGS`.
        task: Which head the model has.
        seed: Of the weights.
        sentence_transformers: Adds modules.json with mean pooling and normalisation.
    """
    folder = Path(directory)
    model: Any = tiny_model(model_type, task=task, seed=seed)
    with quiet_transformers():
        model.save_pretrained(folder)
    _tiny_tokenizer(model.config.pad_token_id).save_pretrained(folder)
    if sentence_transformers:
        names = ("Transformer", "Pooling", "Normalize")
        paths = ("", "1_Pooling", "2_Normalize")
        rows = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (name, path) in enumerate(zip(names, paths, strict=True))
        ]
        (folder / "modules.json").write_text(json.dumps(rows), encoding="utf-8")
        (folder / "1_Pooling").mkdir(exist_ok=True)
        pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
        (folder / "2_Normalize").mkdir(exist_ok=True)
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64}), encoding="utf-8")
    return folder


def _tiny_tokenizer(pad_token_id: int) -> Any:
    """Returns a WordPiece tokenizer over letters and digits, fewer than 100 ids, padding id as given."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    transformers = import_transformers("tokenizer")
    special = ["[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    special.insert(pad_token_id, "[PAD]")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?"
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    ends = [(piece, vocabulary[piece]) for piece in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
