"""Cut the sub-graph that computes a mask out of its graph."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir

from raggedrt.graph_passes.masks.inputs import MASKED_AT_MOST

MAX_NODES = 400
MAX_INITIALIZER_BYTES = 64 * 2**20
MAX_LISTED_CONSTANTS = 64
"""Longest constant array whose elements are read as thresholds (longer ones are tables)."""

AXES_INPUTS = frozenset(
    {("Slice", 3)}
    | {(op, 1) for op in ("Unsqueeze", "Squeeze", "CumSum", "ReduceSum", "ReduceMin", "ReduceMax", "ReduceMean")}
)
"""Inputs (op type, place) that name axes: numbers that compare with no slot."""

REFUSED_OPS = {
    "Attention": "it contains another attention",
    "MultiHeadAttention": "it contains another attention",
    "GroupQueryAttention": "it contains another attention",
    "Softmax": "it contains a softmax",
    "MatMul": "it contains a matrix product",
    "Gemm": "it contains a matrix product",
    "Einsum": "it contains a matrix product",
    "Conv": "it contains a convolution",
    "RandomNormal": "it is random",
    "RandomNormalLike": "it is random",
    "RandomUniform": "it is random",
    "RandomUniformLike": "it is random",
    "Bernoulli": "it is random",
    "Multinomial": "it is random",
    "Dropout": "it may be random",
}


class MaskRefused(Exception):  # noqa: N818 - control flow inside this package: becomes a refusal's reason
    """The mask cannot be explained; the text says what was seen."""


@dataclasses.dataclass(frozen=True)
class MaskGraph:
    """A mask's sub-graph, in the order of execution.

    Attributes:
        output: the mask.
        nodes: producers of everything the mask needs, inputs first.
        inputs: graph inputs that are read (their values or only their shapes).
        initializers: constants that are read.
    """

    output: ir.Value
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    initializers: tuple[ir.Value, ...]

    def constants(self) -> tuple[ir.TensorProtocol, ...]:
        """Every small constant array of the sub-graph, from initializers and Constant nodes, but for lists of axes."""
        axes = self._axes()
        values = [*self.initializers, *(out for node in self.nodes for out in node.outputs)]
        tensors = (ir.convenience.get_const_tensor(value) for value in values if id(value) not in axes)
        return tuple(t for t in tensors if t is not None and t.size <= MAX_LISTED_CONSTANTS)

    def _axes(self) -> set[int]:
        """Values (by id) that are read as axes and as nothing else."""
        as_axes: set[int] = set()
        otherwise: set[int] = {id(self.output)}
        for node in self.nodes:
            for place, value in enumerate(node.inputs):
                if value is not None:
                    (as_axes if (node.op_type, place) in AXES_INPUTS else otherwise).add(id(value))
        return as_axes - otherwise

    def numbers(self) -> frozenset[int]:
        """Integers among the constants.

        Floats count, rounded away from zero (positions are often compared as floats); fills such as -10000.0 do not.
        """
        found: set[int] = set()
        for tensor in self.constants():
            array = np.asarray(tensor.numpy())
            if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
                continue
            floating = array.dtype.kind not in "iu"
            for number in array.astype(np.float64 if floating else array.dtype).ravel().tolist():
                if floating and not MASKED_AT_MOST < number < 2**31:  # a fill, infinite or not a number
                    continue
                found.add(math.ceil(number) if number > 0 else math.floor(number))
        return frozenset(found)

    def thresholds(self) -> tuple[int, ...]:
        """Sizes of integers (2 and more) around which the mask may change, ascending."""
        return tuple(sorted({abs(number) for number in self.numbers() if 2 <= abs(number) < 2**31 - 1}))

    def divisors(self) -> frozenset[int]:
        """Thresholds by which something is divided: sizes of blocks, of which other constants may be counts."""
        found: set[int] = set()
        for node in self.nodes:
            divisor = node.inputs[1] if node.op_type in ("Div", "Mod") and len(node.inputs) == 2 else None
            tensor = None if divisor is None else ir.convenience.get_const_tensor(divisor)
            if tensor is not None and tensor.size == 1:
                found.add(abs(int(np.asarray(tensor.numpy(), dtype=np.float64).item())))
        return frozenset(found)


def extract_mask(mask: ir.Value) -> MaskGraph:
    """The sub-graph from `mask` back to graph inputs and initializers.

    Raises:
        MaskRefused: it is too large, too heavy, or contains what no mask computation contains.
    """
    nodes: list[ir.Node] = []
    inputs: dict[str, ir.Value] = {}
    initializers: dict[str, ir.Value] = {}
    placed: set[int] = set()
    entered: set[int] = set()
    stack: list[ir.Value | ir.Node] = [mask]
    while stack:  # depth first, on an explicit stack: the depth of an untrusted graph must not be Python's
        item = stack.pop()
        if isinstance(item, ir.Node):  # everything it needs stands in `nodes` by now
            placed.add(id(item))
            nodes.append(item)
            continue
        node = item.producer()
        if node is None:
            _take_leaf(item, inputs, initializers)
        elif id(node) not in entered:
            entered.add(id(node))
            _check_node(node, len(entered))
            stack.append(node)
            stack.extend(value for value in reversed(node.inputs) if value is not None)
        elif id(node) not in placed:
            raise MaskRefused("its sub-graph has a cycle")
    total = sum(value.const_value.nbytes for value in initializers.values() if value.const_value is not None)
    if total > MAX_INITIALIZER_BYTES:
        raise MaskRefused(f"it reads {total >> 20} MiB of constants")
    return MaskGraph(mask, tuple(nodes), tuple(inputs.values()), tuple(initializers.values()))


def _take_leaf(value: ir.Value, inputs: dict[str, ir.Value], initializers: dict[str, ir.Value]) -> None:
    name = value.name or ""
    if value.const_value is None:
        if value.is_initializer():
            raise MaskRefused(f"the value of constant {name} is not at hand")
        inputs[name] = value
    elif value.const_value.nbytes > MAX_INITIALIZER_BYTES:
        raise MaskRefused(f"it reads {name}, a constant of {value.const_value.nbytes >> 20} MiB")
    else:
        initializers[name] = value


def _check_node(node: ir.Node, count: int) -> None:
    if count > MAX_NODES:
        raise MaskRefused(f"its sub-graph has more than {MAX_NODES} nodes")
    reason = REFUSED_OPS.get(node.op_type)
    if reason is not None:
        raise MaskRefused(f"{reason} ({node.op_type} node {node.name})")
    if node.domain not in ("", "ai.onnx"):
        raise MaskRefused(f"it contains {node.domain}::{node.op_type} (node {node.name})")
    if any(attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attr in node.attributes.values()):
        raise MaskRefused(f"it contains control flow ({node.op_type} node {node.name})")


def _in_memory(tensor: ir.TensorProtocol | None) -> ir.TensorProtocol | None:
    """The tensor itself, not a reference to a file: the model is handed over as bytes."""
    if isinstance(tensor, ir.ExternalTensor):
        return ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)
    return tensor


def mask_model(graph: MaskGraph, opset: int) -> ir.Model:
    """A model that computes the mask alone; the original graph is left as it is."""
    values: dict[int, ir.Value] = {}

    def copy(value: ir.Value) -> ir.Value:
        if id(value) not in values:
            values[id(value)] = ir.Value(
                name=value.name,
                shape=value.shape,
                type=value.type,
                const_value=_in_memory(value.const_value) if value.producer() is None else None,
            )
        return values[id(value)]

    nodes = []
    for node in graph.nodes:
        outputs = [ir.Value(name=out.name, type=out.type) for out in node.outputs]
        values.update({id(old): new for old, new in zip(node.outputs, outputs, strict=True)})
        nodes.append(
            ir.Node(
                node.domain,
                node.op_type,
                [None if v is None else copy(v) for v in node.inputs],
                list(node.attributes.values()),
                outputs=outputs,
                name=node.name,
            )
        )
    inputs = [copy(value) for value in graph.inputs]
    initializers = [copy(value) for value in graph.initializers]
    output = copy(graph.output)
    if output.producer() is None:  # an output must have a producer
        identity = ir.Node("", "Identity", [output])
        nodes.append(identity)
        output = identity.outputs[0]
        output.name, output.type = "raggedrt_mask", graph.output.type
    body = ir.Graph(inputs, [output], nodes=nodes, initializers=initializers, opset_imports={"": opset}, name="mask")
    return ir.Model(body, ir_version=10)
