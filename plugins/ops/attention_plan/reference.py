"""Reference of AttentionPlan: a list of nothing, as of every back end that needs none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raggedrt.plugins.ops.arrays import Array, Attributes, Inputs, required
from raggedrt.plugins.ops.attention_plan.definition import NOTHING_LISTED


def reference(inputs: Inputs, attributes: Attributes, *, compute: npt.DTypeLike = np.float32) -> dict[str, Array]:
    """The op's output by name; `compute` changes nothing."""
    required(inputs, "cu_seqlens_q")
    return {"work_list": np.zeros(NOTHING_LISTED, np.int32)}
