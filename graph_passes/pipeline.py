"""The graph passes in order: ONNX in, ONNX with fused ragged attention out, and a report that says what and why not."""

from __future__ import annotations

import dataclasses
import json
import logging

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from raggedrt.errors import FeatureError, InputError
from raggedrt.graph_passes.attention_plans import plan_attention
from raggedrt.graph_passes.axes.rule import PackingRefused
from raggedrt.graph_passes.branches import take_known_branches
from raggedrt.graph_passes.caches import leave_out_empty_caches
from raggedrt.graph_passes.clean import ask_inputs_for_shapes, clean, fold, infer_types
from raggedrt.graph_passes.direct.lower import DirectJob, lower_unpacked
from raggedrt.graph_passes.direct.site_lowering import DirectTarget
from raggedrt.graph_passes.embed_layer_norm import take_embeddings_apart
from raggedrt.graph_passes.entries import attention_entries, io_roles, position_limit
from raggedrt.graph_passes.fuse.ort_cpu import FUSIONS
from raggedrt.graph_passes.fused_matmul import take_fused_products_apart
from raggedrt.graph_passes.graph_inputs import CACHE_REASON, cache_inputs, describe_inputs, inputs_of_rows
from raggedrt.graph_passes.impose import ModelLengths, SiteChoice, choices_by_site, impose
from raggedrt.graph_passes.lowering import MaskBook, SiteMask, why_not_lowered
from raggedrt.graph_passes.masks.inputs import GraphInputs
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.graph_passes.packing.pack import NO_MASK_INPUT, NO_MASK_REASON, PackingJob, pack
from raggedrt.graph_passes.ragged_plan import plan_from_offsets
from raggedrt.graph_passes.report import Refusal, RewriteReport
from raggedrt.graph_passes.rotary import spell_out_rotary
from raggedrt.graph_passes.sites.by_shape import row_length
from raggedrt.graph_passes.sites.find import Understanding, understand
from raggedrt.graph_passes.sites.no_attention import why_none
from raggedrt.graph_passes.slice_scatter import join_written_slices
from raggedrt.graph_passes.views import collapse_views
from raggedrt.plugins.bodies import attach_function_bodies
from raggedrt.plugins.contract.capability import CAPABILITIES
from raggedrt.plugins.contract.op_definition import DOMAIN, OPSET_VERSION

logger = logging.getLogger(__name__)

FEATURES = ("pack", "sparse", "fuse")
SMALLEST_OPSET, LARGEST_OPSET = 17, 26
"""Default-domain opsets that function bodies are generated for."""
OPS_METADATA = "raggedrt.ops"
NOT_ACCEPTED = (
    "A sparsity that is imposed on a model hides keys that it was trained to see, so its outputs move. Pass "
    "--accept-approximation (accept_approximation=True) if that is wanted; the report then says how far they move."
)


@dataclasses.dataclass(frozen=True)
class RewriteConfig:
    """What to do.

    Attributes:
        features: "auto" (whatever applies) or names of FEATURES, each of which is then a requirement.
        target: a key of `CAPABILITIES`.
        io: "padded" keeps inputs and outputs; "ragged" takes packed tokens.
        allow_partial: a required feature that does not apply is reported, not raised.
        opt_length: length in tokens that densities are reported at; None derives one.
        opt_inputs: inputs that shapes were given for; each must exist.
        mask_input: name of the padding mask; None: one of `MASK_NAMES`, if it is there.
        sparsity: mask that every attention site gets on top of its own; None: none.
        plan: what each site gets instead, and which sites stay as they are; sites that are not named get `sparsity`.
        position_limit: longest sequence in tokens that the source allows, as far as it says it.
        accept_approximation: the result may compute something else than the original, where that was asked for.
        prefill: every call starts without a cache: inputs that hold one are left out.
    """

    features: str | tuple[str, ...] = "auto"
    target: str = "ort-cpu"
    io: str = "padded"
    allow_partial: bool = False
    opt_length: int | None = None
    opt_inputs: tuple[str, ...] = ()
    mask_input: str | None = None
    sparsity: MaskSpec | None = None
    plan: tuple[SiteChoice, ...] = ()
    position_limit: int | None = None
    accept_approximation: bool = False
    prefill: bool = False

    @property
    def imposes(self) -> bool:
        """Whether a mask is imposed on any site."""
        return self.sparsity is not None or any(choice.sparsity is not None for choice in self.plan)

    @property
    def required(self) -> tuple[str, ...]:
        """Features that must apply."""
        return () if isinstance(self.features, str) else self.features

    def wants(self, feature: str) -> bool:
        """Whether a feature is to be tried."""
        return isinstance(self.features, str) or feature in self.features


