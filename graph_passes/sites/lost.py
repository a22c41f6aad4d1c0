"""Where, on the way to an attention, what the axes mean was lost."""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.graph_passes.axes.analysis import AxisAnalysis
from raggedrt.graph_passes.axes.atoms import Axis, Kind, axis_size, has
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.axes.rule import describe_node
from raggedrt.graph_passes.axes.rules import rule_for

_MOST_NODES = 1000
"""How far back a cause is looked for."""


def other_rows(query: Axis, key: Axis, value: Axis) -> str | None:
    """Why attention of tokens to something else is not packed; None where it is not that."""
    if not has((query,), Kind.TOKEN) or key != value or has((key,), Kind.TOKEN) or axis_size(key).static is not None:
        return None
    return (
        f"its queries are the tokens and its keys are other rows ({'*'.join(axis_size(key).symbols)}), as in "
        "cross-attention, and one graph packs one kind of row; export the encoder as a graph of its own and pack that, "
        "and use this one as it is"
    )


def where_axes_are_lost(reader: ir.Node, analysis: AxisAnalysis) -> str | None:
    """The first node before `reader` that understood operands go into and nothing understood comes out of."""
    todo, seen = [reader], {reader}
    while todo:
        node = todo.pop()
        missing = [value for value in node.inputs if value is not None and analysis.axes_of(value) is None]
        if not missing and node is not reader:
            at = _joined_before(node, analysis) or node
            return f"it is lost at {describe_node(at)}: {_reason(at, analysis)}"
        for value in missing:
            before = value.producer()
            if before is not None and before not in seen:
                seen.add(before)
                todo.append(before)
    return None


def _joined_before(node: ir.Node, analysis: AxisAnalysis) -> ir.Node | None:
    """The node that joined further slots to the tokens, so that nothing behind it has as many as the mask."""
    todo, seen = [node], {node}
    while todo and len(seen) < _MOST_NODES:
        found = todo.pop()
        if found.op_type == "Concat" and not found.domain and _further_slots(found, analysis) is not None:
            return found
        for value in found.inputs:
            before = None if value is None else value.producer()
            if before is not None and before not in seen:
                seen.add(before)
                todo.append(before)
    return None


def _reason(node: ir.Node, analysis: AxisAnalysis) -> str:
    if rule_for(node) is None:
        return f"no rule says along which axes {node.domain or 'the standard op'} {node.op_type} works"
    if node.op_type == "Concat" and (slots := _further_slots(node, analysis)) is not None:
        return (
            f"it joins {slots} to the tokens of each row (a class token, a soft prompt), which have no place in the "
            "padding mask; export the part behind it, with inputs_embeds and attention_mask that hold those slots, too"
        )
    return f"the rule for {node.op_type} does not cover its form"


def _further_slots(node: ir.Node, analysis: AxisAnalysis) -> str | None:
    """What is joined along the tokens: slots that are no tokens; None where it is something else."""
    operands = [axes for axes in map(analysis.axes_of, node.inputs) if axes is not None]
    if not operands or len(operands) != len(node.inputs) or len({len(axes) for axes in operands}) != 1:
        return None
    axis = int_attribute(node, "axis", 0) % len(operands[0])
    tokens = [axes for axes in operands if has((axes[axis],), Kind.TOKEN)]
    others = [axis_size(axes[axis]) for axes in operands if not has((axes[axis],), Kind.TOKEN)]
    if len(tokens) != 1 or not others:
        return None
    counts = [size.static for size in others]
    known = [count for count in counts if count is not None]
    return f"{sum(known)} slots" if len(known) == len(counts) else "further slots"
