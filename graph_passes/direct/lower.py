"""The pass: every attention that is left where nothing was packed, as far as its mask and form allow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.rule import PackingRefused
from raggedrt.graph_passes.direct.padded_batch import PaddedBatch
from raggedrt.graph_passes.direct.site_lowering import DirectTarget, lower_directly, why_not_direct
from raggedrt.graph_passes.direct.standard_attention import lower_standard_attention
from raggedrt.graph_passes.lowering import SiteMask
from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.graph_passes.report import PassRecord, Refusal
from raggedrt.graph_passes.sites.site import AttentionSite
from raggedrt.plugins.contract.abi import Feature


@dataclasses.dataclass
class DirectJob:
    """What is to be lowered: a graph, what is understood of it, and the mask of every site."""

    graph: ir.Graph
    analysis: AxisAnalysis
    sites: Sequence[AttentionSite]
    masks: Mapping[ir.Value, SiteMask]
    """By the site's output."""
    target: DirectTarget
    record: PassRecord
    packed: bool
    """Padding was removed elsewhere in the graph."""


def lower_unpacked(job: DirectJob) -> set[ir.Node]:
    """Lower in place what nothing packed; returns the anchors of the sites that were."""
    batch = PaddedBatch(Tape(job.graph), job.analysis)
    inputs = job.analysis.inputs
    padding = next((value for value in job.graph.inputs if value.name == inputs.attention_mask), None)
    lowered: dict[ir.Node, dict[ir.Value, ir.Value]] = {}
    for site in job.sites:
        mask = job.masks[site.output]
        if site.anchor.graph is not job.graph:  # packing has replaced it
            continue
        try:
            reason = why_not_direct(site, mask, batch, job.target)
            if reason is None:
                lowered[site.anchor] = {site.output: lower_directly(site, mask, batch, padding), **site.cache}
        except PackingRefused as refusal:
            reason = refusal.reason
        if reason is not None and (mask.kept is not None or not _is_standard(site.anchor)):
            job.record.refused.append(Refusal(site.name, reason))
    kept = {site.anchor for site in job.sites if job.masks[site.output].kept is not None}
    for node in () if job.packed else list(job.graph):
        if _is_standard(node) and node not in lowered and node not in kept:
            _lower_standard(node, batch.tape, job, lowered)
    if lowered:
        batch.tape.join()
        for replaced in lowered.values():
            _replace(job.graph, replaced)
        job.graph.sort()
        common_passes.RemoveUnusedNodesPass()(ir.Model(job.graph, ir_version=10))
    else:
        batch.tape.drop()
    job.record.matched += len(lowered)
    return set(lowered)


def _is_standard(node: ir.Node) -> bool:
    return node.op_type == "Attention" and node.domain in ("", "ai.onnx")


def _lower_standard(
    node: ir.Node, tape: Tape, job: DirectJob, lowered: dict[ir.Node, dict[ir.Value, ir.Value]]
) -> None:
    """With whatever inputs it has; its mask becomes a bias."""
    before = len(tape.nodes)
    try:
        replaced = lower_standard_attention(node, tape)
        _check(tape.nodes[before:], job.target, node)
    except PackingRefused as refusal:
        job.record.refused.append(Refusal(refusal.node, refusal.reason))
        return
    lowered[node] = replaced


def _check(made: list[ir.Node], target: DirectTarget, node: ir.Node) -> None:
    for new in made:
        if new.op_type != "RaggedAttention":
            continue
        missing = target.capability.missing(Feature(new.attributes["features"].as_int()))
        if missing:
            raise PackingRefused(node, f"the target's op library lacks {missing.name}")


def _replace(graph: ir.Graph, replaced: Mapping[ir.Value, ir.Value]) -> None:
    for old, new in replaced.items():
        if not old.is_graph_output():
            ir.convenience.replace_all_uses_with(old, new)
            continue
        name, old.name = old.name, f"{old.name}_before_lowering"
        if new.producer() is None or new.is_graph_output():
            copy = ir.Node("", "Identity", [new], num_outputs=1, name=f"{name}_copy")
            graph.append(copy)
            new = copy.outputs[0]
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.name, new.type, new.shape = name, old.type, old.shape