def rewrite(model: ir.Model, config: RewriteConfig) -> RewriteReport:
    """Run the passes in place.

    Raises:
        InputError: The model or the configuration cannot be used.
        FeatureError: A required feature matched nothing or stopped (unless `allow_partial`).
    """
    _check(model, config)
    graph = model.graph
    report = RewriteReport(nodes_before=len(list(graph)))

    emptied = leave_out_empty_caches(graph, prefill=config.prefill, mask_input=config.mask_input)
    report.record("leave_out_empty_caches").matched = emptied
    clean(model)
    report.record("clean").matched = report.nodes_before - len(list(graph))
    _respell(model, report)
    understanding = _understand(graph, config, report)
    masks = _impose(understanding, _explain_masks(graph, understanding, config, report), config, report)
    original_outputs = list(graph.outputs)
    lowered = set[ir.Node]()
    if config.wants("pack") or config.imposes:
        lowered = _pack(graph, understanding, masks, config, report)
    packed, direct = bool(lowered), set[ir.Node]()
    if config.wants("sparse") or config.imposes:
        target = DirectTarget(config.target, CAPABILITIES[config.target])
        sites = [site for site in understanding.sites if site.unpackable is not None or not packed]
        job = DirectJob(graph, understanding.analysis, sites, masks, target, report.record("sparse"), packed=packed)
        direct = lower_unpacked(job)
    report.attention = attention_entries(understanding, masks, report, lowered | direct, config.opt_length)
    if packed or direct:
        report.record("collapse_views").matched = collapse_views(model)
    report.position_limit = position_limit(understanding)
    fused = config.wants("fuse") and _fuse(model, config, report)
    ragged = packed and config.io == "ragged"
    report.inputs, report.outputs = io_roles(graph, understanding.analysis, original_outputs, ragged=ragged)
    if CAPABILITIES[config.target].plans_attention:
        if ragged:
            report.record("plan_from_offsets").matched = plan_from_offsets(
                graph, report.inputs, scatters_sums=CAPABILITIES[config.target].scatters_sums
            )
        report.record("plan_attention").matched = plan_attention(graph)
    finish(model)
    report.nodes_after = len(list(graph))
    _require(config, report, packed=packed, direct=bool(direct), fused=fused)
    return report


def _check(model: ir.Model, config: RewriteConfig) -> None:
    if config.target not in CAPABILITIES:
        raise InputError(f"Unknown target '{config.target}'; the passes know {', '.join(CAPABILITIES)}.")
    if config.io not in ("padded", "ragged"):
        raise InputError(f"Unknown io '{config.io}'; expected padded or ragged.")
    if isinstance(config.features, str) and config.features != "auto":
        raise InputError(f"features is 'auto' or names in a tuple, not '{config.features}'.")
    for feature in config.required:
        if feature not in FEATURES:
            raise InputError(f"Unknown feature '{feature}'; the features are {', '.join(FEATURES)}.")
    names = [value.name for value in model.graph.inputs]
    for name in config.opt_inputs:
        if name not in names:
            raise InputError(f"--opt-shapes names the input '{name}'; the inputs are {', '.join(map(str, names))}.")
    if any(node.domain == DOMAIN for node in model.graph):
        raise InputError("The model holds raggedrt ops already; rewrite the original instead.")
    if config.imposes and not config.accept_approximation:
        raise InputError(NOT_ACCEPTED)
    opset = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 0))
    if not SMALLEST_OPSET <= opset <= LARGEST_OPSET:
        raise InputError(
            f"The model's opset is {opset}; opsets {SMALLEST_OPSET} to {LARGEST_OPSET} are supported. "
            "Export again, or convert it with onnx.version_converter."
        )


