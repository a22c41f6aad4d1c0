"""Attention for modules that you write yourself, made to be exported.

    from raggedrt.torch_ops import sparse_attention

    context = sparse_attention(query, key, value, attention_mask, window=(128, 128), global_tokens=[0])

`sparse_attention` (`torch.ops.raggedrt.sparse_attention`) runs in PyTorch by a reference implementation, becomes one
ONNX node that any ONNX Runtime runs by its function body, and is read by `rewrite` without recovering its mask.
`register_attention()` offers it to transformers' models as `attn_implementation="raggedrt"`.
"""

from __future__ import annotations

from raggedrt.models.attention_interface import register_attention
from raggedrt.models.sparse_attention import sparse_attention

__all__ = ["register_attention", "sparse_attention"]
