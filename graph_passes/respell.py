"""Replace ops by the same computation in plainer ones."""

from __future__ import annotations

from collections.abc import Callable, Collection

import onnx_ir as ir

from raggedrt.graph_passes.packing.tape import Tape

Spell = Callable[[ir.Node, Tape], ir.Value | None]
"""Builds a node's only output from plainer ops; None leaves the node alone."""


def respell(graph: ir.Graph, ops: Collection[tuple[str, str]], spell: Spell) -> int:
    """Respell every node of `ops`, pairs (domain, op type); returns how many were."""
    replaced = 0
    for node in list(graph):
        if (node.domain, node.op_type) not in ops:
            continue
        tape = Tape(graph)
        output = spell(node, tape)
        if output is None:
            tape.drop()
            continue
        tape.join(before=node)
        old = node.outputs[0]
        output.type, output.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, output, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        if output.is_graph_output():
            name, old.name = old.name, None
            output.name = name
        replaced += 1
    return replaced
