"""Is an ONNX model valid? `onnx.checker` on a whole model copies the weights twice, so nodes are checked one by one."""

from __future__ import annotations

import collections
import sys
from collections.abc import Collection, Iterable

import onnx

from raggedrt.errors import InputError
from raggedrt.graph_passes.element_types import UNLISTED
from raggedrt.plugins.bundle.model_facts import byte_size

MAX_NODES = 1_000_000
OLDEST_IR = 3
"""Since then a model says which opsets it uses."""


def check_graph(proto: onnx.ModelProto, where: str) -> None:
    """Check that every node is a valid use of its op and reads only what stands before it.

    Raises:
        InputError: it does not; `where` and the node are named.
    """
    if not proto.graph.output:
        raise InputError(f"{where} has no outputs, so it is not valid ONNX; export it again")
    check_functions(proto, where)
    context = _checker_context(proto, where, proto.opset_import)
    _check_versions(proto, where)
    _check_names(proto.graph, where)
    _check_tensors(proto.graph, where)
    known = _names(proto.graph)
    missing = [value.name for value in proto.graph.output if value.name not in known | _produced(proto.graph.node)]
    if missing:
        raise InputError(
            f"{where}: no node computes the output {missing[0]!r}; the model is not valid ONNX, export it again"
        )
    if _check_nodes(proto.graph, known, context, where) > MAX_NODES:
        raise InputError(f"{where} has more than {MAX_NODES} nodes, which RaggedRT refuses; split the model")


def _check_versions(proto: onnx.ModelProto, where: str) -> None:
    if not OLDEST_IR <= proto.ir_version <= onnx.IR_VERSION:
        raise InputError(
            f"{where} has IR version {proto.ir_version}; {OLDEST_IR} to {onnx.IR_VERSION} are known here. Export it "
            "again, or update onnx and ONNX Runtime if it is newer than they are."
        )
    seen: dict[str, int] = {}
    for item in proto.opset_import:
        if seen.setdefault(item.domain, item.version) != item.version:
            raise InputError(f"{where} imports two opsets of the domain {item.domain!r}; export it again")


def _check_names(graph: onnx.GraphProto, where: str) -> None:
    """Each input, output and initializer stands there once, and every name is text."""
    named = (("input", graph.input), ("output", graph.output), ("initializer", graph.initializer))
    for what, values in named:
        seen: set[str] = set()
        for value in values:
            if value.name in seen:
                raise InputError(
                    f"{where}: the {what} {value.name!r} stands there twice; the model is not valid ONNX, export again"
                )
            seen.add(value.name)
    texts = (text for node in graph.node for text in (node.name, node.op_type, node.domain, *node.input, *node.output))
    for text in (*texts, *(value.name for _, values in named for value in values)):
        if not isinstance(text, str):  # protobuf gives bytes where they are no UTF-8
            raise InputError(f"{where}: the name {text!r} is not UTF-8; the file is damaged, export it again")


def _check_tensors(graph: onnx.GraphProto, where: str) -> None:
    """Sizes of initializers whose bytes stand in the file itself."""
    for tensor in graph.initializer:
        size = byte_size(tensor)
        outside = tensor.data_location == onnx.TensorProto.EXTERNAL
        if any(dim < 0 for dim in tensor.dims) or (size is not None and size > sys.maxsize):
            raise InputError(
                f"{where}: the initializer {tensor.name!r} has the shape {list(tensor.dims)}, which no tensor has"
            )
        if tensor.HasField("raw_data") and not outside and size not in (None, len(tensor.raw_data)):
            raise InputError(
                f"{where}: the initializer {tensor.name!r} takes {size} bytes and has {len(tensor.raw_data)}; the file "
                "is damaged, export it again"
            )


