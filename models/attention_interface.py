"""`attn_implementation="raggedrt"`: transformers' models with this package's attention op.

For families whose own attention exports badly, and for users' models. A model takes it only where its attention goes
through transformers' attention interface: MPNet, DeBERTa and others ignore the setting without any error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from raggedrt.errors import InputError
from raggedrt.models.sparse_attention import sparse_attention

NAME = "raggedrt"
_PATTERN = "_raggedrt_pattern"
# Arguments that say nothing about the result: the mask was made with them, or they ask for what is not given.
_IDLE = ("cache_position", "deterministic", "is_causal", "position_ids", "sliding_window", "use_cache")


@dataclasses.dataclass(frozen=True)
class Pattern:
    """What a mask function shows beside padding; `window` as `sparse_attention` takes it."""

    causal: bool = False
    window: tuple[int, int] = (-1, -1)


def register_attention() -> str:
    """Makes the implementation known to transformers; returns its name.

    Give it as `attn_implementation` to `from_pretrained` or `from_config`.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, padding_mask)
    return NAME


def padding_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    device: Any = None,
    **others: Any,
) -> Tensor:
    """Transformers' mask function: bool [batch, keys], True where a slot holds a token.

    The rest of the mask is noted on the tensor, as a pattern.

    Raises:
        InputError: The mask is more than padding, causality and a window.
    """
    pattern = pattern_of(mask_function)
    if attention_mask is None:
        attention_mask = torch.ones((batch_size, kv_length), dtype=torch.bool, device=device)
    mask = attention_mask.to(torch.bool).view(attention_mask.shape)  # another object, so that the note stays its own
    setattr(mask, _PATTERN, pattern)
    return mask


def pattern_of(mask_function: Callable[..., Any] | None) -> Pattern:
    """Reads a mask function by what it is made of: transformers composes closures of a few known functions.

    Raises:
        InputError: A part is not known.
    """
    causal, left, right = False, -1, -1
    for name, part in _parts(mask_function):
        if name == "causal_mask_function":
            causal = True
        elif name == "sliding_window_overlay.<locals>.inner_mask":  # the token itself counts
            left = _width(part) - 1
        elif name == "sliding_window_bidirectional_overlay.<locals>.inner_mask":  # it does not
            left = right = _width(part)
        elif name != "bidirectional_mask_function":
            raise InputError(
                f"attn_implementation='{NAME}': the mask '{name}' is not known; expected padding, causality and "
                "sliding windows. Call the model with an attention_mask (without one, position_ids are read as packed "
                "sequences), or use attn_implementation='sdpa'."
            )
    return Pattern(causal, (left, right))


def _parts(mask_function: Any) -> Iterator[tuple[str, Any]]:
    name = getattr(mask_function, "__qualname__", str(mask_function))
    if name != "and_masks.<locals>.and_mask":
        yield name, mask_function
        return
    for part in _enclosed(mask_function, "mask_functions"):
        yield from _parts(part)


def _width(overlay: Any) -> int:
    return int(_enclosed(overlay, "sliding_window"))


def _enclosed(function: Any, name: str) -> Any:
    return function.__closure__[function.__code__.co_freevars.index(name)].cell_contents


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention function.

    Args:
        module: The attention module that calls it.
        query: float [batch, heads, slots, head size]; key and value may have fewer heads.
        key: See query.
        value: See query.
        attention_mask: What `padding_mask` made.
        scaling: Factor on query key^T; None: 1 / sqrt(head size).
        dropout: Of the attention weights; there is none.
        **others: Only what changes nothing may be given.

    Returns:
        float [batch, slots, heads, head size], and no weights.

    Raises:
        InputError: The mask is of another origin, or an argument would change the result.
    """
    unknown = [name for name, given in others.items() if name not in _IDLE and given is not None and given is not False]
    if dropout and module.training:
        unknown.append("dropout")
    if unknown:
        raise InputError(
            f"{type(module).__name__}: attn_implementation='{NAME}' does not take {', '.join(unknown)}, and leaving it "
            "out would change the result. Use attn_implementation='sdpa' or 'eager'."
        )
    pattern = getattr(attention_mask, _PATTERN, None)
    if pattern is None:
        raise InputError(
            f"{type(module).__name__}: attn_implementation='{NAME}' needs the mask that transformers' mask functions "
            "make for it from an attention_mask [batch, slots]; this one was made in another way (a 4-D mask, or a "
            "model that builds its own). Use attn_implementation='sdpa' or 'eager'."
        )
    output = sparse_attention(
        query, key, value, attention_mask, scale=scaling, causal=pattern.causal, window=pattern.window
    )
    return output.transpose(1, 2).contiguous(), None
