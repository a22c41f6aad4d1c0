"""What must be known of an ONNX file before a runtime sees it: our nodes, its external data, its metadata."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable

import onnx
from google.protobuf.message import DecodeError

from raggedrt.errors import InputError
from raggedrt.plugins.bundle.paths import regular_file
from raggedrt.plugins.contract.op_definition import DOMAIN

ARCHIVE = b"PK\x03\x04"
"""How a zip file begins."""
OPS_METADATA = "raggedrt.ops"
"""Key of `metadata_props`: a JSON object with the count of every raggedrt op, written by the last pass."""


_LARGEST = 2**63 - 1
_PACKED_BITS = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}
_UNSIZED = ("UNDEFINED", "STRING", "FLOAT6E2M3", "FLOAT6E3M2")


@dataclasses.dataclass(frozen=True)
class OpNode:
    """One node of domain `raggedrt`. `abi` and `features` are None where the attribute is missing.

    `plugin_form`: as TensorRT takes it, without the inputs that are absent, so that no other runtime reads it right.
    """

    name: str
    op_type: str
    abi: int | None
    features: int | None
    has_body: bool
    plugin_form: bool = False


@dataclasses.dataclass(frozen=True)
class ExternalTensor:
    """A tensor whose bytes stand in another file. `length` is None where the model does not give it.

    `size` is how many bytes its type and dimensions make, None where these do not say it.
    """

    name: str
    location: str
    offset: int
    length: int | None
    size: int | None = None


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """`promised` has the op counts of the metadata, empty without them."""

    nodes: tuple[OpNode, ...]
    external: tuple[ExternalTensor, ...]
    promised: dict[str, int]

    @property
    def external_files(self) -> frozenset[str]:
        """Every location that a tensor names."""
        return frozenset(tensor.location for tensor in self.external)


def load_proto(path: pathlib.Path) -> onnx.ModelProto:
    """Parse an ONNX file without its external data.

    Raises:
        InputError: missing, no file, empty, or no ONNX model.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({os.strerror(error.errno or 0)}); give an ONNX file.") from None
    return parse_proto(data, str(path))


def parse_proto(data: bytes, where: str) -> onnx.ModelProto:
    """Parse a serialised ModelProto; `where` names it in messages.

    Raises:
        InputError: the bytes are no ONNX model.
    """
    if data[:4] == ARCHIVE:
        raise InputError(
            f"{where} is an archive, such as torch writes for programs (.pt2) and checkpoints, and not an ONNX model; "
            "`raggedrt export` makes an ONNX file of a .pt2 program, and `convert` takes one as it is."
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise InputError(f"{where} is not an ONNX model, or is cut off; export the model again.") from None
    if not model.HasField("graph") or not model.opset_import:
        raise InputError(f"{where} holds no graph or no opset import, so it is no ONNX model; export it again.")
    return model


def model_facts(model: onnx.ModelProto) -> ModelFacts:
    """Collect the facts of graph, sub-graphs and foreign functions (our own bodies hold no raggedrt node)."""
    bodies = {(f.name, f.overload) for f in model.functions if f.domain == DOMAIN}
    nodes: list[OpNode] = []
    external: list[ExternalTensor] = []
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while pending:
        scope = pending.pop()
        if isinstance(scope, onnx.GraphProto):
            external += _external(scope.initializer)
            external += _external(t for s in scope.sparse_initializer for t in (s.values, s.indices))
        for node in scope.node:
            if node.domain == DOMAIN:
                nodes.append(_op_node(node, (node.op_type, node.overload) in bodies))
            for attribute in node.attribute:
                external += _external([attribute.t, *attribute.tensors])
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs
    return ModelFacts(tuple(nodes), tuple(external), _promised(model))


def check_external_data(facts: ModelFacts, folder: pathlib.Path, where: str, *, follow_links: bool = False) -> None:
    """Check that every external tensor lies within a regular file under `folder`, reached through no link.

    Raises:
        InputError: a location is absolute, leaves the folder, is a link, is missing or too short.
    """
    sizes: dict[str, int] = {}
    for tensor in facts.external:
        named_by = f"tensor {tensor.name!r} of {where}"
        if tensor.location not in sizes:
            status = regular_file(folder, tensor.location, named_by, follow_links=follow_links)
            sizes[tensor.location] = status.st_size
        _check_range(tensor, sizes[tensor.location], named_by)


def _check_range(tensor: ExternalTensor, file_size: int, named_by: str) -> None:
    length = tensor.size if tensor.length is None else tensor.length
    if tensor.offset < 0 or (length or 0) < 0 or tensor.offset > _LARGEST or (length or 0) > _LARGEST:
        raise InputError(
            f"{named_by} has offset {tensor.offset} and length {length} in {tensor.location!r}, which are no places in "
            "a file; export the model again."
        )
    if tensor.size is not None and length != tensor.size:
        raise InputError(
            f"{named_by} takes {tensor.size} bytes and has {length} in {tensor.location!r}; export the model again."
        )
    end = tensor.offset + (length or 0)
    if end > file_size:
        raise InputError(
            f"{named_by} needs bytes up to {end} of {tensor.location!r}, which has {file_size}; "
            "the file is cut off: copy or export it again."
        )


def _external(tensors: Iterable[onnx.TensorProto]) -> list[ExternalTensor]:
    return [_external_tensor(t) for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL]


def _external_tensor(tensor: onnx.TensorProto) -> ExternalTensor:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError:
        raise InputError(f"external data of tensor {tensor.name!r} has no integer offset and length.") from None
    return ExternalTensor(tensor.name, entries.get("location", ""), offset, length, byte_size(tensor))


def byte_size(tensor: onnx.TensorProto) -> int | None:
    """Bytes of a tensor's elements; None for types whose elements have no fixed size, and for negative dimensions."""
    known = tensor.data_type in onnx.TensorProto.DataType.values()
    name = onnx.TensorProto.DataType.Name(tensor.data_type) if known else "UNDEFINED"
    if name in _UNSIZED or any(dim < 0 for dim in tensor.dims):
        return None
    bits = _PACKED_BITS.get(name) or 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return -(-math.prod(tensor.dims) * bits // 8)


def plugin_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes of ours in the form of TensorRT's plugins, in whatever domain."""
    own = DOMAIN.encode()
    return [n for n in model.graph.node if any(a.name == "plugin_namespace" and a.s == own for a in n.attribute)]


def _op_node(node: onnx.NodeProto, has_body: bool) -> OpNode:
    integers = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
    return OpNode(
        node.name or (node.output[0] if node.output else ""),
        node.op_type,
        integers.get("abi"),
        integers.get("features"),
        has_body,
        "present" in integers,
    )


def _promised(model: onnx.ModelProto) -> dict[str, int]:
    text = next((p.value for p in model.metadata_props if p.key == OPS_METADATA), "{}")
    try:
        counts = json.loads(text)
    except (ValueError, RecursionError):
        counts = None
    if not isinstance(counts, dict) or not all(type(n) is int for n in counts.values()):
        raise InputError(
            f"metadata {OPS_METADATA!r} of the model is no JSON object of counts; rewrite the model again."
        )
    return counts
