"""The ONNX form of `torch.ops.raggedrt.sparse_attention`: one node, and a function body of standard ops under it.

With the body an exported file runs anywhere; the graph passes replace the node before anything inlines it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

DOMAIN, OP, VERSION = "raggedrt.torch", "SparseAttention", 1
_OVERLOAD_IR_VERSION = 10
_FAR = 2**31  # farther than any two slots
_INTEGERS = {
    "causal": 0,
    "window_left": -1,
    "window_right": -1,
    "dilation": 1,
    "block_size": 0,
    "block_window": 0,
    "global_blocks": 0,
    "dense_up_to": 0,
}
"""Attributes with the values that are not written."""


def translation_table() -> dict[Any, Callable[..., Any]]:
    """What `torch.onnx.export` needs to translate the op; empty where the op was never loaded."""
    import torch

    # The op lives with the models that use it; a source that uses it has imported it.
    namespace = getattr(torch.ops, "raggedrt", None)
    packet = getattr(namespace, "sparse_attention", None)
    return {} if packet is None else {packet.default: _translator()}


def _translator() -> Callable[..., Any]:
    import onnxscript

    _register_schema()
    opset = onnxscript.values.Opset(DOMAIN, VERSION)

    def translate(
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        scale: float,
        causal: bool,
        window_left: int,
        window_right: int,
        dilation: int,
        global_tokens: Sequence[int],
        block_size: int,
        block_window: int,
        global_blocks: int,
        dense_up_to: int,
    ) -> Any:
        given = {
            "causal": int(causal),
            "window_left": window_left,
            "window_right": window_right,
            "dilation": dilation,
            "block_size": block_size,
            "block_window": block_window,
            "global_blocks": global_blocks,
            "dense_up_to": dense_up_to,
        }
        attributes: dict[str, Any] = {name: given[name] for name, usual in _INTEGERS.items() if given[name] != usual}
        if global_tokens:
            attributes["global_tokens"] = list(global_tokens)
        return opset.SparseAttention(query, key, value, attention_mask, scale=float(scale), **attributes)

    return translate


def _register_schema() -> None:
    """Makes the op known: onnxscript makes nodes of registered ops only."""
    import onnx.defs

    if onnx.defs.has(OP, VERSION, DOMAIN):
        return
    schema = onnx.defs.OpSchema
    attribute, parameter = schema.Attribute, schema.FormalParameter
    kinds = onnx.defs.OpSchema.AttrType
    onnx.defs.register_schema(
        schema(
            OP,
            DOMAIN,
            VERSION,
            inputs=[
                *(parameter(name, "T") for name in ("query", "key", "value")),
                parameter("attention_mask", "M", param_option=schema.FormalParameterOption.Optional),
            ],
            outputs=[parameter("output", "T")],
            type_constraints=[
                ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"], ""),
                ("M", [f"tensor({name})" for name in ("bool", "int32", "int64", "float", "float16", "bfloat16")], ""),
            ],
            attributes=[
                attribute("scale", kinds.FLOAT, required=True),
                *(attribute(name, onnx.helper.make_attribute(name, usual)) for name, usual in _INTEGERS.items()),
                attribute("global_tokens", kinds.INTS, required=False),
            ],
        )
    )


def attach_bodies(model: ir.Model) -> int:
    """Gives every SparseAttention node a function body; returns the number of bodies."""
    made = set()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain != DOMAIN or node.op_type != OP:
            continue
        integers = {name: _integer(node, name, usual) for name, usual in _INTEGERS.items()}
        tokens = node.attributes.get("global_tokens")
        masked = len(node.inputs) > 3 and node.inputs[3] is not None
        body = _Body(
            integers,
            tuple(tokens.as_ints()) if tokens is not None else (),
            node.attributes["scale"].as_float(),
            masked=masked,
            grouped=_grouped(node),
        )
        node.overload = body.overload
        if node.op_identifier() not in model.functions:
            function = body.function(model.opset_imports[""])
            model.functions[function.identifier()] = function
        made.add(node.overload)
    if made:
        model.opset_imports[DOMAIN] = VERSION
        model.ir_version = max(model.ir_version, _OVERLOAD_IR_VERSION)
    return len(made)


def _integer(node: ir.Node, name: str, usual: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else usual


def _grouped(node: ir.Node) -> bool:
    """Key heads are fewer than query heads, or may be."""
    heads = [None if value is None or value.shape is None else value.shape[1] for value in node.inputs[:2]]
    return not (isinstance(heads[0], int) and heads[0] == heads[1])


class _Body:
    """One function body, which computes the whole score matrix."""

    def __init__(
        self, integers: Mapping[str, int], tokens: tuple[int, ...], scale: float, *, masked: bool, grouped: bool
    ) -> None:
        self.integers = integers
        self.tokens = tokens
        self.scale = scale
        self.masked = masked
        self.grouped = grouped
        self.nodes: list[ir.Node] = []

    @property
    def overload(self) -> str:
        """A readable name of all that the body depends on."""
        parts = [f"{name}{value}" for name, value in self.integers.items() if value != _INTEGERS[name]]
        parts += ["global_tokens" + ".".join(map(str, self.tokens))] if self.tokens else []
        flags = [name for name in ("masked", "grouped") if getattr(self, name)]
        return "_".join([f"scale{self.scale:.9g}", *parts, *flags]).replace("-", "m")

    def function(self, opset: int) -> ir.Function:
        """The body for a default-domain opset."""
        names = ["query", "key", "value", *(["attention_mask"] if self.masked else [])]
        inputs = {name: ir.Value(name=name) for name in names}
        output = self._attention(inputs)
        graph = ir.Graph(list(inputs.values()), [output], nodes=self.nodes, opset_imports={"": opset})
        return ir.Function(DOMAIN, OP, self.overload, graph=graph, attributes=[])

    def _op(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        node = ir.node(op_type, list(inputs), attributes=attributes)
        node.outputs[0].name = f"v{len(self.nodes)}"
        node.name = f"n{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def _constant(self, number: int | float | Sequence[int]) -> ir.Value:
        dtype = ir.DataType.FLOAT if isinstance(number, float) else ir.DataType.INT64
        return self._op("Constant", value=ir.tensor(number, dtype=dtype))

    def _attention(self, inputs: Mapping[str, ir.Value]) -> ir.Value:
        query, key, value = (self._op("Cast", inputs[name], to=ir.DataType.FLOAT) for name in ("query", "key", "value"))
        if self.grouped:
            key, value = self._repeated(key, query), self._repeated(value, query)
        visible = self._visible(inputs["query"])
        if self.masked:
            valid = self._op("Cast", inputs["attention_mask"], to=ir.DataType.BOOL)
            visible = self._op("And", visible, self._op("Unsqueeze", valid, self._constant([1, 2])))
        turned = self._op("Transpose", key, perm=[0, 1, 3, 2])
        scores = self._op("MatMul", self._op("Mul", query, self._constant(self.scale)), turned)
        lowest, zero = self._constant(-3.4028234663852886e38), self._constant(0.0)
        weights = self._op("Softmax", self._op("Where", visible, scores, lowest), axis=-1)
        output = self._op("MatMul", self._op("Where", visible, weights, zero), value)
        return self._op("CastLike", output, inputs["query"])

    def _repeated(self, heads: ir.Value, query: ir.Value) -> ir.Value:
        """Each key head as often as query heads read it."""
        count = self._op("Shape", query, start=1, end=2)
        times = self._op("Div", count, self._op("Shape", heads, start=1, end=2))
        one = self._constant([1])
        shape = self._op("Concat", one, one, times, one, one, axis=0)
        wide = self._op("Expand", self._op("Unsqueeze", heads, self._constant([2])), shape)
        ends = (self._op("Shape", heads, start=0, end=1), self._op("Shape", heads, start=2, end=4))
        return self._op("Reshape", wide, self._op("Concat", ends[0], count, ends[1], axis=0))

    def _visible(self, query: ir.Value) -> ir.Value:
        """Bool [S, S], padding aside."""
        length = self._op("Squeeze", self._op("Shape", query, start=2, end=3), self._constant([0]))
        slots = self._op("Range", self._constant(0), length, self._constant(1))
        q, k = (self._op("Unsqueeze", slots, self._constant([axis])) for axis in (1, 0))
        distance = self._op("Sub", k, q)
        pattern = self._blocks(q, k, length) if self.integers["block_size"] else self._window(q, k, distance)
        if self.integers["dense_up_to"]:
            dense = self._op("LessOrEqual", length, self._constant(self.integers["dense_up_to"]))
            pattern = self._op("Or", pattern, dense)
        if self.integers["causal"]:
            pattern = self._op("And", pattern, self._op("LessOrEqual", distance, self._constant(0)))
        return pattern

    def _window(self, q: ir.Value, k: ir.Value, distance: ir.Value) -> ir.Value:
        left, right, dilation = (self.integers[name] for name in ("window_left", "window_right", "dilation"))
        visible = self._op("GreaterOrEqual", distance, self._constant(-left if left >= 0 else -_FAR))
        if right >= 0:
            visible = self._op("And", visible, self._op("LessOrEqual", distance, self._constant(right)))
        if dilation > 1:
            remainder = self._op("Mod", distance, self._constant(dilation))
            visible = self._op("And", visible, self._op("Equal", remainder, self._constant(0)))
        for token in self.tokens:
            number = self._constant(token)
            either = self._op("Or", self._op("Equal", q, number), self._op("Equal", k, number))
            visible = self._op("Or", visible, either)
        return visible

    def _blocks(self, q: ir.Value, k: ir.Value, length: ir.Value) -> ir.Value:
        size, band, count = (self.integers[name] for name in ("block_size", "block_window", "global_blocks"))
        block = self._constant(size)
        blocks = self._op("Div", self._op("Add", length, self._constant(size - 1)), block)
        back = self._op("Sub", blocks, self._constant(count // 2))
        q, k = self._op("Div", q, block), self._op("Div", k, block)
        reach = self._op("Abs", self._op("Sub", k, q))
        visible = self._op("LessOrEqual", reach, self._constant(band // 2))
        for side in (q, k):
            front = self._op("Less", side, self._constant((count + 1) // 2))
            visible = self._op("Or", visible, self._op("Or", front, self._op("GreaterOrEqual", side, back)))
        return visible
