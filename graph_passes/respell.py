"""Replace ops by the same computation in plainer ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import onnx_ir as ir

from raggedrt.graph_passes.packing.tape import Tape

Spell = Callable[[ir.Node, Tape], ir.Value | Sequence[ir.Value | None] | None]
"""Builds a node's only output, or one value per output that is used, from plainer ops; None leaves the node alone."""


def respell(graph: ir.Graph, ops: Collection[tuple[str, str]], spell: Spell) -> int:
    """Respell every node of `ops`, pairs (domain, op type); returns how many were."""
    replaced = 0
    for node in list(graph):
        if (node.domain, node.op_type) not in ops:
            continue
        tape = Tape(graph)
        made = spell(node, tape)
        outputs: Sequence[ir.Value | None] = [made] if isinstance(made, ir.Value) or made is None else made
        if any(new is None and _is_used(old) for old, new in zip(node.outputs, outputs, strict=False)):
            tape.drop()
            continue
        tape.join(before=node)
        for old, new in zip(node.outputs, outputs, strict=False):
            if new is not None:
                _exchange(old, new)
        graph.remove(node, safe=True)
        replaced += 1
    return replaced


def _is_used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _exchange(old: ir.Value, new: ir.Value) -> None:
    new.type, new.shape = old.type or new.type, old.shape or new.shape
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    if new.is_graph_output():
        name, old.name = old.name, None
        new.name = name
