"""Longformer with its window and global attention as one op each per layer, equal to transformers' module.

Transformers' module works on chunks, wants whole windows and decides at run time which tokens are global. Here the
global slots are known: none, or the first one, as each of its classes chooses by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raggedrt.errors import InputError
from raggedrt.models.sparse_attention import sparse_attention
from raggedrt.models.structure import split_heads, structure_copy

GLOBAL_SLOTS: Mapping[str, tuple[int, ...]] = {
    "LongformerModel": (),
    "LongformerForMaskedLM": (),
    "LongformerForTokenClassification": (),
    "LongformerForSequenceClassification": (0,),
}
"""Global slots of each class where the caller names none."""


class WindowAttention(nn.Module):
    """Stands for a layer's `LongformerSelfAttention`; takes the padding mask."""

    def __init__(self, original: Any, global_slots: Sequence[int]) -> None:
        super().__init__()
        self.query, self.key, self.value = original.query, original.key, original.value
        self.global_slots = tuple(global_slots)
        if self.global_slots:
            self.query_global, self.key_global = original.query_global, original.key_global
            self.value_global = original.value_global
        self.heads = int(original.num_heads)
        self.reach = int(original.one_sided_attn_window_size)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, **others: Any) -> tuple[Tensor]:
        """Takes float [batch, slots, hidden] and the mask [batch, slots]; returns the same shape."""
        local = (self.query, self.key, self.value)
        context = self._attend(hidden_states, attention_mask, local, self.reach)
        if self.global_slots:
            # Global tokens look with projections of their own; all others only at themselves here, and that is dropped.
            projections = (self.query_global, self.key_global, self.value_global)
            theirs = self._attend(hidden_states, attention_mask, projections, 0)
            context = torch.where(self._is_global(context), theirs, context)
        valid = (attention_mask != 0)[:, :, None]
        return (torch.where(valid, context, torch.zeros((), dtype=context.dtype, device=context.device)),)

    def _attend(self, hidden: Tensor, mask: Tensor, projections: Sequence[Any], reach: int) -> Tensor:
        query, key, value = (split_heads(layer(hidden), self.heads) for layer in projections)
        window = (reach, reach)
        context = sparse_attention(query, key, value, mask, window=window, global_tokens=self.global_slots)
        return context.transpose(1, 2).flatten(2)

    def _is_global(self, context: Tensor) -> Tensor:
        """Bool [1, slots, 1]."""
        slots = torch.arange(context.shape[1], device=context.device)
        chosen = slots == self.global_slots[0]
        for slot in self.global_slots[1:]:
            chosen = chosen | (slots == slot)
        return chosen[None, :, None]


class SparseLongformer(nn.Module):
    """Stands for a `LongformerModel`: the same layers, without padding to whole windows."""

    def __init__(self, model: Any, global_slots: Sequence[int]) -> None:
        super().__init__()
        self.config = model.config
        self.embeddings, self.pooler, self.layer = model.embeddings, model.pooler, model.encoder.layer
        for layer in self.layer:
            layer.attention.self = WindowAttention(layer.attention.self, global_slots)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **others: Any,
    ) -> Any:
        """Takes int64 [batch, slots]; returns what `LongformerModel` returns. Global slots were chosen before."""
        from transformers.models.longformer.modeling_longformer import LongformerBaseModelOutputWithPooling

        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        for layer in self.layer:
            hidden = layer(hidden, attention_mask=mask)[0]
        pooled = None if self.pooler is None else self.pooler(hidden)
        return LongformerBaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)


def with_sparse_attention(model: Any, global_slots: Sequence[int] | None = None) -> nn.Module:
    """Returns the model with its attention as the op; it shares its weights with `model`, which is left alone.

    Args:
        model: A Longformer of transformers.
        global_slots: Slots of global tokens; None: those of the class.

    Raises:
        InputError: The class chooses global tokens by what the text says.
    """
    name = type(model).__name__
    chosen = GLOBAL_SLOTS.get(name) if global_slots is None else tuple(global_slots)
    if chosen is None:
        raise InputError(
            f"{name} chooses its global tokens by the text (or in a way that is not known here), which no fixed mask "
            "expresses. Give a factory that returns raggedrt.models.longformer.with_sparse_attention(model, "
            "global_slots=[...]), or export the base model."
        )
    copy = structure_copy(model)
    base = copy.longformer if hasattr(copy, "longformer") else copy
    if base is copy:
        return SparseLongformer(base, chosen)
    copy.longformer = SparseLongformer(base, chosen)
    return copy  # type: ignore[no-any-return]
