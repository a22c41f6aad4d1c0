"""BigBird with block-sparse attention as one op per layer, equal to transformers' module.

What `BigBirdBlockSparseAttention` computes in evaluation mode, as a mask: blocks of the band (one to either side) and
the first and the last block of the padded row, which also see everything. The "random" blocks are drawn in training
only; in evaluation every middle row reads the first block once more for each of them. A key that counts m times in a
softmax is a key with log(m) added to its score, which one more query and key feature does here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from raggedrt.errors import InputError
from raggedrt.models.sparse_attention import sparse_attention
from raggedrt.models.structure import split_heads, structure_copy

FEATURES = 8
"""Features that are added to a head, of which one is used: kernels take head sizes in multiples of this."""


class BlockSparseAttention(nn.Module):
    """Stands for a layer's `BigBirdBlockSparseAttention`; takes the padding mask and nothing else."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.query, self.key, self.value = original.query, original.key, original.value
        self.heads = int(original.num_attention_heads)
        self.head_size = int(original.attention_head_size)
        self.block = int(original.block_size)
        self.random = int(original.num_random_blocks)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **others: Any
    ) -> tuple[Tensor, None]:
        """Takes float [batch, slots, hidden] and the mask [batch, slots]; returns the same shape, and no weights."""
        query, key, value = (
            split_heads(layer(hidden_states), self.heads) for layer in (self.query, self.key, self.value)
        )
        if self.random:
            query, key = self._counted(query, key)
        context = sparse_attention(
            query,
            key,
            value,
            attention_mask,
            scale=self.head_size**-0.5,
            block_size=self.block,
            block_window=3,
            global_blocks=2,
            dense_up_to=dense_length(self.block, self.random),
        )
        return self._without_padding(context.transpose(1, 2).flatten(2), attention_mask), None

    def _is_dense(self, slots: Tensor) -> Tensor:
        """Bool [slots]: whether the row is so short that attention is full."""
        return slots - slots + slots.shape[0] <= dense_length(self.block, self.random)

    def _without_padding(self, context: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Where it is sparse, transformers' module yields zeros at padded slots; a pooler may read one."""
        if attention_mask is None:
            return context
        slots = torch.arange(context.shape[1], device=context.device)
        kept = (attention_mask != 0) | self._is_dense(slots)
        return torch.where(kept[:, :, None], context, torch.zeros((), dtype=context.dtype, device=context.device))

    def _counted(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the feature that makes the first block's keys count 1 + random times for the rows between the ends."""
        length = query.shape[2]
        slots = torch.arange(length, device=query.device)
        last = (length + self.block - 1) // self.block * self.block - self.block
        middle = (slots >= self.block) & (slots < last) & ~self._is_dense(slots)
        weight = math.log(1 + self.random) * math.sqrt(self.head_size)
        return _with_feature(query, middle.to(query.dtype)), _with_feature(
            key, (slots < self.block).to(key.dtype) * weight
        )


def dense_length(block: int, random: int) -> int:
    """Slots up to which transformers computes full attention instead."""
    return (5 + 2 * random) * block


def _with_feature(heads: Tensor, column: Tensor) -> Tensor:
    """Appends a column [slots] and zeros to float [batch, heads, slots, head size]."""
    first = torch.arange(FEATURES, device=column.device) == 0
    columns = column[:, None] * first.to(column.dtype)
    return torch.cat([heads, columns.expand(heads.shape[0], heads.shape[1], -1, -1)], dim=-1)


class SparseBigBird(nn.Module):
    """Stands for a `BigBirdModel`: the same layers, without padding to whole blocks."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.config = model.config
        self.embeddings, self.pooler, self.activation = model.embeddings, model.pooler, model.activation
        self.layer = model.encoder.layer
        first = self.layer[0].attention.self
        self.long_length = dense_length(first.block_size, first.num_random_blocks) + first.block_size + 3
        for layer in self.layer:
            layer.attention.attention_type = layer.attention_type = "original_full"  # hands the mask through as it is
            layer.attention.self = BlockSparseAttention(layer.attention.self)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **others: Any,
    ) -> Any:
        """Takes int64 [batch, slots]; returns what `BigBirdModel` returns."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        hidden = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        for layer in self.layer:
            hidden = layer(hidden, attention_mask=attention_mask)
        pooled = None if self.pooler is None else self.activation(self.pooler(hidden[:, 0]))
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)


def with_sparse_attention(model: Any) -> nn.Module:
    """Returns the model with block-sparse attention as the op; it shares its weights with `model`, which is left alone.

    Raises:
        InputError: The model is a decoder, or this version of transformers draws blocks in evaluation too.
    """
    if model.config.attention_type != "block_sparse":
        return model  # type: ignore[no-any-return]
    if model.config.is_decoder or model.config.add_cross_attention:
        raise InputError(
            "BigBird as a decoder has full attention only; set attention_type='original_full' in its config.json."
        )
    copy = structure_copy(model)
    base = copy.bert if hasattr(copy, "bert") else copy
    for layer in base.encoder.layer:
        _check_draws_nothing(layer.attention.self)
    if base is copy:
        return SparseBigBird(base)
    copy.bert = SparseBigBird(base)
    copy.long_length = copy.bert.long_length
    return copy  # type: ignore[no-any-return]


def _check_draws_nothing(attention: Any) -> None:
    """Asks the module itself for its tables, through both of its methods."""
    attention.eval()
    block, random = attention.block_size, attention.num_random_blocks
    length = dense_length(block, random) + block
    table = attention._bigbird_block_rand_mask(length, length, block, block, random)
    plan = attention._get_rand_attn_plan(length, block, random)
    tables = attention._bigbird_block_rand_mask_with_head(length, length, block, block, 1, *plan)
    if table.any() or any(of_head.any() for of_head in tables):
        raise InputError(
            "This version of transformers draws BigBird's random blocks in evaluation mode, which is not reproduced; "
            "use transformers 4.31 or later."
        )
