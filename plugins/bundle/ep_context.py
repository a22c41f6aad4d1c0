"""EPContext models of ONNX Runtime: what a provider compiled beforehand, inside the ONNX file or in a file beside it.

A provider loads what such a node names as code for the GPU. So a file that it names has to lie in the folder of the
model, reached through no link, before anything is loaded; ONNX Runtime itself only looks at the text of the path.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import onnx

from raggedrt.errors import InputError
from raggedrt.plugins.bundle.paths import check_relative_path, regular_file

EP_CONTEXT = "EPContext"
EP_CONTEXT_DOMAIN = "com.microsoft"
TENSORRT = "TensorrtExecutionProvider"


@dataclasses.dataclass(frozen=True)
class EpContext:
    """One node that stands for a compiled part of a graph; what it does not say is None.

    Attributes:
        node: its name.
        provider: execution provider that compiled it.
        partition: the part's name.
        sdk_version: version of the provider's SDK.
        hardware: what it was compiled for, of TensorRT a compute capability (`89`, or `80+` for that and later ones).
        original: name of the ONNX file that it was made from.
        main: whether the node has the content; others share that of one that does.
        file: place of the content, relative to the ONNX file; None: it is embedded.
        embedded_bytes: size of embedded content.
    """

    node: str
    provider: str | None
    partition: str | None
    sdk_version: str | None
    hardware: str | None
    original: str | None
    main: bool
    file: str | None
    embedded_bytes: int


def ep_contexts(model: onnx.ModelProto) -> tuple[EpContext, ...]:
    """Every EPContext node of graph and sub-graphs."""
    return tuple(_context(node) for node in _nodes(model.graph) if _is_context(node))


def is_context_model(model: onnx.ModelProto) -> bool:
    """Whether any part of it is compiled."""
    return any(_is_context(node) for node in _nodes(model.graph))


def check_context_files(contexts: Sequence[EpContext], folder: pathlib.Path, where: str) -> tuple[str, ...]:
    """The files that the nodes name, checked: relative, normalised, inside `folder`, there, through no link.

    Raises:
        InputError: one is not.
    """
    for context in contexts:
        if context.file is not None:
            regular_file(folder, context.file, f"the EPContext node {context.node!r} of {where}")
        elif context.main and not context.embedded_bytes:
            raise InputError(f"{where}: the EPContext node {context.node!r} has no content; compile the model again.")
    return tuple(dict.fromkeys(context.file for context in contexts if context.file is not None))


def context_problem(context: EpContext, folder: pathlib.Path) -> str | None:
    """Why the content of a node cannot be used; None: it lies where it may lie."""
    try:
        check_context_files([context], folder, "the model")
    except InputError as error:
        return str(error)
    return None


def lies_inside(file: str) -> bool:
    """Whether a path is one that may be looked at."""
    try:
        check_relative_path(file)
    except ValueError:
        return False
    return True


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    pending = [graph]
    while pending:
        for node in pending.pop().node:
            yield node
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs


def _is_context(node: onnx.NodeProto) -> bool:
    return node.op_type == EP_CONTEXT and node.domain in (EP_CONTEXT_DOMAIN, "")


def _context(node: onnx.NodeProto) -> EpContext:
    texts = {a.name: a.s for a in node.attribute if a.type == onnx.AttributeProto.STRING}
    numbers = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}

    def text(name: str) -> str | None:
        return texts[name].decode(errors="replace") or None if name in texts else None

    main, embedded = bool(numbers.get("main_context", 1)), bool(numbers.get("embed_mode", 1))
    content = texts.get("ep_cache_context", b"")
    named = content.decode(errors="replace")
    return EpContext(
        node=node.name or (node.output[0] if node.output else ""),
        provider=text("source") or _provider_of(text("partition_name") or node.name),
        partition=text("partition_name") or node.name or None,
        sdk_version=text("ep_sdk_version"),
        hardware=text("hardware_architecture"),
        original=text("onnx_model_filename"),
        main=main,
        file=named if main and not embedded else None,
        embedded_bytes=len(content) if embedded else 0,
    )


def _provider_of(partition: str) -> str | None:
    """The built-in TensorRT provider does not name itself, but its partitions have its name in front."""
    return TENSORRT if partition.startswith(TENSORRT) else None
