"""Reference of MergeAttentionStates in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raggedrt.plugins.ops.arrays import Array, Attributes, Inputs, required


def reference(inputs: Inputs, attributes: Attributes, *, compute: npt.DTypeLike = np.float32) -> dict[str, Array]:
    """The op's outputs by name; arithmetic in `compute`."""
    output1, output2 = (required(inputs, name) for name in ("output1", "output2"))  # [T, N*H]
    lse1, lse2 = (required(inputs, name).astype(compute) for name in ("lse1", "lse2"))  # [N, T]
    heads, tokens = lse1.shape
    lse = np.logaddexp(lse1, lse2)  # [N, T], -inf where both are
    merged = np.zeros((tokens, heads, output1.shape[1] // heads), compute)  # [T, N, H]
    for output, part in ((output1, lse1), (output2, lse2)):
        share = np.exp(part - np.where(np.isneginf(lse), 0, lse))  # [N, T]
        merged += output.astype(compute).reshape(merged.shape) * share.T[:, :, None]
    return {"output": merged.reshape(output1.shape).astype(output1.dtype), "lse": lse.astype(np.float32)}
