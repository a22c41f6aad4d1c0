"""`build`: TensorRT engines with optimisation profiles, from ONNX files, bundles and sources."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from raggedrt.engine_check import check_prepared, check_tensors, linear_rows
from raggedrt.engine_inputs import graph_roles, takes_packed
from raggedrt.engine_profiles import ShapeDemand, choose_profiles
from raggedrt.errors import InputError
from raggedrt.onnx_files import read_onnx
from raggedrt.outputs import refuse_existing, refuse_input, staged, workspace
from raggedrt.plugins.bundle.manifest import ENGINE_FOLDER, MANIFEST_NAME, EngineRecord, ManifestDraft, ShapeProfile
from raggedrt.plugins.bundle.reader import open_bundle
from raggedrt.plugins.contract.io_roles import TensorRole
from raggedrt.plugins.tensorrt.engine import EngineFacts, build_engine
from raggedrt.plugins.tensorrt.engine_file import EngineFile, file_digest, write_engine_file
from raggedrt.plugins.tensorrt.flavour import FLAVOURS, find_flavour, parse_capabilities, require_builder
from raggedrt.plugins.tensorrt.job import EngineJob
from raggedrt.plugins.tensorrt.prepare import prepare
from raggedrt.progress import step

if TYPE_CHECKING:
    from raggedrt.graph_passes.report import RewriteReport
    from raggedrt.plugins.bundle.reader import Bundle

REPORT_KEY = "engine"
"""Of `report.json`: what building the engine took."""
ENGINE_NAME, LAYERS_NAME = "model.plan", "model.layers.json"


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """What an engine is built for, checked before any other work."""

    target: str
    demand: ShapeDemand
    capabilities: tuple[int, ...]
    timing_cache: pathlib.Path | None


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


def engine_settings(
    target: str, demand: ShapeDemand, compute_capability: str | None, timing_cache: str | os.PathLike[str] | None
) -> EngineSettings | None:
    """The settings of a target that has engines, None for one that has none.

    Raises:
        InputError: an option does not parse, or says something of engines where the target has none.
        TargetError: the builder is not installed.
    """
    if target not in FLAVOURS:
        given = [field.name for field in dataclasses.fields(demand) if getattr(demand, field.name) is not None]
        named = [name for name in given if name != "opt_shapes"]
        named += [
            name
            for name, value in (("compute_capability", compute_capability), ("timing_cache", timing_cache))
            if value
        ]
        if named:
            raise InputError(
                f"--{named[0].replace('_', '-')}: says something of engines, and target {target} has none; the targets "
                f"with engines are {', '.join(FLAVOURS)}"
            )
        return None
    flavour = find_flavour(target)
    require_builder(flavour)
    cache = None if timing_cache is None else pathlib.Path(timing_cache)
    if cache is not None and (cache.is_dir() or not cache.absolute().parent.is_dir()):
        raise InputError(f"--timing-cache {cache}: expected a file in a folder that exists")
    return EngineSettings(target, demand, parse_capabilities(flavour, compute_capability), cache)


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
    """
    flavour = find_flavour(settings.target)
    profiles = choose_profiles(settings.demand, inputs, position_limit)
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
    )
    facts = build_engine(job, flavour, where, _show)
    check_tensors(facts.tensors, inputs, outputs, where)
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
    )
    return BuiltEngine(record, facts, linear_rows(graph))


def _bounds(profile: ShapeProfile) -> dict[str, Any]:
    return {name: (low, profile.optimum[name], profile.maximum[name]) for name, low in profile.minimum.items()}


def _show(phase: str, done: int, steps: int) -> None:
    step("%s (%d of %d)", phase, done, steps)


def build_in_bundle(
    model: pathlib.Path, settings: EngineSettings, report: RewriteReport, position_limit: int | None
) -> BuiltEngine:
    """Build `model` into the folder `engines` beside it; paths in the record are relative to the bundle."""
    folder = model.parent / ENGINE_FOLDER
    folder.mkdir()
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
    return draft.model_copy(update={"engines": (built.record,), "profiles": built.record.profiles})


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
    force: bool = False,
    revision: str | None = None,
    allow_pickle: bool = False,
) -> BuiltEngine:
    """Build a TensorRT engine with optimisation profiles; no GPU is needed for TensorRT for RTX.

    Args:
        source: an ONNX file (taken as it is, RaggedRT ops replaced by their bodies), a bundle, or any other source of
            `convert`, which is then converted first.
        output: engine file to write; what it was built for is written beside it, as `<output>.json`.
        target: product to build with.
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
        force: replace an existing output.
        revision: revision of a Hub model.
        allow_pickle: accept pickled sources, which can run code.

    Returns:
        What was built.

    Raises:
        InputError: the source or an option is unusable, or the graph has ops that the product lacks.
        FeatureError: the source could not be packed.
        NumericsError: the graph for TensorRT differs from what it was made from.
        RaggedRTError: the builder failed, for example for want of memory.
        TargetError: the builder is not installed.
    """
    find_flavour(target)
    demand = ShapeDemand(min_shapes, opt_shapes, max_shapes, profiles, lengths, batch_sizes, buckets)
    settings = engine_settings(target, demand, compute_capability, timing_cache)
    assert settings is not None  # every target of find_flavour has engines
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
    changed = bool(file.model.functions)
    prepare(file.model, where)
    with workspace(destination) as folder, staged(destination) as engine:
        graph = folder / "model.onnx"
        ir.save(file.model, graph, external_data="model.onnx.data")
        if changed:
            check_prepared(file.path, graph, inputs)
        layers = engine.with_name(f"{engine.name}.layers.json")
        built = build_from_graph(graph, engine, layers, settings, inputs, outputs, limit, where)
        write_engine_file(engine, EngineFile.of(built.record, inputs, outputs, engine))
    return built