def check_functions(proto: onnx.ModelProto, where: str) -> None:
    """Check the local functions: one of each name, none that calls itself, valid nodes in each.

    Raises:
        InputError: they are not so; `where` and the function are named.
    """
    functions: dict[tuple[str, str, str], onnx.FunctionProto] = {}
    for function in proto.functions:
        key = (function.domain, function.name, function.overload)
        if key in functions:
            raise InputError(
                f"{where}: the function {function.domain}.{function.name} stands there twice; export it again"
            )
        functions[key] = function
        context = _checker_context(proto, where, function.opset_import)
        own = f"{where}, function {function.domain}.{function.name}"
        graph = onnx.GraphProto(node=function.node, input=[onnx.ValueInfoProto(name=name) for name in function.input])
        _check_nodes(graph, set(function.input), context, own)
    counts = {key: _called(function, functions.keys()) for key, function in functions.items()}
    sizes = {key: len(function.node) for key, function in functions.items()}
    calls = {key: set(called) for key, called in counts.items()}
    while leaves := [key for key, called in calls.items() if not called & calls.keys()]:
        for key in leaves:
            sizes[key] += sum(times * sizes[callee] for callee, times in counts[key].items())
            del calls[key]
    if calls:
        domain, name, _ = next(iter(calls))
        raise InputError(
            f"{where}: the function {domain}.{name} calls itself, which ONNX does not allow; export it again"
        )
    inlined = sum(times * sizes[key] for key, times in _called(proto.graph, functions.keys()).items())
    if inlined > MAX_NODES:
        raise InputError(f"{where}: its functions make more than {MAX_NODES} nodes when inlined, which is refused")


def _called(
    scope: onnx.FunctionProto | onnx.GraphProto, known: Collection[tuple[str, str, str]]
) -> collections.Counter[tuple[str, str, str]]:
    """How often nodes call each function of the model, those of subgraphs included."""
    found: collections.Counter[tuple[str, str, str]] = collections.Counter()
    pending = [scope]
    while pending:
        for node in pending.pop().node:
            key = (node.domain, node.op_type, node.overload)
            found[key] += key in known
            pending += [
                graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs) if graph.node
            ]
    return +found


def _checker_context(
    proto: onnx.ModelProto, where: str, opsets: Iterable[onnx.OperatorSetIdProto]
) -> onnx.checker.C.CheckerContext:
    context = onnx.checker.C.CheckerContext()
    try:
        context.ir_version = proto.ir_version
        context.opset_imports = {item.domain: item.version for item in opsets}
    except TypeError:  # they are 32-bit integers there
        raise InputError(f"{where}: its IR version or an opset version is no such number; export it again") from None
    return context


def _check_nodes(graph: onnx.GraphProto, known: set[str], context: onnx.checker.C.CheckerContext, where: str) -> int:
    """Returns the number of nodes, those of subgraphs included (protobuf itself bounds how deep these are nested)."""
    count = len(graph.node)
    own = _names(graph)  # a subgraph may reuse names of the graph around it
    for node in graph.node:
        name = node.name or next(iter(node.output), "")
        unknown = [item for item in node.input if item and item not in known]
        if unknown:
            raise InputError(
                f"{where}: node {name!r} ({node.op_type}) reads {unknown[0]!r}, which nothing before it computes; "
                "the model is not valid ONNX, export it again"
            )
        subgraphs = [g for attribute in node.attribute for g in (attribute.g, *attribute.graphs) if g.node or g.output]
        for subgraph in subgraphs:
            count += _check_nodes(subgraph, known | _names(subgraph), context, where)
        if not subgraphs:
            _check_node(node, name, context, where)
        _add_outputs(node, name, own, where)
        known.update(node.output)
    return count


def _add_outputs(node: onnx.NodeProto, name: str, own: set[str], where: str) -> None:
    for output in filter(None, node.output):
        if output in own:
            raise InputError(
                f"{where}: node {name!r} ({node.op_type}) computes {output!r}, which the graph has already; the model "
                "is not valid ONNX, export it again"
            )
        own.add(output)


def _check_node(node: onnx.NodeProto, name: str, context: onnx.checker.C.CheckerContext, where: str) -> None:
    if node.op_type in UNLISTED:
        return  # ONNX Runtime's own, without a schema to check against
    try:
        onnx.checker.check_node(node, context)
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{where}: node {name!r} ({node.op_type}) is not valid ONNX: {reason}; export it again"
        ) from error


def _names(graph: onnx.GraphProto) -> set[str]:
    sparse = {item.values.name for item in graph.sparse_initializer}
    return {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer} | sparse


def _produced(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.output}
