"""Keys and values of earlier calls at attention nodes: what is said where they are taken, what is put out for later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis, infer_node
from raggedrt.graph_passes.packing.tape import Tape

WHAT_TO_DO = (
    "so a row's tokens are not all in one call; say --prefill (prefill=True) to get a graph for calls that start "
    "without a cache, or export with use_cache=False, and keep this graph for decoding"
)


def cache_reasons(form: str, inputs: Mapping[str, ir.Value | None]) -> list[str]:
    """Why a node that takes a cache is left alone; nothing where it takes none."""
    names = [f"{name} ('{value.name}')" for name, value in inputs.items() if value is not None]
    return [f"{form} takes keys and values of earlier calls, {', '.join(names)}, {WHAT_TO_DO}"] if names else []


def present_outputs(
    node: ir.Node, numbers: Sequence[int], rows: Sequence[ir.Value], heads: int, analysis: AxisAnalysis
) -> dict[ir.Value, ir.Value]:
    """The node's outputs `numbers`, keys and values for later calls, as values made of `rows` [B, S, N*H].

    One number stands for both, stacked: [2, B, N, S, H]. What is inserted is dead unless the site is lowered.
    """
    used = [number for number in numbers if number < len(node.outputs) and is_used(node.outputs[number])]
    if not used or not isinstance(node.graph, ir.Graph):
        return {}
    tape, stem = Tape(node.graph), node.name or node.outputs[0].name or node.op_type
    split = [tape.op("Reshape", [part, tape.vector([0, 0, heads, -1])], stem=f"{stem}_present") for part in rows]
    made = [heads_first(tape, part, stem) for part in split]
    if len(numbers) == 1:
        single = [tape.op("Unsqueeze", [part, tape.vector([0])], stem=f"{stem}_present") for part in made]
        made = [tape.op("Concat", single, {"axis": 0}, stem=f"{stem}_present")]
    found = {node.outputs[number]: part for number, part in zip(numbers, made, strict=True) if number in used}
    nodes = list(tape.nodes)
    tape.join(before=node)
    for new in nodes:
        infer_node(analysis, new)
    analysis.axes.update({present: analysis.axes_of(part) for present, part in found.items()})
    return found


def is_used(value: ir.Value) -> bool:
    """Whether anything reads it, the caller included."""
    return bool(value.uses()) or value.is_graph_output()


def heads_first(tape: Tape, rows: ir.Value, stem: str) -> ir.Value:
    """[B, S, N, H] as a cache has it, [B, N, S, H]."""
    return tape.op("Transpose", [rows], {"perm": [0, 2, 1, 3]}, stem=f"{stem}_present")
