"""Puts an ONNX function body under every `raggedrt` node, so that the model runs where no native library is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx_ir as ir

from raggedrt.errors import RaggedRTError
from raggedrt.plugins.body_builder import MAX_OPSET, MIN_OPSET, BodyBuilder, NodeForm
from raggedrt.plugins.contract.op_definition import DOMAIN, OPSET_VERSION
from raggedrt.plugins.node import definition_of
from raggedrt.plugins.ops.attention_plan import body as attention_plan
from raggedrt.plugins.ops.block_mask import body as block_mask
from raggedrt.plugins.ops.merge_attention_states import body as merge_attention_states
from raggedrt.plugins.ops.pack_tokens import body as pack_tokens
from raggedrt.plugins.ops.packing_plan import body as packing_plan
from raggedrt.plugins.ops.ragged_attention import body as ragged_attention
from raggedrt.plugins.ops.unpack_tokens import body as unpack_tokens

OVERLOAD_IR_VERSION = 10
"""First ONNX IR version in which functions and nodes have an `overload`."""

BODIES: dict[str, Callable[[BodyBuilder], Sequence[ir.Value]]] = {
    "PackingPlan": packing_plan.build,
    "PackTokens": pack_tokens.build,
    "UnpackTokens": unpack_tokens.build,
    "RaggedAttention": ragged_attention.build,
    "BlockMask": block_mask.build,
    "MergeAttentionStates": merge_attention_states.build,
    "AttentionPlan": attention_plan.build,
}


def attach_function_bodies(model: ir.Model, *, engine: bool = False, exact: bool = False) -> int:
    """Gives every `raggedrt` node a function body for the model's default-domain opset, replacing older bodies.

    Nodes of equal form share a body; the node's `overload` names it. Call this last: optimisers and inliners replace a
    node by its body, and the native kernel is then never used.

    Args:
        model: the model, changed in place.
        engine: make bodies to be inlined into the graph of an engine (`NodeForm.product_type`).
        exact: of an engine: multiply in float32 whatever the element type.

    Returns:
        The number of bodies in the model.

    Raises:
        RaggedRTError: The opset is outside 17 to 26, or a node uses a feature that has no body.
    """
    for key in [key for key in model.functions if key[0] == DOMAIN]:
        del model.functions[key]
    nodes = list(_raggedrt_nodes(model))
    if not nodes:
        return 0
    opset = model.opset_imports.get("", 0)
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise RaggedRTError(
            f"The model imports opset {opset}; function bodies exist for {MIN_OPSET} to {MAX_OPSET}. "
            "Convert the model's opset first (onnx.version_converter)."
        )
    for node in nodes:
        form = node_form(node, engine=engine, exact=exact)
        node.overload = overload_of(form)
        if node.op_identifier() not in model.functions:
            function = build_body(form, opset)
            model.functions[function.identifier()] = function
    model.opset_imports.setdefault(DOMAIN, OPSET_VERSION)
    model.ir_version = max(model.ir_version, OVERLOAD_IR_VERSION)
    return sum(key[0] == DOMAIN for key in model.functions)


def build_body(form: NodeForm, opset: int) -> ir.Function:
    """The function body of nodes of this form."""
    builder = BodyBuilder(form, opset)
    return builder.function(overload_of(form), BODIES[form.op.name](builder))


def overload_of(form: NodeForm) -> str:
    """A readable name of everything in a form, such as `num_heads12_causal_positions_k_lse_f16`."""
    defaults = {spec.name: spec.default for spec in form.op.attributes}
    parts = [_attribute_part(name, value) for name, value in form.attributes if value != defaults[name]]
    optional = {tensor.name for tensor in (*form.op.inputs, *form.op.outputs) if tensor.optional}
    parts += [name for name in (*form.inputs, *form.outputs) if name in optional]
    if form.cross:
        parts.append("cross")
    if form.engine:
        parts += ["exact" if form.exact else "engine", *(f"{name}{width}" for name, width in form.widths)]
    if form.dtype is not None:
        parts.append(form.dtype.short_name())
    return "_".join(parts)


def node_form(node: ir.Node, *, engine: bool = False, exact: bool = False) -> NodeForm:
    """What the body of `node` depends on."""
    op = definition_of(node.op_type)
    values = {spec.name: value for spec, value in zip(op.inputs, node.inputs, strict=False) if value is not None}
    dtypes = [values[spec.name].dtype for spec in op.inputs if spec.type_name == "T" and spec.name in values]
    return NodeForm(
        op,
        tuple(values),
        tuple(spec.name for spec, value in zip(op.outputs, node.outputs, strict=False) if value.name != ""),
        tuple(
            (spec.name, _value(node.attributes[spec.name])) for spec in op.attributes if spec.name in node.attributes
        ),
        next((dtype for dtype in dtypes if dtype is not None), None),
        cross=any(values.get(f"{name}_q") is not values.get(f"{name}_k") for name in ("cu_seqlens", "max_seqlen")),
        engine=engine,
        exact=exact,
        widths=_widths(values) if engine else (),
    )


def _widths(values: Mapping[str, ir.Value]) -> tuple[tuple[str, int], ...]:
    shapes = {name: value.shape for name, value in values.items() if value.shape is not None}
    return tuple((name, shape[-1]) for name, shape in shapes.items() if len(shape) and isinstance(shape[-1], int))


def _raggedrt_nodes(model: ir.Model) -> Iterator[ir.Node]:
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        for node in ir.traversal.RecursiveGraphIterator(graph):
            if node.domain == DOMAIN:
                yield node


def _value(attribute: ir.Attr) -> int | float | tuple[int, ...]:
    if attribute.type == ir.AttributeType.INTS:
        return tuple(attribute.as_ints())
    return attribute.as_float() if attribute.type == ir.AttributeType.FLOAT else attribute.as_int()


def _attribute_part(name: str, value: int | float | tuple[int, ...]) -> str:
    if value == 1:
        return name
    items = value if isinstance(value, tuple) else (value,)
    return name + ".".join(f"{item:.9g}" if isinstance(item, float) else str(item) for item in items).replace("-", "m")