def _respell(model: ir.Model, report: RewriteReport) -> None:
    """Spell fused ops that hide what packing looks for in plainer ones."""
    report.record("spell_out_rotary").matched = spell_out_rotary(model.graph)
    embeddings = take_embeddings_apart(model.graph)
    report.record("take_embeddings_apart").matched = embeddings
    if embeddings:
        infer_types(model)  # nothing behind an op without a schema had a type
    report.record("take_fused_products_apart").matched = take_fused_products_apart(model.graph)
    joined = join_written_slices(model.graph)
    report.record("join_written_slices").matched = joined
    if joined:
        common_passes.RemoveUnusedNodesPass()(model)


def _understand(graph: ir.Graph, config: RewriteConfig, report: RewriteReport) -> Understanding:
    inputs = describe_inputs(graph, config.mask_input)
    understanding = understand(graph, inputs)
    branches = 0
    while taken := take_known_branches(graph, understanding.analysis):
        branches += taken
        infer_types(ir.Model(graph, ir_version=10))
        understanding = understand(graph, inputs)
    report.record("take_known_branches").matched = branches
    behind = spell_out_rotary(graph, understanding.analysis)  # ops without shape inference
    if behind:
        report.record("spell_out_rotary").matched += behind
        understanding = understand(graph, inputs)
    anchor = next((value for value in graph.inputs if value.name == inputs.attention_mask), None)
    if anchor is not None:
        report.record("ask_inputs_for_shapes").matched = ask_inputs_for_shapes(graph, understanding.analysis, anchor)
        if branches:  # what they compute from lengths has not been folded yet
            fold(ir.Model(graph, ir_version=10))
        common_passes.RemoveUnusedNodesPass()(ir.Model(graph, ir_version=10))
        understanding = understand(graph, inputs)
    record = report.record("find_attention")
    record.matched = len(understanding.sites)
    record.refused = [
        Refusal(site.name, f"closest form {site.form}: {site.reason}") for site in understanding.unknown_sites
    ]
    return understanding


def _explain_masks(
    graph: ir.Graph, understanding: Understanding, config: RewriteConfig, report: RewriteReport
) -> dict[ir.Value, SiteMask]:
    analysis = understanding.analysis
    books: dict[GraphInputs, MaskBook] = {}
    masks = {}
    for site in understanding.sites:
        inputs = analysis.inputs
        if site.unpackable is not None:
            inputs = inputs_of_rows(graph, row_length(site, analysis))
        masks[site.output] = books.setdefault(inputs, MaskBook(inputs)).of(site)
    report.record("explain_masks").matched = sum(mask.spec is not None for mask in masks.values())
    return masks


def _impose(
    understanding: Understanding, masks: dict[ir.Value, SiteMask], config: RewriteConfig, report: RewriteReport
) -> dict[ir.Value, SiteMask]:
    if not config.imposes and not config.plan:
        return masks
    sites = understanding.sites
    choices = choices_by_site(config.plan, sites, understanding.unknown_sites)
    limits = [limit for limit in (position_limit(understanding), config.position_limit) if limit]
    static = understanding.analysis.inputs.sequence
    lengths = ModelLengths(static, min(limits, default=None), config.opt_length)
    masks = impose(sites, masks, choices, config.sparsity, lengths, ragged=config.io == "ragged")
    report.record("impose_sparsity").matched = sum(mask.imposed is not None for mask in masks.values())
    return masks


