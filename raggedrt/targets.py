"""Where a converted model can run: one row per target."""

from __future__ import annotations

import dataclasses

from raggedrt.errors import InputError, TargetError


@dataclasses.dataclass(frozen=True)
class Target:
    """One value of `--target`."""

    name: str
    default_io: str
    needs: str
    built: bool
    """Whether this version can serve it."""


TARGETS: tuple[Target, ...] = (
    Target("ort-cpu", "padded", "ONNX Runtime (pip install 'raggedrt[cpu]')", built=True),
    Target("ort-cuda", "padded", "ONNX Runtime with CUDA (pip install 'raggedrt[cuda]') and an NVIDIA GPU", built=True),
    Target(
        "ort-trt",
        "padded",
        "ONNX Runtime with the TensorRT provider (pip install 'raggedrt[ort-trt]'), TensorRT 10 and an NVIDIA GPU",
        built=True,
    ),
    Target(
        "tensorrt",
        "ragged",
        "TensorRT 10.7 or later (pip install 'raggedrt[tensorrt]') and an NVIDIA GPU, to build engines and to run them",
        built=True,
    ),
    Target(
        "tensorrt-rtx",
        "ragged",
        "TensorRT for RTX, to build engines (pip install 'raggedrt[tensorrt-rtx]'), and a GeForce RTX GPU to run them",
        built=True,
    ),
)
_BY_NAME = {target.name: target for target in TARGETS}


def find_target(name: str) -> Target:
    """The target called `name`.

    Raises:
        InputError: there is no such target.
        TargetError: this version of RaggedRT cannot serve it yet.
    """
    target = _BY_NAME.get(name)
    if target is None:
        raise InputError(f"unknown target {name!r}; the targets are {', '.join(_BY_NAME)}")
    if not target.built:
        served = ", ".join(t.name for t in TARGETS if t.built)
        raise TargetError(
            f"target {name}: this version of RaggedRT cannot build for it yet; use --target {served}, "
            "whose model.onnx also loads in any ONNX Runtime through the function bodies it carries"
        )
    return target
