"""Inputs that hold keys and values of earlier calls, in graphs for calls that start without any.

A cache [batch, heads, earlier tokens, head size] is joined to the keys or values in front of attention, or handed to a
fused op. Where its length is zero (stated by its shape, or said by the user, `prefill`) it adds nothing: joining it is
left out, fused ops do without it, and what asks for its shape gets a zero.
"""

from __future__ import annotations

import onnx_ir as ir

from raggedrt.errors import InputError
from raggedrt.graph_passes.axes.contents import int_attribute
from raggedrt.graph_passes.graph_inputs import IDS_NAMES, MASK_NAMES, batch_axis, cache_axis, cache_inputs
from raggedrt.graph_passes.packing.tape import Tape

_FUSED = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "DecoderMaskedMultiHeadAttention")
_INT64 = ir.DataType.INT64


def leave_out_empty_caches(graph: ir.Graph, *, prefill: bool, mask_input: str | None = None) -> int:
    """Take caches of zero length out of the graph; returns how many there were.

    With `prefill` every cache is one: it is no input any more, and the padding mask covers the tokens of the call.

    Raises:
        InputError: something else than attention reads a cache, or with `prefill` there is none.
    """
    caches = [value for value in graph.inputs if value.name in cache_inputs(graph)]
    empty = [value for value in caches if prefill or _is_empty(value)]
    if prefill and not empty:
        raise InputError(
            "--prefill: no input of the graph is a cache, [batch, heads, earlier tokens, head size], joined to keys or "
            "values; leave --prefill out"
        )
    for value in empty:
        _leave_out(graph, value)
    if prefill:
        kept = [value for value in graph.inputs if value not in empty]
        graph.inputs.clear()
        graph.inputs.extend(kept)
        _shorten_mask(graph, mask_input)
    return len(empty)


def _is_empty(value: ir.Value) -> bool:
    axis = cache_axis(value)
    return axis is not None and value.shape is not None and value.shape[axis] == 0


def _leave_out(graph: ir.Graph, cache: ir.Value, joined: ir.Value | None = None) -> None:
    """`joined`: what holds nothing but the cache, read in its place."""
    for usage in list((joined or cache).uses()):
        node = usage.node
        if node.graph is not graph:
            raise InputError(
                f"--prefill: a branch or loop ({node.name or node.op_type}) reads the cache '{cache.name}'; give the "
                "graph of one branch (a decoder without past, or with past), not both in one file"
            )
        if node.op_type == "Concat" and not node.domain:
            rest = [value for value in node.inputs if value is not (joined or cache) and not _holds_nothing(value)]
            if rest:
                _exchange(node, rest[0] if len(rest) == 1 else None, rest)
            else:
                _leave_out(graph, cache, node.outputs[0])
        elif node.op_type in _FUSED:
            node.replace_input_with(usage.idx, None)
        elif node.op_type == "Shape" and not node.domain:
            _exchange(node, _shape(graph, cache, node), [])
        else:
            raise InputError(
                f"--prefill: {node.name or node.op_type} ({node.op_type}) reads the cache '{cache.name}' otherwise "
                "than by joining it to keys or values; export the model without a cache (use_cache=False) instead"
            )


def _holds_nothing(value: ir.Value | None) -> bool:
    """A constant without an element (TorchScript exports begin a cache with one)."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return tensor is not None and tensor.size == 0


def _exchange(node: ir.Node, new: ir.Value | None, rest: list[ir.Value | None]) -> None:
    if new is None:
        for number, value in enumerate(rest):
            node.replace_input_with(number, value)
        node.resize_inputs(len(rest))
        return
    old = node.outputs[0]
    if old.is_graph_output():  # a present: it keeps its name
        copy = ir.Node("", "Identity", [new], num_outputs=1, name=f"{node.name or old.name}_copy")
        copy.outputs[0].type, copy.outputs[0].shape = old.type, None
        if node.graph is not None:
            node.graph.insert_before(node, copy)
        name, old.name = old.name, f"{old.name}_joined"
        copy.outputs[0].name = name
        new = copy.outputs[0]
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _shape(graph: ir.Graph, cache: ir.Value, node: ir.Node) -> ir.Value:
    """The shape that the cache would have: that of the mask's batch, zero tokens, and what is static."""
    axis, dims = cache_axis(cache), list(cache.shape or [])
    first = next((value for value in graph.inputs if value.name in (*IDS_NAMES, *MASK_NAMES)), None)
    if first is None:
        raise InputError(
            f"--prefill: no input among {', '.join((*IDS_NAMES, *MASK_NAMES))} says how many rows there are"
        )
    tape = Tape(graph)
    batch = tape.op("Shape", [first], {"start": 0, "end": 1}, stem="batch", dtype=_INT64, shape=[1])
    parts = []
    start, end = int_attribute(node, "start", 0), int_attribute(node, "end", len(dims))
    for number, dim in list(enumerate(dims))[start:end]:
        if number == axis:
            parts.append(tape.vector([0]))
        elif isinstance(dim, int):
            parts.append(tape.vector([dim]))
        elif number == batch_axis(cache):
            parts.append(batch)
        else:
            raise InputError(f"--prefill: the cache '{cache.name}' does not say how long its axis {number} is")
    result = tape.op("Concat", parts, {"axis": 0}, stem="cache_shape", dtype=_INT64, shape=[len(parts)])
    tape.join(before=node)
    return result


def _shorten_mask(graph: ir.Graph, mask_input: str | None) -> None:
    """The mask covered earlier tokens and those of the call; now these alone."""
    by_name = {value.name: value for value in graph.inputs}
    ids = next((by_name[name] for name in IDS_NAMES if name in by_name), None)
    mask = next((by_name[name] for name in (mask_input, *MASK_NAMES) if name in by_name), None)
    if ids is None or mask is None or ids.shape is None or mask.shape is None or len(mask.shape) != 2:
        return
    mask.shape = ir.Shape(list(ids.shape)[:2])
