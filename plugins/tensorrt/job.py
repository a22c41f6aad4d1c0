"""What the process that builds an engine is told, and what it answers: JSON lines, so that it may die without harm."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

HARDWARE_LEVELS = {
    "none": "NONE",
    "ampere+": "AMPERE_PLUS",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
}
"""GPUs that an engine runs on beside the one that it was built on, as TensorRT calls them."""
Bounds = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class EngineJob:
    """One engine to build.

    Attributes:
        target: key of `FLAVOURS`.
        onnx: the graph; `engine`: file to write; `layers`: JSON file to write.
        profiles: least, best and greatest shape by input, per profile.
        capabilities: compute capabilities to build for; empty: the GPU present.
        timing_cache: file to read and extend; None: none.
        lacks: ops that are known not to be served.
        plugins: library with the plugins that the graph calls; None: it calls none.
        serialize_plugins: put that library into the engine, which has to be version compatible.
        version_compatible: the engine runs in later versions of the product too.
        hardware_compatibility: key of `HARDWARE_LEVELS`.
    """

    target: str
    onnx: str
    engine: str
    layers: str
    profiles: tuple[dict[str, Bounds], ...]
    capabilities: tuple[int, ...]
    timing_cache: str | None
    lacks: tuple[str, ...]
    plugins: str | None = None
    serialize_plugins: bool = False
    version_compatible: bool = False
    hardware_compatibility: str = "none"

    def to_json(self) -> str:
        """As text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EngineJob:
        """The job that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        fields["profiles"] = tuple(
            {name: tuple(tuple(shape) for shape in bounds) for name, bounds in profile.items()}
            for profile in fields["profiles"]
        )
        return cls(**{**fields, "capabilities": tuple(fields["capabilities"]), "lacks": tuple(fields["lacks"])})