def _pack(
    graph: ir.Graph,
    understanding: Understanding,
    masks: dict[ir.Value, SiteMask],
    config: RewriteConfig,
    report: RewriteReport,
) -> set[ir.Node]:
    """Pack; returns the anchors of the sites that were lowered, none where packing stopped."""
    capability, ragged = CAPABILITIES[config.target], config.io == "ragged"
    refused = {}
    specs = {}
    for site in understanding.sites:
        mask = masks[site.output]
        reason = why_not_lowered(site, mask, capability, ragged=ragged, approximate=config.accept_approximation)
        if reason is not None:
            refused[site.output] = (site, reason)
        elif mask.spec is not None:
            specs[site.output] = mask.spec
    biases = {output: masks[output].biases for output in specs}
    record = report.record("pack")
    try:
        if not understanding.sites and not understanding.unknown_sites:
            raise PackingRefused("graph", why_none(graph))
        if understanding.analysis.inputs.attention_mask is None:
            raise PackingRefused(NO_MASK_INPUT, NO_MASK_REASON)
        if len(cache := cache_inputs(graph)) > 1 and not specs:
            shown = ", ".join(cache[:2]) + (", …" if len(cache) > 2 else "")
            raise PackingRefused(cache[0], CACHE_REASON.format(names=shown))
        if understanding.unknown_sites and not specs:
            first = understanding.unknown_sites[0]
            raise PackingRefused(first.name, f"attention in an unknown form (closest: {first.form}): {first.reason}")
        if refused and not specs:
            site, reason = next(iter(refused.values()))
            raise PackingRefused(site.name, reason)
        lengths = {output: masks[output].key_lengths for output in specs}
        record.matched = pack(PackingJob(graph, understanding, specs, biases, refused, ragged, lengths))
    except PackingRefused as refusal:
        record.refused.append(Refusal(refusal.node, refusal.reason))
        logger.info("packing stopped at %s", refusal)
        return set()
    record.refused += [Refusal(site.name, reason) for site, reason in refused.values()]
    return {site.anchor for site in understanding.sites if site.output in specs}


def finish(model: ir.Model) -> None:
    """Drop what is dead, write the facts that others rely on, attach function bodies (always last)."""
    for step in (
        common_passes.RemoveUnusedNodesPass(),
        common_passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common_passes.RemoveUnusedOpsetsPass(),
    ):
        step(model)
    counts: dict[str, int] = {}
    for node in model.graph:
        if node.domain == DOMAIN:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    if counts:
        model.graph.opset_imports[DOMAIN] = OPSET_VERSION
        model.metadata_props[OPS_METADATA] = json.dumps(counts, sort_keys=True)
        attach_function_bodies(model)


def _fuse(model: ir.Model, config: RewriteConfig, report: RewriteReport) -> bool:
    record = report.record("fuse")
    record.matched = sum(FUSIONS[config.target](model).values())
    if not record.matched:
        record.refused.append(Refusal("graph", f"nothing to fuse for {config.target}"))
    return record.matched > 0


def _require(config: RewriteConfig, report: RewriteReport, *, packed: bool, direct: bool, fused: bool) -> None:
    """Features that were asked for by name, and ragged I/O, are requirements; of "auto" one must apply."""
    if config.allow_partial:
        return
    for entry in report.attention:
        if entry.op is None and (entry.sparsity is not None or (config.sparsity is not None and entry.heads is None)):
            raise FeatureError(_explain_stop(f"The sparsity could not be imposed on {entry.node}", report))
    if not packed and ("pack" in config.required or config.io == "ragged"):
        raise FeatureError(_explain_stop("Padding could not be removed", report))
    if not fused and "fuse" in config.required:
        raise FeatureError(_explain_stop("Nothing could be fused", report))
    if not direct and not config.imposes and "sparse" in config.required:
        raise FeatureError(
            _explain_stop("No mask was used outside packed tokens (sparse), and none is imposed", report)
        )
    if not packed and not direct and not fused:
        raise FeatureError(_explain_stop("No feature applies to this graph", report))


def _explain_stop(what: str, report: RewriteReport) -> str:
    # What a pass says once, every site that it left alone repeats.
    refusals = [refusal for record in report.passes for refusal in record.refused] or report.refusals
    reasons = "; ".join(f"{refusal.node}: {refusal.reason}" for refusal in refusals) or "no reason was recorded"
    return f"{what}. {reasons}. Use --allow-partial to get the model without it, or `raggedrt inspect` for more."
