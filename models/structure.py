"""Changing parts of a model without touching the caller's, and without a second copy of its weights."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def structure_copy(model: Module) -> Module:
    """Copies the modules but not their parameters and buffers."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def split_heads(projected: Tensor, heads: int) -> Tensor:
    """Turns float [batch, slots, heads * size] into [batch, heads, slots, size]."""
    return projected.view(projected.shape[0], projected.shape[1], heads, -1).transpose(1, 2)
