"""Masks as they were evaluated, and specs compared with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raggedrt.graph_passes.masks.bias import FloatArray
from raggedrt.graph_passes.masks.inputs import GraphInputs
from raggedrt.graph_passes.masks.pairs import BoolArray
from raggedrt.graph_passes.masks.spec import MaskSpec


@dataclasses.dataclass(frozen=True)
class Sample:
    """A mask as it was seen.

    Attributes:
        padding: int64 [B, S], 1 = token.
        visible: bool [B, S_q, S_k].
        bias: float32 [B|1, N|1, S_q, S_k] that is added, NaN where hidden; None where nothing is.
    """

    padding: npt.NDArray[np.int64]
    visible: BoolArray
    bias: FloatArray | None = None

    def same(self, other: Sample) -> bool:
        """The mask is the same."""
        if not bool((self.visible == other.visible).all()):
            return False
        if self.bias is None or other.bias is None:
            return self.bias is other.bias
        return np.array_equal(self.bias, other.bias, equal_nan=True)


def agrees(spec: MaskSpec, samples: Sequence[Sample], inputs: GraphInputs) -> bool:
    """Whether a spec shows what every sample shows."""
    if inputs.attention_mask is None and spec.reads_padding:
        return False
    return all(bool((spec.visible(sample.padding) == sample.visible).all()) for sample in samples)


def full_rows(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The rows without padding."""
    chosen = ((sample, sample.padding.all(axis=1)) for sample in samples)
    return tuple(Sample(sample.padding[full], sample.visible[full]) for sample, full in chosen if full.any())
