"""`convert`: from a source to a verified bundle."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from raggedrt.approximation import is_imposed, sample_of, verify_imposed
from raggedrt.engine_building import build_in_bundle, engine_report, with_engine
from raggedrt.engine_profiles import ShapeDemand
from raggedrt.engine_settings import Compatibility, engine_settings
from raggedrt.errors import InputError, TargetError
from raggedrt.export.mask_polarity import refuse_inverted_mask
from raggedrt.export.torch_to_onnx import DEFAULT_OPSET
from raggedrt.manifests import draft_manifest, report_json
from raggedrt.models.contract import ModelSource
from raggedrt.options import DTYPES, choose
from raggedrt.outputs import refuse_collisions, refuse_existing, workspace, write_json
from raggedrt.plugins.bundle.manifest import MODEL_NAME, REPORT_NAME, TOKENIZER_NAME
from raggedrt.plugins.bundle.writer import BundleWriter
from raggedrt.plugins.contract.io_roles import Role
from raggedrt.plugins.runtime.tensorrt_provider import TARGET as PROVIDER_TARGET
from raggedrt.plugins.tensorrt.flavour import FLAVOURS
from raggedrt.plugins.tensorrt.plugin_model import plan_without_mask
from raggedrt.plugins.tensorrt.prepare import save_prepared
from raggedrt.progress import step
from raggedrt.provider_bundle import add_provider_files, check_compiling, with_provider_files
from raggedrt.rewriting import make_config, run_passes
from raggedrt.sources import Original, original_onnx, resolve_source
from raggedrt.tokenizing import copy_tokenizer
from raggedrt.verification import Verified, make_tolerance, verify_rewrite

if TYPE_CHECKING:
    from torch import nn

    from raggedrt.export.numerics import Tolerance
    from raggedrt.graph_passes.masks.spec import MaskSpec
    from raggedrt.graph_passes.pipeline import RewriteConfig
    from raggedrt.graph_passes.report import RewriteReport
    from raggedrt.plugins.bundle.reader import Bundle


def convert(
    source: str | os.PathLike[str] | ModelSource | nn.Module,
    output: str | os.PathLike[str],
    *,
    target: str = "ort-cpu",
    io: str | None = None,
    task: str = "auto",
    dtype: str = "fp32",
    features: str | Sequence[str] = "auto",
    opset: int = DEFAULT_OPSET,
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
    ep_context: bool = False,
    sparsity: str | MaskSpec | None = None,
    plan: str | os.PathLike[str] | None = None,
    accept_approximation: bool = False,
    prefill: bool = False,
    atol: float | None = None,
    rtol: float | None = None,
    report: str | os.PathLike[str] | None = None,
    force: bool = False,
    allow_partial: bool = False,
    revision: str | None = None,
    allow_pickle: bool = False,
) -> Bundle:
    """Export, rewrite, verify, and write a bundle: all of it or nothing.

    Args:
        source: model directory, Hub id, `package.module:factory`, `.onnx` or `.pt2` file; from Python also a module.
        output: directory to write.
        target: where the bundle will run.
        io: `"padded"` (a drop-in replacement) or `"ragged"` (packed tokens); None: the target's default.
        task: task head to export; `"auto"` follows the model's config.
        dtype: `"fp32"`, `"fp16"` or `"bf16"`.
        features: `"auto"`, or required features: `"pack,fuse"` or a sequence of names.
        opset: ONNX opset to export.
        min_shapes: least shapes of an engine, as in `raggedrt.build`, like the options down to
            `hardware_compatibility`; only where the target has engines.
        opt_shapes: typical shapes (`"input_ids:8x128"`) at which densities are stated, and that an engine is tuned for.
        max_shapes: greatest shapes of an engine.
        profiles: YAML file with several profiles.
        lengths: lengths that will come, instead of shapes.
        batch_sizes: numbers of sequences per call.
        buckets: how many profiles to make from lengths.
        compute_capability: GPUs to build for.
        timing_cache: file in which the builder keeps measurements.
        plugins: where the plugin library of an engine goes; like the next two as in `raggedrt.build`.
        version_compatible: later versions of TensorRT run the engine too.
        hardware_compatibility: other GPUs that may run the engine.
        ep_context: for target ort-trt, on the machine that will run it: have ONNX Runtime compile an engine now.
        sparsity: mask to impose on every attention site on top of its own, such as `"window(256)"`.
        plan: YAML file that says it site by site, as `raggedrt rewrite --write-plan` writes it.
        accept_approximation: outputs may move because of it; the report says how far.
        prefill: of an ONNX file with a cache, convert what runs in calls that start without one.
        atol: absolute tolerance of the verification; default by dtype.
        rtol: relative tolerance; default by dtype.
        report: also write `report.json` to this file.
        force: replace an existing bundle.
        allow_partial: a feature that matches nothing is no error; the report has the reasons.
        revision: revision of a Hub model.
        allow_pickle: accept pickled checkpoints and `.pt2` programs, which can run code.

    Returns:
        The bundle that was written.

    Raises:
        InputError: the source or an option is unusable, or `output` exists.
        FeatureError: a required feature matched nothing or stopped early.
        NumericsError: the result differs from the source by more than the tolerance.
        TargetError: the target cannot be served, or PyTorch or ONNX Runtime is missing.
    """
    config = make_config(
        features=features,
        target=target,
        io=io,
        allow_partial=allow_partial,
        opt_shapes=opt_shapes,
        sparsity=sparsity,
        plan=plan,
        accept_approximation=accept_approximation,
    )
    demand = ShapeDemand(min_shapes, opt_shapes, max_shapes, profiles, lengths, batch_sizes, buckets)
    compatibility = Compatibility(plugins, version_compatible, hardware_compatibility)
    settings = engine_settings(target, demand, compute_capability, timing_cache, compatibility)
    check_compiling(target, ep_context=ep_context)
    tolerance = make_tolerance(atol, rtol, choose("dtype", dtype, DTYPES))
    if dtype == "bf16" and target == "ort-cpu":
        raise TargetError(
            "--dtype bf16 for target ort-cpu: ONNX Runtime's CPU provider does not run bfloat16 models; "
            "use fp32 or fp16"
        )
    if report is not None:
        refuse_collisions(pathlib.Path(report), pathlib.Path(output))
        refuse_existing(pathlib.Path(report), force=force)
    with BundleWriter(output, force=force) as writer, workspace(writer.output) as folder:
        resolved = resolve_source(source, task=task, revision=revision, allow_pickle=allow_pickle, dtype=dtype)
        if resolved.kind == "onnx" and dtype != "fp32":
            raise InputError(
                f"{source}: an ONNX file keeps its element types; leave --dtype out, or convert the source"
            )
        original = original_onnx(resolved, folder, opset=opset, tolerance=tolerance, prefill=prefill)
        step("rewriting %d nodes", len(original.model.graph))
        config = dataclasses.replace(config, mask_input=original.mask_input, position_limit=resolved.position_limit)
        rewritten = _rewrite(original, config)
        model = writer.directory / MODEL_NAME
        verified = _save_verified(model, original, rewritten, config, tolerance)
        built = None if settings is None else build_in_bundle(model, settings, rewritten, resolved.position_limit)
        provided = add_provider_files(model, target, demand, rewritten, resolved.position_limit, compiled=ep_context)
        step("writing the bundle")
        tokenizer = copy_tokenizer(resolved.tokenizer_dir, writer.directory / TOKENIZER_NAME)
        facts: dict[str, Any] = report_json(rewritten, verified) | engine_report(built)
        write_json(writer.directory / REPORT_NAME, facts)
        draft = draft_manifest(
            source, original, rewritten, verified, model, config=config, dtype=dtype, tokenizer=tokenizer
        )
        bundle = writer.finish(with_provider_files(with_engine(draft, built), provided))
    if report is not None:
        write_json(pathlib.Path(report), facts)
    return bundle


def _rewrite(original: Original, config: RewriteConfig) -> RewriteReport:
    """The graph passes, in place."""
    report = run_passes(original.model, config, original.resolved.description)
    for role in report.inputs:
        if role.role is Role.ATTENTION_MASK:
            refuse_inverted_mask(role.name, original.cases, original.reference)
    return report


def _save_verified(
    model: pathlib.Path,
    original: Original,
    report: RewriteReport,
    config: RewriteConfig,
    tolerance: Tolerance | None,
) -> Verified:
    """Write the graph and verify it; what an engine without plugins is built from has bodies in place of our ops."""

    def verify() -> Verified:
        return _verify(model, original, report, config, tolerance)

    if config.target in FLAVOURS and not FLAVOURS[config.target].plugins:
        return save_prepared(original.model, model, original.resolved.description, verify)
    if config.target == PROVIDER_TARGET:
        plan_without_mask(original.model)
    ir.save(original.model, model, external_data=f"{MODEL_NAME}.data")
    return verify()


def _verify(
    model: pathlib.Path,
    original: Original,
    report: RewriteReport,
    config: RewriteConfig,
    tolerance: Tolerance | None,
) -> Verified:
    """Against the original; where sparsity was imposed, against that, and the report says how far outputs move."""
    if not is_imposed(report):
        return verify_rewrite(
            model, report.inputs, report.outputs, original.cases, original.reference, tolerance, config.target
        )
    resolved = original.resolved
    sample = sample_of(report, original.specs, config.opt_length, resolved.position_limit, resolved.pad_token_id or 0)
    return verify_imposed(model, report, [*original.cases, sample], original.reference, tolerance)
