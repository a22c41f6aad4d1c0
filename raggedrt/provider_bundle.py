"""What a bundle for ONNX Runtime's TensorRT provider has beside its model: the plugin form, a profile, an engine."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import shutil
from typing import TYPE_CHECKING

import onnx

from raggedrt.engine_profiles import ShapeDemand, choose_profiles
from raggedrt.errors import InputError, RaggedRTError
from raggedrt.outputs import refuse_input
from raggedrt.plugins.bundle.ep_context import check_context_files, ep_contexts
from raggedrt.plugins.bundle.manifest import ENGINE_FOLDER, MANIFEST_NAME, ContextRecord, ManifestDraft, ShapeProfile
from raggedrt.plugins.bundle.model_facts import load_proto
from raggedrt.plugins.bundle.reader import Bundle, open_bundle
from raggedrt.plugins.bundle.writer import BundleWriter
from raggedrt.plugins.contract.op_definition import ORT_PLUGIN_DOMAIN
from raggedrt.plugins.runtime.ort_errors import LOAD_ERRORS, import_onnxruntime, translated
from raggedrt.plugins.runtime.tensorrt_provider import PROVIDER, TARGET, check_plugins, ready_provider, require_tensorrt
from raggedrt.plugins.tensorrt.engine_file import file_digest
from raggedrt.plugins.tensorrt.plugin_model import PLUGIN_MODEL_NAME, write_plugin_model
from raggedrt.plugins.tensorrt.profiles import envelope
from raggedrt.plugins.tensorrt.provider_options import tensorrt_options
from raggedrt.progress import step

if TYPE_CHECKING:
    from raggedrt.graph_passes.report import RewriteReport

LOGGER = logging.getLogger("raggedrt")
CONTEXT_NAME = "model_ctx.onnx"


@dataclasses.dataclass(frozen=True)
class ProviderFiles:
    """What was added to the model, and what the manifest says of it."""

    profile: ShapeProfile
    context: ContextRecord | None = None


def check_compiling(target: str, *, ep_context: bool) -> None:
    """Check, before any other work, that what was asked for can be compiled here.

    Raises:
        InputError: the target has no such thing.
        TargetError: the provider, TensorRT or a GPU is missing.
    """
    if ep_context and target != TARGET:
        raise InputError(
            f"--ep-context: is for --target {TARGET}, whose engine ONNX Runtime compiles, not for {target}"
        )
    if ep_context:
        require_tensorrt("--ep-context")


def add_provider_files(
    model: pathlib.Path,
    target: str,
    demand: ShapeDemand,
    report: RewriteReport,
    position_limit: int | None,
    *,
    compiled: bool = False,
) -> ProviderFiles | None:
    """Write what the target needs beside `model`; None where it needs nothing of this kind.

    Args:
        model: the model in native form, at its place in the bundle.
        target: of the bundle.
        demand: what shapes will come.
        report: of the graph passes.
        position_limit: of the source.
        compiled: compile an engine now, which takes the GPU that will run it.

    Raises:
        InputError: shapes do not fit the inputs.
        FeatureError: a node that no plugin serves.
        TargetError: `compiled`, and this machine lacks what that takes.
    """
    if target != TARGET:
        return None
    limits = [limit for limit in (position_limit, report.position_limit) if limit]
    profiles = choose_profiles(demand, report.inputs, min(limits, default=None))
    if len(profiles) > 1 and (demand.buckets is not None or demand.profiles is not None):
        LOGGER.warning("%s has one profile per session: the %d are put together into one", PROVIDER, len(profiles))
    profile = envelope(profiles)
    place = model.parent / PLUGIN_MODEL_NAME
    write_plugin_model(model, place, ORT_PLUGIN_DOMAIN)
    require_types(load_proto(place), place.name)
    return ProviderFiles(profile, compile_context(place, profile) if compiled else None)


def require_types(model: onnx.ModelProto, where: str) -> None:
    """Check that the file tells the type of whatever a plugin gives: the provider declares plugins without any.

    Raises:
        RaggedRTError: one is missing.
    """
    values = (*model.graph.value_info, *model.graph.output)
    known = {value.name for value in values if value.type.tensor_type.elem_type}
    for node in model.graph.node:
        if node.domain == ORT_PLUGIN_DOMAIN and not known.issuperset(name for name in node.output if name):
            raise RaggedRTError(
                f"{where}: node {node.name!r} gives a tensor whose type is not known, so {PROVIDER} cannot load it; "
                "this is a fault of RaggedRT, please report it"
            )


def compile_bundle(
    source: str | os.PathLike[str], output: str | os.PathLike[str], demand: ShapeDemand, *, force: bool
) -> Bundle:
    """A bundle once more, with an EPContext model that was compiled on this machine.

    Args:
        source: a bundle of target ort-trt.
        output: bundle to write.
        demand: nothing, for the profile is the bundle's.
        force: replace an existing output.

    Raises:
        InputError: the source is no such bundle, or shapes are given.
        TargetError: the provider, TensorRT, the plugins or a GPU is missing.
        RaggedRTError: the provider compiled nothing.
    """
    if not (pathlib.Path(source) / MANIFEST_NAME).exists():
        raise InputError(
            f"{source}: expected a bundle; raggedrt convert --target {TARGET} --ep-context makes one of a source"
        )
    given = [field.name for field in dataclasses.fields(demand) if getattr(demand, field.name) is not None]
    if given:
        raise InputError(
            f"--{given[0].replace('_', '-')}: {source} has its profile; convert the model again for another"
        )
    bundle = open_bundle(source, verify=True)
    manifest = bundle.manifest
    if manifest.target != TARGET or manifest.plugin_model is None:
        raise InputError(f"{source}: was converted for {manifest.target}; convert it with --target {TARGET}")
    refuse_input(pathlib.Path(output), bundle.path)
    require_tensorrt(str(source))
    with BundleWriter(output, force=force) as writer:
        for file in manifest.files:
            if not file.startswith(f"{ENGINE_FOLDER}/"):
                place = writer.directory / file
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path / file, place)
        context = compile_context(writer.directory / manifest.plugin_model, envelope(manifest.profiles))
        fields = {field: getattr(manifest, field) for field in ManifestDraft.model_fields}
        return writer.finish(ManifestDraft(**{**fields, "ep_context": context}))


def provider_text(manifest: ManifestDraft, library: str) -> str:
    """What a program in another language needs: the file to load, then the provider's options, as `key=value` lines.

    Paths are relative to the bundle; `library` registers the plugins.
    """
    compiled = manifest.ep_context
    profiles = [] if compiled is not None else [envelope(manifest.profiles)]
    model = manifest.plugin_model if compiled is None else compiled.file
    options = {"model": str(model), **tensorrt_options(profiles, plugin_libraries=[library])}
    return "".join(f"{key}={value}\n" for key, value in options.items())


def with_provider_files(draft: ManifestDraft, files: ProviderFiles | None) -> ManifestDraft:
    """The manifest of a bundle with these files, if any."""
    if files is None:
        return draft
    changes = {"profiles": (files.profile,), "plugin_model": PLUGIN_MODEL_NAME, "ep_context": files.context}
    return draft.model_copy(update=changes)


def compile_context(graph: pathlib.Path, profile: ShapeProfile) -> ContextRecord:
    """Compile the plugin form into an EPContext model in the folder of engines, its engine beside it.

    Raises:
        TargetError: the provider, TensorRT, the plugins or a GPU is missing.
        RaggedRTError: the provider wrote no such model.
    """
    ready = ready_provider(str(graph.parent))
    check_plugins(ready, graph, graph.name)
    folder = graph.parent / ENGINE_FOLDER
    folder.mkdir(exist_ok=True)
    place = folder / CONTEXT_NAME
    step("compiling %s for %s", graph.name, ready.device)
    options = tensorrt_options([profile], plugin_libraries=[ready.plugins.registrar], context=place)
    runtime = import_onnxruntime()
    if hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()  # CUDA and cuDNN as wheels lie where the loader does not look
    providers = [(PROVIDER, options), "CUDAExecutionProvider", "CPUExecutionProvider"]
    with translated(f"ONNX Runtime cannot compile {graph.name}", LOAD_ERRORS, "Nothing was written."):
        runtime.InferenceSession(str(graph), providers=providers, enable_fallback=0)
    if not place.is_file():
        raise RaggedRTError(f"{PROVIDER} wrote no {CONTEXT_NAME}; set ORT_TENSORRT_VERBOSE_ENABLE=1 to see why")
    check_compiled(load_proto(place), folder)
    return ContextRecord(
        file=f"{ENGINE_FOLDER}/{CONTEXT_NAME}",
        provider=PROVIDER,
        runtime_version=runtime.__version__,
        sdk_version=ready.version,
        compute_capability=ready.device.capability,
        graph_sha256=file_digest(graph),
    )


def check_compiled(model: onnx.ModelProto, folder: pathlib.Path) -> None:
    """Check that every part in plugin form was compiled, and that what was lies beside the model.

    Raises:
        RaggedRTError: a node in plugin form is left, or nothing was compiled.
        InputError: content is missing.
    """
    contexts = ep_contexts(model)
    left = [node.name for node in model.graph.node if node.domain == ORT_PLUGIN_DOMAIN]
    if left or not contexts:
        what = f"left {len(left)} nodes to others, {left[0]!r} first" if left else "compiled nothing"
        raise RaggedRTError(f"{PROVIDER} {what}; set ORT_TENSORRT_VERBOSE_ENABLE=1 to see why")
    check_context_files(contexts, folder, CONTEXT_NAME)
