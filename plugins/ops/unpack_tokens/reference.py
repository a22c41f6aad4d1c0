"""Reference of UnpackTokens in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raggedrt.plugins.ops.arrays import Array, Attributes, Inputs, required


def reference(inputs: Inputs, attributes: Attributes, *, compute: npt.DTypeLike = np.float32) -> dict[str, Array]:
    """The op's output by name; `compute` changes nothing. A row with a negative token_index is dropped."""
    packed, token_index = (required(inputs, name) for name in ("packed", "token_index"))  # [T, ...], [T]
    key_position = inputs.get("key_position")
    batch, width = required(inputs, "like").shape
    rows = np.zeros((batch * width, *packed.shape[1:]), packed.dtype)  # [B*S, ...]
    written = token_index >= 0
    if key_position is not None:
        written &= key_position >= 0
    rows[token_index[written]] = packed[written]
    return {"x": rows.reshape(batch, width, *packed.shape[1:])}
