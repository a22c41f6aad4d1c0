"""Tiny models with sparse attention of their own, batches with every kind of padding, and what they compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from raggedrt.models.factories import TINY_CONFIGS, random_model

FAMILIES = ("modernbert", "mistral", "big_bird", "longformer")
TASKS = {"mistral": "text-generation"}


def tiny(model_type: str, task: str | None = None, **config: Any) -> nn.Module:
    """A random model as transformers makes it."""
    chosen = task or TASKS.get(model_type, "feature-extraction")
    return random_model(model_type, {**TINY_CONFIGS[model_type], **config}, task=chosen)


def paddings(length: int) -> torch.Tensor:
    """Int64 [4, length]: no padding, on the right, on the left, holes."""
    mask = torch.ones(4, length, dtype=torch.int64)
    mask[1, length // 2 :] = 0
    mask[2, : length // 3] = 0
    mask[3, 2 : length // 2 : 2] = 0
    return mask


def feeds(mask: torch.Tensor, pad_token_id: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random token ids under a mask."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 100, tuple(mask.shape), generator=generator)
    return {"input_ids": torch.where(mask == 0, pad_token_id, ids), "attention_mask": mask}


def outputs(model: nn.Module, feed: dict[str, torch.Tensor]) -> list[np.ndarray[Any, np.dtype[Any]]]:
    """Arrays of a model's outputs, those per token with padded slots set to zero."""
    valid = feed["attention_mask"] != 0
    with torch.no_grad():
        result = model(**feed)
    tensors = [value for value in result.values() if isinstance(value, torch.Tensor)]
    return [(t * valid[..., None] if t.dim() == 3 else t).numpy() for t in tensors]
