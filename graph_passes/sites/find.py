"""Find every attention site of a graph, during the axis analysis (sites tell it the axes of their outputs)."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis, analyse
from raggedrt.graph_passes.axes.atoms import Atom, Axes
from raggedrt.graph_passes.masks.inputs import GraphInputs
from raggedrt.graph_passes.sites import decomposed, fused_ops
from raggedrt.graph_passes.sites.by_shape import fused_by_shape
from raggedrt.graph_passes.sites.lost import where_axes_are_lost
from raggedrt.graph_passes.sites.site import AttentionSite, NotThisForm, UnknownSite


@dataclasses.dataclass
class Understanding:
    """What a graph computes, as far as it is understood: axes of every value and attention sites in graph order."""

    analysis: AxisAnalysis
    sites: list[AttentionSite]
    unknown_sites: list[UnknownSite]


def understand(graph: ir.Graph, inputs: GraphInputs) -> Understanding:
    """Analyse axes and find attention sites in one walk over the graph."""
    finder = _Finder(graph)
    analysis = analyse(graph, inputs, finder.visit)
    return Understanding(analysis, finder.known, finder.unknown)


class _Finder:
    def __init__(self, graph: ir.Graph) -> None:
        self.known: list[AttentionSite] = []
        self.unknown: list[UnknownSite] = []
        self._softmax_of_product: dict[ir.Node, ir.Node] = {}
        for node in graph:
            if node.op_type == "Softmax" and node.domain == "":
                self._enter_softmax(node)

    def _enter_softmax(self, node: ir.Node) -> None:
        try:
            found = decomposed.weights_product(node)
        except NotThisForm as miss:
            self.unknown.append(UnknownSite(node, miss.form, miss.reason))
            return
        if found is not None:
            self._softmax_of_product[found[0]] = node

    def visit(self, node: ir.Node, analysis: AxisAnalysis) -> None:
        """Match the attention that ends in `node`, if one does (its operands are understood by then)."""
        key = ("" if node.domain == "ai.onnx" else node.domain, node.op_type)
        if key in fused_ops.UNKNOWN:
            self.unknown.append(UnknownSite(node, ".".join(key), fused_ops.UNKNOWN[key]))
        softmax = self._softmax_of_product.get(node)
        matcher = decomposed.match if softmax is not None else fused_ops.MATCHERS.get(key)
        if matcher is None:
            return
        anchor = node if softmax is None else softmax
        try:
            site = matcher(anchor, analysis)
        except NotThisForm as miss:
            reason = _with_origin(miss.reason, node, analysis)
            site = fused_by_shape(node, analysis, reason) if key == ("", "Attention") else None
            if site is not None:
                self.known.append(site)
                return
            self.unknown.append(UnknownSite(anchor, miss.form, reason))
            return
        if site is not None:
            self.known.append(site)
            if site.unpackable is not None:
                site.unpackable = _with_origin(site.unpackable, node, analysis)
            else:
                analysis.axes[site.output] = _output_axes(site, analysis)


def _with_origin(reason: str, node: ir.Node, analysis: AxisAnalysis) -> str:
    lost = where_axes_are_lost(node, analysis)
    return reason if lost is None else f"{reason}; {lost}"


def _output_axes(site: AttentionSite, analysis: AxisAnalysis) -> Axes | None:
    query, value = analysis.axes_of(site.query.value), analysis.axes_of(site.value.value)
    if query is None or value is None:
        return None
    if not site.output_layout.heads:
        return analysis.axes[site.output]
    features: tuple[Atom, ...] = value[site.value.layout.feature]
    return (*query[:-1], features)
