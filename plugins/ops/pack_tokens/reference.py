"""Reference of PackTokens in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raggedrt.plugins.ops.arrays import Array, Attributes, Inputs, required


def reference(inputs: Inputs, attributes: Attributes, *, compute: npt.DTypeLike = np.float32) -> dict[str, Array]:
    """The op's output by name; `compute` changes nothing."""
    x, token_index = (required(inputs, name) for name in ("x", "token_index"))  # [B, S, ...], [T]
    rows = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])  # [B*S, ...]
    packed = np.zeros((len(token_index), *x.shape[2:]), x.dtype)  # [T, ...]
    taken = token_index >= 0
    packed[taken] = rows[token_index[taken]]
    return {"packed": packed}
