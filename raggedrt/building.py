"""`build`: TensorRT engines with optimisation profiles, from ONNX files, bundles and sources."""

from __future__ import annotations

import inspect
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from raggedrt.converting import convert
from raggedrt.engine_building import REPORT_KEY, BuiltEngine, build_from_graph
from raggedrt.engine_check import check_prepared
from raggedrt.engine_inputs import graph_roles, takes_packed
from raggedrt.engine_profiles import ShapeDemand
from raggedrt.engine_settings import Compatibility, EngineSettings, engine_settings
from raggedrt.errors import InputError
from raggedrt.onnx_files import OnnxFile, read_onnx
from raggedrt.outputs import refuse_existing, refuse_input, staged, workspace
from raggedrt.plugins.bundle.manifest import MANIFEST_NAME, MODEL_NAME
from raggedrt.plugins.bundle.reader import open_bundle
from raggedrt.plugins.contract.io_roles import TensorRole
from raggedrt.plugins.runtime.tensorrt_provider import TARGET as PROVIDER_TARGET
from raggedrt.plugins.tensorrt.engine import EngineFacts
from raggedrt.plugins.tensorrt.engine_file import EngineFile, write_engine_file
from raggedrt.plugins.tensorrt.flavour import find_flavour
from raggedrt.plugins.tensorrt.plugin_model import PLUGIN_MODEL_NAME, plan_without_mask, write_plugin_model
from raggedrt.plugins.tensorrt.prepare import save_prepared
from raggedrt.provider_bundle import compile_bundle

if TYPE_CHECKING:
    from raggedrt.plugins.bundle.reader import Bundle


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
        _refuse_conversion(path, io=io, task=task, dtype=dtype, revision=revision)
        return _build_file(path, destination, settings)
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


def _refuse_conversion(path: pathlib.Path, **options: str | None) -> None:
    """Refuse options of a conversion for what is taken as it is."""
    usual = inspect.signature(build).parameters
    given = [name for name, value in options.items() if value != usual[name].default]
    if given:
        raise InputError(
            f"--{given[0]}: {path} is built as it is; raggedrt convert takes that option, or build of the source itself"
        )


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
    graph = folder / MODEL_NAME
    if not find_flavour(settings.target).plugins:
        changed = bool(file.model.functions)
        save_prepared(file.model, graph, where, lambda: check_prepared(file.path, graph, inputs) if changed else None)
        return graph
    changed = plan_without_mask(file.model)
    ir.save(file.model, graph, external_data=f"{MODEL_NAME}.data")
    if changed:
        check_prepared(file.path, graph, inputs)
    write_plugin_model(graph, folder / PLUGIN_MODEL_NAME)
    return folder / PLUGIN_MODEL_NAME
