"""Reference of PackingPlan in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raggedrt.plugins.ops.arrays import Array, Attributes, Inputs, required


def reference(inputs: Inputs, attributes: Attributes, *, compute: npt.DTypeLike = np.float32) -> dict[str, Array]:
    """The op's outputs by name; `compute` changes nothing. A keep slot outside the row keeps nothing."""
    valid = required(inputs, "attention_mask") != 0  # [B, S]
    kept = _kept(valid, inputs.get("keep_mask"), attributes.get("keep_slots", ()))  # [B, S]
    width = kept.shape[1]
    row, position = np.nonzero(kept)  # [T] each, row-major
    index = row * width + position
    key_position = np.where(valid[row, position], position, -1)
    added = (0, _rows(len(index), attributes.get("capacity", 0)) - len(index))
    outputs = {
        "token_index": np.pad(index, added),
        "cu_seqlens": np.concatenate([[0], np.cumsum(kept.sum(axis=1))]),  # [B + 1]
        "position": np.pad(position, added),
        "key_position": np.pad(key_position, added, constant_values=-1),
    }
    return {name: value.astype(np.int32) for name, value in outputs.items()}


def _kept(valid: Array, keep_mask: Array | None, keep_slots: object) -> Array:
    kept = valid.copy() if keep_mask is None else valid | (keep_mask != 0)
    width = kept.shape[1]
    for slot in np.asarray(keep_slots, np.int64):
        if -width <= slot < width:
            kept[:, slot] = True
    return kept


def _rows(tokens: int, capacity: object) -> int:
    """Length of the token axis."""
    step = int(np.asarray(capacity))
    return max(1, -(-tokens // step)) * step if step else tokens
