"""What an engine is built for: the options of `build` and `convert` that say something of engines, checked first."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping

from raggedrt.engine_profiles import ShapeDemand
from raggedrt.errors import InputError
from raggedrt.options import choose
from raggedrt.plugins.runtime.tensorrt_provider import TARGET as PROVIDER_TARGET
from raggedrt.plugins.tensorrt.engine_plugins import require_plugins
from raggedrt.plugins.tensorrt.flavour import FLAVOURS, find_flavour, parse_capabilities, require_builder
from raggedrt.plugins.tensorrt.job import HARDWARE_LEVELS

PLUGIN_PLACES = ("beside", "serialized")


@dataclasses.dataclass(frozen=True)
class Compatibility:
    """Where an engine runs beside the place that it was built in.

    Attributes:
        plugins: `"beside"`: the plugin library is loaded before the engine, and kernel packs lie beside it; None: the
            same. `"serialized"`: the engine brings the library along, for which it has to be version compatible.
        version_compatible: it runs in later versions of TensorRT too.
        hardware_compatibility: key of `HARDWARE_LEVELS`; None: `"none"`.
    """

    plugins: str | None = None
    version_compatible: bool = False
    hardware_compatibility: str | None = None

    def __post_init__(self) -> None:
        if self.plugins is not None:
            choose("plugins", self.plugins, PLUGIN_PLACES)
        if self.hardware_compatibility is not None:
            choose("hardware-compatibility", self.hardware_compatibility, tuple(HARDWARE_LEVELS))
        if self.plugins == "serialized" and not self.version_compatible:
            raise InputError(
                "--plugins serialized: TensorRT puts plugin libraries into version-compatible engines alone; add "
                "--version-compatible, or leave the library beside the engine"
            )


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """What an engine is built for, checked before any other work."""

    target: str
    demand: ShapeDemand
    capabilities: tuple[int, ...]
    timing_cache: pathlib.Path | None
    compatibility: Compatibility
    builder_version: str


def engine_settings(
    target: str,
    demand: ShapeDemand,
    compute_capability: str | None,
    timing_cache: str | os.PathLike[str] | None,
    compatibility: Compatibility,
) -> EngineSettings | None:
    """The settings of a target that has engines, None for one that has none.

    Raises:
        InputError: an option does not parse, or says something of engines where the target has none.
        TargetError: the builder, the GPU that it needs, our plugins or kernels for that GPU are missing.
    """
    with_plugins = [name for name, row in FLAVOURS.items() if row.plugins]
    others = {"compute_capability": compute_capability, "timing_cache": timing_cache}
    if target == PROVIDER_TARGET:
        reason = (
            f"ONNX Runtime builds the engine of target {target} where it runs; engines of {{targets}} leave a choice"
        )
        _refuse(reason, FLAVOURS, others)
        _refuse(reason, with_plugins, dataclasses.asdict(compatibility))
        return None
    if target not in FLAVOURS:
        reason = f"says something of engines, and target {target} has none; the targets that take it are {{targets}}"
        _refuse(reason, FLAVOURS, dataclasses.asdict(demand), others)
        _refuse(reason, with_plugins, dataclasses.asdict(compatibility))
        return None
    flavour = find_flavour(target)
    if not flavour.plugins:
        reason = f"engines of target {target} leave no such choice; those of {{targets}} do"
        _refuse(reason, with_plugins, dataclasses.asdict(compatibility))
    version = require_builder(flavour)
    cache = None if timing_cache is None else pathlib.Path(timing_cache)
    if cache is not None and (cache.is_dir() or not cache.absolute().parent.is_dir()):
        raise InputError(f"--timing-cache {cache}: expected a file in a folder that exists")
    capabilities = parse_capabilities(flavour, compute_capability)
    if flavour.plugins:
        require_plugins(version, capabilities[0])
    return EngineSettings(target, demand, capabilities, cache, compatibility, version)


def _refuse(reason: str, targets: Iterable[str], *options: Mapping[str, object]) -> None:
    """Refuse options that were given; typical shapes mean something to every target."""
    given = [name for rows in options for name, value in rows.items() if value and name != "opt_shapes"]
    if given:
        raise InputError(f"--{given[0].replace('_', '-')}: {reason.format(targets=', '.join(targets))}")
