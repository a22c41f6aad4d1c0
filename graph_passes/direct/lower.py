"""The pass: every attention that is left where nothing was packed, as far as its mask and form allow."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from raggedrt.graph_passes.axes.rule import PackingRefused, describe_node
from raggedrt.graph_passes.direct.standard_attention import lower_standard_attention
from raggedrt.graph_passes.packing.tape import Tape
from raggedrt.graph_passes.report import PassRecord, Refusal
from raggedrt.plugins.contract.abi import Feature
from raggedrt.plugins.contract.capability import Capability


def lower_directly(
    graph: ir.Graph, capability: Capability, record: PassRecord, kept: Mapping[ir.Node, str | None]
) -> set[ir.Node]:
    """Lower standard `Attention` nodes in place; returns those that were. `kept` says why some are to stay."""
    lowered = set()
    for node in list(graph):
        if node.op_type != "Attention" or node.domain not in ("", "ai.onnx"):
            continue
        if (reason := kept.get(node)) is not None:
            record.refused.append(Refusal(describe_node(node), reason))
            continue
        tape = Tape(graph)
        try:
            replaced = lower_standard_attention(node, tape)
            _check(tape, capability, node)
        except PackingRefused as refusal:
            tape.drop()
            record.refused.append(Refusal(refusal.node, refusal.reason))
            continue
        tape.join()
        _replace(graph, replaced)
        lowered.add(node)
    if lowered:
        graph.sort()
        common_passes.RemoveUnusedNodesPass()(ir.Model(graph, ir_version=10))
    record.matched += len(lowered)
    return lowered


def _check(tape: Tape, capability: Capability, node: ir.Node) -> None:
    for made in tape.nodes:
        if made.op_type != "RaggedAttention":
            continue
        missing = capability.missing(Feature(made.attributes["features"].as_int()))
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
