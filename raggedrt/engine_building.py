"""Engines of TensorRT from prepared graphs: the builder's job, checks of what it made, what a bundle says of it."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raggedrt.engine_check import check_engine_tensors, check_tensors, linear_rows
from raggedrt.engine_profiles import choose_profiles
from raggedrt.engine_settings import EngineSettings
from raggedrt.errors import InputError
from raggedrt.plugins.bundle.manifest import ENGINE_FOLDER, EngineRecord, ManifestDraft, ShapeProfile
from raggedrt.plugins.contract.io_roles import TensorRole
from raggedrt.plugins.tensorrt.engine import EngineFacts, build_engine
from raggedrt.plugins.tensorrt.engine_file import file_digest
from raggedrt.plugins.tensorrt.engine_plugins import check_engine_demand, record_of, used_creators
from raggedrt.plugins.tensorrt.flavour import find_flavour
from raggedrt.plugins.tensorrt.job import EngineJob
from raggedrt.plugins.tensorrt.plugin_model import PLUGIN_MODEL_NAME, write_plugin_model
from raggedrt.progress import step

if TYPE_CHECKING:
    from raggedrt.graph_passes.report import RewriteReport

REPORT_KEY = "engine"
"""Of `report.json`: what building the engine took."""
ENGINE_NAME, LAYERS_NAME = "model.plan", "model.layers.json"


@dataclasses.dataclass(frozen=True)
class BuiltEngine:
    """An engine that was built.

    Attributes:
        record: what the manifest, or the file beside the engine, says of it.
        facts: what building it took.
        linear_layers: how many linear layers have their rows along each axis, `tokens` above all.
    """

    record: EngineRecord
    facts: EngineFacts
    linear_layers: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """What `report.json` says of it."""
        return {"facts": dataclasses.asdict(self.facts), "linear_layers": self.linear_layers}


def build_from_graph(
    graph: pathlib.Path,
    engine: pathlib.Path,
    layers: pathlib.Path,
    settings: EngineSettings,
    inputs: Sequence[TensorRole],
    outputs: Sequence[TensorRole],
    position_limit: int | None,
    where: str,
) -> BuiltEngine:
    """Build the prepared ONNX file `graph`; `engine` and `layers` are written, and are relative to one folder.

    Raises:
        InputError: shapes do not fit, or the graph has ops that the product lacks.
        RaggedRTError: the builder failed.
        TargetError: plugins that the graph calls, or kernels for them, are missing.
    """
    flavour, compatibility = find_flavour(settings.target), settings.compatibility
    profiles = choose_profiles(settings.demand, inputs, position_limit)
    if not flavour.plugins and used_creators(graph):
        raise InputError(
            f"{where}: its nodes have the form of TensorRT plugins, and {flavour.product} takes none; build the bundle "
            "or the ONNX file that this one was made from"
        )
    plugins = check_engine_demand(graph, settings.builder_version, settings.capabilities[0], where)
    serialized = plugins is not None and compatibility.plugins == "serialized"
    capabilities = ", ".join(map(str, settings.capabilities))
    step("building an engine of %s for compute capability %s, %d profiles", where, capabilities, len(profiles))
    job = EngineJob(
        target=settings.target,
        onnx=str(graph),
        engine=str(engine),
        layers=str(layers),
        profiles=tuple(_bounds(profile) for profile in profiles),
        capabilities=settings.capabilities,
        timing_cache=None if settings.timing_cache is None else str(settings.timing_cache.absolute()),
        lacks=tuple(flavour.lacks),
        plugins=None if plugins is None else str(plugins.library),
        serialize_plugins=serialized,
        version_compatible=compatibility.version_compatible,
        hardware_compatibility=compatibility.hardware_compatibility or "none",
    )
    facts = build_engine(job, flavour, where, _show)
    check_tensors(facts.tensors, inputs, outputs, where)
    check_engine_tensors(facts.engine_tensors, inputs, outputs, profiles, where)
    record = EngineRecord(
        file=engine.name,
        layers=layers.name,
        target=settings.target,
        builder=flavour.product,
        builder_version=facts.builder_version,
        compute_capabilities=settings.capabilities,
        profiles=profiles,
        device_memory_bytes=facts.device_memory_bytes,
        graph_sha256=file_digest(graph),
        plugins=None if plugins is None else record_of(plugins, used_creators(graph), serialized=serialized),
        version_compatible=compatibility.version_compatible,
        hardware_compatibility=compatibility.hardware_compatibility or "none",
    )
    return BuiltEngine(record, facts, linear_rows(graph))


def _bounds(profile: ShapeProfile) -> dict[str, Any]:
    return {name: (low, profile.optimum[name], profile.maximum[name]) for name, low in profile.minimum.items()}


def _show(phase: str, done: int, steps: int) -> None:
    step("%s (%d of %d)", phase, done, steps)


def build_in_bundle(
    model: pathlib.Path, settings: EngineSettings, report: RewriteReport, position_limit: int | None
) -> BuiltEngine:
    """Build `model` into the folder `engines` beside it; paths in the record are relative to the bundle.

    Where the product takes plugins, what it is handed is written beside the model, too.
    """
    folder = model.parent / ENGINE_FOLDER
    folder.mkdir()
    if find_flavour(settings.target).plugins:
        write_plugin_model(model, model.parent / PLUGIN_MODEL_NAME)
        model = model.parent / PLUGIN_MODEL_NAME
    limits = [limit for limit in (position_limit, report.position_limit) if limit]
    built = build_from_graph(
        model,
        folder / ENGINE_NAME,
        folder / LAYERS_NAME,
        settings,
        report.inputs,
        report.outputs,
        min(limits, default=None),
        "the model",
    )
    places = {"file": f"{ENGINE_FOLDER}/{ENGINE_NAME}", "layers": f"{ENGINE_FOLDER}/{LAYERS_NAME}"}
    return dataclasses.replace(built, record=built.record.model_copy(update=places))


def with_engine(draft: ManifestDraft, built: BuiltEngine | None) -> ManifestDraft:
    """The manifest of a bundle that carries this engine, if any."""
    if built is None:
        return draft
    changes: dict[str, Any] = {"engines": (built.record,), "profiles": built.record.profiles}
    if find_flavour(built.record.target).plugins:
        changes["plugin_model"] = PLUGIN_MODEL_NAME
    return draft.model_copy(update=changes)


def engine_report(built: BuiltEngine | None) -> dict[str, Any]:
    """What `report.json` says of the engine, if there is one."""
    return {} if built is None else {REPORT_KEY: built.to_json()}
