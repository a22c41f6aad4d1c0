"""`build`: TensorRT engines with optimisation profiles, from ONNX files, bundles and sources."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from raggedrt.engine_check import check_engine_tensors, check_prepared, check_tensors, linear_rows
from raggedrt.engine_inputs import graph_roles, takes_packed
from raggedrt.engine_profiles import ShapeDemand, choose_profiles
from raggedrt.engine_settings import Compatibility, EngineSettings, engine_settings
from raggedrt.errors import NumericsError
from raggedrt.onnx_files import OnnxFile, read_onnx
from raggedrt.outputs import refuse_existing, refuse_input, staged, workspace
from raggedrt.plugins.bundle.manifest import ENGINE_FOLDER, MANIFEST_NAME, EngineRecord, ManifestDraft, ShapeProfile
from raggedrt.plugins.bundle.reader import open_bundle
from raggedrt.plugins.contract.io_roles import TensorRole
from raggedrt.plugins.runtime.tensorrt_provider import TARGET as PROVIDER_TARGET
from raggedrt.plugins.tensorrt.engine import EngineFacts, build_engine
from raggedrt.plugins.tensorrt.engine_file import EngineFile, file_digest, write_engine_file
from raggedrt.plugins.tensorrt.engine_plugins import check_engine_demand, record_of, used_creators
from raggedrt.plugins.tensorrt.flavour import find_flavour
from raggedrt.plugins.tensorrt.job import EngineJob
from raggedrt.plugins.tensorrt.plugin_model import PLUGIN_MODEL_NAME, plan_without_mask, write_plugin_model
from raggedrt.plugins.tensorrt.prepare import NARROW_PRODUCTS, has_narrow_attention, prepare
from raggedrt.progress import step
from raggedrt.provider_bundle import compile_bundle

if TYPE_CHECKING:
    from raggedrt.graph_passes.report import RewriteReport
    from raggedrt.plugins.bundle.reader import Bundle

LOGGER = logging.getLogger("raggedrt")
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


def build(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    target: str = "tensorrt-rtx",
    io: str | None = None,
    task: str = "auto",
    dtype: str = "fp32",
    min_shapes: str | None = None,
    opt_shapes: str | None = None,
    max_shapes: str | None = None,
    profiles: str | os.PathLike[str] | None = None,
    lengths: str | None = None,
    batch_sizes: str | None = None,
    buckets: int | None = None,
    compute_capability: str | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    plugins: str | None = None,
    version_compatible: bool = False,
    hardware_compatibility: str | None = None,
    force: bool = False,
    revision: str | None = None,
    allow_pickle: bool = False,
) -> BuiltEngine | Bundle:
    """Build a TensorRT engine with optimisation profiles; TensorRT for RTX needs no GPU for it, TensorRT does.

    Args:
        source: an ONNX file (taken as it is, RaggedRT ops replaced by their bodies), a bundle, or any other source of
            `convert`, which is then converted first.
        output: engine file to write; what it was built for is written beside it, as `<output>.json`.
        target: product to build with; `"ort-trt"`: ONNX Runtime compiles a bundle of that target, written again.
        io: inputs and outputs of a source that is converted; None: ragged.
        task: task head of a source that is converted.
        dtype: element type of a source that is converted.
        min_shapes: least shapes, `"input_ids:1x16"`; with ragged inputs this means 1 sequence of 16 tokens.
        opt_shapes: shapes to tune for; default the greatest.
        max_shapes: greatest shapes.
        profiles: instead, a YAML file with several profiles.
        lengths: instead, lengths that will come: `"uniform(16,512)"`, `"12,40,128"` or a file.
        batch_sizes: with or without `lengths`, numbers of sequences per call: `"1,8,32"`.
        buckets: with or without `lengths`, how many profiles to make.
        compute_capability: GPUs to build for, `"80,86,89,120"`; default the GPU present, else these.
        timing_cache: file in which the builder keeps measurements between builds.
        plugins: `"beside"`: the plugin library and its kernels lie beside the engine; `"serialized"`: the engine brings
            the library along (`version_compatible` too); like the next two for target tensorrt.
        version_compatible: build an engine that later versions of TensorRT run too.
        hardware_compatibility: `"none"`, `"ampere+"` or `"same-compute-capability"`: other GPUs that may run it.
        force: replace an existing output.
        revision: revision of a Hub model.
        allow_pickle: accept pickled sources, which can run code.

    Returns:
        What was built; for target ort-trt the bundle.

    Raises:
        InputError: the source or an option is unusable, or the graph has ops that the product lacks.
        FeatureError: the source could not be packed.
        NumericsError: the graph for TensorRT differs from what it was made from.
        RaggedRTError: the builder failed, for example for want of memory.
        TargetError: the builder is not installed.
    """
    if target != PROVIDER_TARGET:
        find_flavour(target)
    demand = ShapeDemand(min_shapes, opt_shapes, max_shapes, profiles, lengths, batch_sizes, buckets)
    compatibility = Compatibility(plugins, version_compatible, hardware_compatibility)
    settings = engine_settings(target, demand, compute_capability, timing_cache, compatibility)
    if settings is None:
        return compile_bundle(source, output, demand, force=force)
    destination, path = pathlib.Path(output), pathlib.Path(source)
    refuse_existing(destination, force=force)
    refuse_input(destination, path)
    if (path / MANIFEST_NAME).exists() or (path.suffix == ".onnx" and not path.is_dir()):
        return _build_file(path, destination, settings)
    from raggedrt.converting import convert

    with workspace(destination) as folder:
        bundle = convert(
            source,
            folder / "bundle",
            target=target,
            io=io,
            task=task,
            dtype=dtype,
            min_shapes=min_shapes,
            opt_shapes=opt_shapes,
            max_shapes=max_shapes,
            profiles=profiles,
            lengths=lengths,
            batch_sizes=batch_sizes,
            buckets=buckets,
            compute_capability=compute_capability,
            timing_cache=timing_cache,
            plugins=plugins,
            version_compatible=version_compatible,
            hardware_compatibility=hardware_compatibility,
            revision=revision,
            allow_pickle=allow_pickle,
        )
        return _take_engine(bundle, destination)


def _take_engine(bundle: Bundle, destination: pathlib.Path) -> BuiltEngine:
    """The engine of a bundle as a file of its own."""
    manifest = bundle.manifest
    record = manifest.engines[0]
    with staged(destination) as engine:
        layers = engine.with_name(f"{engine.name}.layers.json")
        shutil.copyfile(bundle.path / record.file, engine)
        shutil.copyfile(bundle.path / str(record.layers), layers)
        record = record.model_copy(update={"file": engine.name, "layers": layers.name})
        inputs, outputs = ([r.tensor_role for r in records] for records in (manifest.inputs, manifest.outputs))
        write_engine_file(engine, EngineFile.of(record, inputs, outputs, engine))
    facts = bundle.report[REPORT_KEY]
    return BuiltEngine(record, EngineFacts(**facts["facts"]), facts["linear_layers"])


def _build_file(path: pathlib.Path, destination: pathlib.Path, settings: EngineSettings) -> BuiltEngine:
    bundle = open_bundle(path) if path.is_dir() else None
    file = read_onnx(bundle.model_path if bundle else path)
    where = str(path)
    if bundle is not None:
        manifest = bundle.manifest
        inputs = tuple(record.tensor_role for record in manifest.inputs)
        outputs = tuple(record.tensor_role for record in manifest.outputs)
        limit = manifest.position_limit
    else:
        ragged, limit = takes_packed(file.model), None
        inputs = graph_roles(file.model.graph.inputs, ragged=ragged)
        outputs = graph_roles(file.model.graph.outputs, ragged=ragged)
    with workspace(destination) as folder, staged(destination) as engine:
        graph = _graph_for(settings, file, folder, inputs, where)
        layers = engine.with_name(f"{engine.name}.layers.json")
        built = build_from_graph(graph, engine, layers, settings, inputs, outputs, limit, where)
        write_engine_file(engine, EngineFile.of(built.record, inputs, outputs, engine))
    return built


def _graph_for(
    settings: EngineSettings, file: OnnxFile, folder: pathlib.Path, inputs: Sequence[TensorRole], where: str
) -> pathlib.Path:
    """What the builder is handed: bodies in place of our ops, or our ops as plugins."""
    if not find_flavour(settings.target).plugins:
        return _graph_of_bodies(file, folder, inputs, where)
    changed = plan_without_mask(file.model)
    graph = folder / "model.onnx"
    ir.save(file.model, graph, external_data="model.onnx.data")
    if changed:
        check_prepared(file.path, graph, inputs)
    write_plugin_model(graph, folder / PLUGIN_MODEL_NAME)
    return folder / PLUGIN_MODEL_NAME


def _graph_of_bodies(file: OnnxFile, folder: pathlib.Path, inputs: Sequence[TensorRole], where: str) -> pathlib.Path:
    """Bodies in place of our ops; 16-bit matrices are multiplied as such, unless scores are too large for that."""
    changed, spare = bool(file.model.functions), file.model.clone() if has_narrow_attention(file.model) else None
    graph = folder / "model.onnx"
    prepare(file.model, where)
    ir.save(file.model, graph, external_data="model.onnx.data")
    if not changed:
        return graph
    try:
        check_prepared(file.path, graph, inputs)
        return graph
    except NumericsError as error:
        if spare is None:
            raise
        LOGGER.warning("%s: %s (%s)", where, NARROW_PRODUCTS, error)
    prepare(spare, where, exact=True)
    ir.save(spare, graph, external_data="model.onnx.data")
    check_prepared(file.path, graph, inputs)
    return graph
