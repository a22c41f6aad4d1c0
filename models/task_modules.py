"""Modules that wrap a loaded model so that it returns exactly a task's outputs, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

Inputs = dict[str, Tensor]


class TaskModule(nn.Module):
    """Calls a transformers model and returns the named fields of its output.

    The inputs are spelled out because `torch.export` names graph inputs after the forward's parameters.
    """

    def __init__(self, model: nn.Module, outputs: Sequence[str], options: dict[str, bool]) -> None:
        super().__init__()
        self.model = model
        self.outputs = tuple(outputs)
        self.options = options

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Takes int64 [batch, sequence] inputs; returns one tensor per name in `outputs`."""
        result = self.call(input_ids, attention_mask, token_type_ids)
        return tuple(result[name] for name in self.outputs)

    def call(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        """Takes the same; returns everything the model gives."""
        given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        present = {name: value for name, value in given.items() if value is not None}
        result: Mapping[str, Tensor] = self.model(input_ids=input_ids, **present, **self.options)
        return result


class SentenceEmbedding(nn.Module):
    """A transformer followed by the modules of a sentence-transformers directory."""

    def __init__(self, encoder: TaskModule, pooling: Pooling, head: nn.Sequential) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.head = head

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Takes int64 [batch, sequence] inputs; returns one float [batch, embedding] tensor."""
        hidden = self.encoder(input_ids, attention_mask, token_type_ids)[0]
        return (self.head(self.pooling(hidden, attention_mask)),)


class Normalize(nn.Module):
    """Scales rows to Euclidean length 1."""

    def forward(self, embedding: Tensor) -> Tensor:
        """Takes and returns float [batch, embedding]."""
        # torch.nn.functional.normalize does the same, with an Expand in the graph
        length: Tensor = torch.linalg.vector_norm(embedding, dim=-1, keepdim=True)
        return embedding / length.clamp(min=1e-12)


class Pooling(nn.Module):
    """Token embeddings to one row per sequence; several modes are concatenated."""

    def __init__(self, modes: Sequence[str]) -> None:
        super().__init__()
        self.modes = tuple(modes)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Takes float [batch, sequence, hidden] and int [batch, sequence]; returns float [batch, modes * hidden]."""
        return torch.cat([POOLING_MODES[mode](hidden, mask) for mode in self.modes], dim=-1)


def _sums(hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the sum over valid tokens [batch, hidden] and their count [batch, 1], summed in float32 at least."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    wide = torch.float32 if hidden.dtype in (torch.float16, torch.bfloat16) else hidden.dtype
    return (hidden * weights).sum(dim=1, dtype=wide), weights.sum(dim=1, dtype=wide).clamp(min=1e-9)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    total, count = _sums(hidden, mask)
    return (total / count).to(hidden.dtype)


def _mean_over_root(hidden: Tensor, mask: Tensor) -> Tensor:
    total, count = _sums(hidden, mask)
    return (total / count.sqrt()).to(hidden.dtype)


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)


def _row_at(hidden: Tensor, index: Tensor) -> Tensor:
    """Returns hidden[b, index[b]], float [batch, hidden]."""
    return hidden.gather(1, index.view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])).squeeze(1)


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    """The first valid token: sentence-transformers means that by CLS, for either padding side."""
    return _row_at(hidden, mask.to(torch.int32).argmax(dim=1))


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    positions = torch.arange(mask.shape[1], device=mask.device)
    return _row_at(hidden, (mask.to(torch.int64) * positions).amax(dim=1))


POOLING_MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_over_root,
    "lasttoken": _last,
}
