"""Which execution providers serve a target, with which options, and what a machine must have for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raggedrt.errors import InputError, TargetError
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.runtime.cuda_device import require_cuda_device
from raggedrt.plugins.runtime.ort import CUDA_PROVIDER
from raggedrt.plugins.runtime.tensorrt_provider import PROVIDER, TARGET, require_tensorrt
from raggedrt.plugins.tensorrt.engine_file import require_runnable

TARGET_PROVIDERS: dict[str, tuple[str, ...]] = {
    "ort-cpu": ("CPUExecutionProvider",),
    "ort-cuda": (CUDA_PROVIDER, "CPUExecutionProvider"),
    TARGET: (PROVIDER, CUDA_PROVIDER, "CPUExecutionProvider"),
}
CUDA_OPTIONS = {"use_tf32": "0", "enable_skip_layer_norm_strict_mode": "1"}
"""What keeps values those of the original: float32 products are not rounded to TF32, and norms of half-precision models
keep their sums in float32. Both can be given otherwise."""
STREAM_OPTIONS: dict[str, dict[str, str]] = {CUDA_PROVIDER: {"do_copy_in_default_stream": "0"}, PROVIDER: {}}
"""What a provider is told beside the caller's stream."""
Configured = list[tuple[str, dict[str, str]]]


def configured_providers(
    target: str, options: Sequence[Mapping[str, Any]] | None = None, stream: int | None = None
) -> Configured:
    """The providers of a target with their options.

    Args:
        target: a key of `TARGET_PROVIDERS`.
        options: the caller's, one mapping per provider; they win over the defaults.
        stream: CUDA stream on which everything is to be enqueued.

    Raises:
        InputError: there are more or fewer mappings than providers.
    """
    names = TARGET_PROVIDERS[target]
    if options is not None and len(options) != len(names):
        raise InputError(f"provider_options has {len(options)} mappings, and the providers are {', '.join(names)}.")
    configured: Configured = []
    for place, name in enumerate(names):
        chosen: dict[str, Any] = dict(CUDA_OPTIONS) if name == CUDA_PROVIDER else {}
        chosen |= {} if options is None else options[place]
        if name in STREAM_OPTIONS and stream is not None:
            chosen |= {"user_compute_stream": stream, **STREAM_OPTIONS[name]}
        configured.append((name, {key: str(value) for key, value in chosen.items()}))
    return configured


def providers_beside(target: str) -> Configured | None:
    """Providers for what a bundle of this target is measured against; None: the CPU's, beside targets without any."""
    return configured_providers(target) if target in TARGET_PROVIDERS else None


def captures_graphs(configured: Sequence[Any]) -> bool:
    """Whether CUDA graphs are asked for in the options of a provider."""
    options = [entry[1] for entry in configured if isinstance(entry, tuple)]
    return any(str(given.get("enable_cuda_graph", "0")).lower() in ("1", "true") for given in options)


def require_target(bundle: Bundle) -> None:
    """Check that the bundle's target can be served on this machine.

    Raises:
        TargetError: no session serves the target, or its device is missing.
    """
    target = bundle.manifest.target
    if bundle.manifest.engines:
        engine = bundle.manifest.engines[0]
        require_runnable(engine, str(bundle.path / engine.file))
        return
    if target not in TARGET_PROVIDERS:
        raise TargetError(f"{bundle.path} was built for {target!r}, which no Session serves yet.")
    if target == TARGET:
        require_tensorrt(str(bundle.path))
    elif CUDA_PROVIDER in TARGET_PROVIDERS[target]:
        require_cuda_device(f"{bundle.path} (target {target})")
