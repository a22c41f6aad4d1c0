"""What each target's kernels can serve. Lowering asks here and never hands over what would be refused.

Features are by op; a feature that is missing here is refused by the library's constructor too (a test compares).
"""

from __future__ import annotations

import dataclasses

from raggedrt.plugins.contract.abi import Feature
from raggedrt.plugins.contract.op_definition import FLOATS, ElementType

_BUILT = (
    Feature.CAUSAL
    | Feature.GROUPED_QUERY
    | Feature.LSE
    | Feature.POSITIONS
    | Feature.VALUE_HEAD_SIZE
    | Feature.CROSS_LENGTHS
    | Feature.KEEP_SLOTS
    | Feature.KEEP_MASK
    | Feature.CAPACITY
    | Feature.SOFTCAP
    | Feature.WINDOW
    | Feature.GLOBAL_TOKENS
    | Feature.DILATION
    | Feature.BLOCK_MASK
    | Feature.BIAS
    | Feature.DISTANCE_BIAS
    | Feature.DISENTANGLED
    | Feature.SINK
    | Feature.ALIBI
    | Feature.WORK_LIST
)


@dataclasses.dataclass(frozen=True)
class Capability:
    """Limits of one target's native library."""

    features: Feature
    element_types: tuple[ElementType, ...]
    head_size_multiple: int
    max_head_size: int
    plans_attention: bool = False
    """Whether kernels divide their work by an `AttentionPlan`, which the layers then share."""
    scatters_sums: bool = True
    """Whether ScatterElements adds; TensorRT has that in a plugin of its own only, for 64-bit indices."""

    def missing(self, features: Feature) -> Feature:
        """The bits of `features` that this target cannot serve."""
        return features & ~self.features


_TENSORRT = Capability(
    _BUILT, FLOATS, head_size_multiple=8, max_head_size=256, plans_attention=True, scatters_sums=False
)
CAPABILITIES: dict[str, Capability] = {
    "ort-cpu": Capability(_BUILT, FLOATS, head_size_multiple=8, max_head_size=256),
    "ort-cuda": Capability(_BUILT, FLOATS, head_size_multiple=8, max_head_size=256, plans_attention=True),
    "ort-trt": _TENSORRT,
    "tensorrt": _TENSORRT,
    # Function bodies serve there, and these have every feature.
    "tensorrt-rtx": Capability(_BUILT, FLOATS, head_size_multiple=1, max_head_size=1 << 16),
}
