"""Makes a node of a `raggedrt` op: inputs by name, ABI guard, output dtypes and shapes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import onnx_ir as ir

from raggedrt.errors import RaggedRTError
from raggedrt.plugins.contract.abi import ABI_VERSION, Feature
from raggedrt.plugins.contract.op_definition import DOMAIN, OPSET_VERSION, AttributeSpec, OpDefinition, TensorSpec
from raggedrt.plugins.registry import BY_NAME

AttributeValue = int | float | Sequence[int]
Inputs = Mapping[str, ir.Value | None]
Dims = list[int | ir.SymbolicDim] | None
_NOTHING = Feature(0)

_FEATURE_OF_TENSOR = {
    "positions_q": Feature.POSITIONS,
    "positions_k": Feature.POSITIONS,
    "tile_ptr": Feature.BLOCK_MASK,
    "tile_col": Feature.BLOCK_MASK,
    "tile_tag": Feature.BLOCK_MASK,
    "tile_bits": Feature.BLOCK_MASK,
    "head_group": Feature.BLOCK_MASK,
    "bias": Feature.BIAS,
    "distance_bias": Feature.DISTANCE_BIAS,
    "rel_query": Feature.DISENTANGLED,
    "rel_key": Feature.DISENTANGLED,
    "rel_bucket": Feature.DISENTANGLED,
    "head_sink": Feature.SINK,
    "alibi_slopes": Feature.ALIBI,
    "keep_mask": Feature.KEEP_MASK,
    "work_list": Feature.WORK_LIST,
}
_FEATURE_OF_ATTRIBUTE = {
    "causal": Feature.CAUSAL,
    "softcap": Feature.SOFTCAP,
    "window_left": Feature.WINDOW,
    "window_right": Feature.WINDOW,
    "global_tokens": Feature.GLOBAL_TOKENS,
    "dilation": Feature.DILATION,
    "block_size": Feature.BLOCK_MASK,
    "keep_slots": Feature.KEEP_SLOTS,
    "capacity": Feature.CAPACITY,
}
"""Used when the attribute differs from its default."""


def definition_of(op_name: str) -> OpDefinition:
    """The op called `op_name`.

    Raises:
        RaggedRTError: There is no such op.
    """
    if op_name not in BY_NAME:
        raise RaggedRTError(f"There is no op {DOMAIN}::{op_name}; the ops are {', '.join(BY_NAME)}.")
    return BY_NAME[op_name]


def required_features(
    op_name: str,
    present_inputs: Collection[str],
    present_outputs: Collection[str],
    attributes: Mapping[str, AttributeValue],
    *,
    extra: Feature = _NOTHING,
) -> Feature:
    """Every feature bit that a node with these tensors and attributes uses.

    `extra` adds what names alone do not tell: `VALUE_HEAD_SIZE`, `CROSS_LENGTHS`.
    """
    op = definition_of(op_name)
    features = extra
    for name in present_inputs:
        features |= _FEATURE_OF_TENSOR.get(name, _NOTHING)
    if any(tensor.optional and tensor.name == "lse" and "lse" in present_outputs for tensor in op.outputs):
        features |= Feature.LSE
    for name, value in attributes.items():
        if name in _FEATURE_OF_ATTRIBUTE and not _is_default(op.attribute(name), value):
            features |= _FEATURE_OF_ATTRIBUTE[name]
    if attributes.get("kv_num_heads", 0) not in (0, attributes.get("num_heads")):
        features |= Feature.GROUPED_QUERY
    return features


def make_node(
    op_name: str,
    inputs: Inputs,
    attributes: Mapping[str, AttributeValue] | None = None,
    *,
    outputs: Collection[str] | None = None,
    name: str | None = None,
    extra: Feature = _NOTHING,
    token_axis: str = "tokens",
) -> ir.Node:
    """Makes a node, not yet in any graph.

    Args:
        op_name: Name of the op in `raggedrt.plugins.registry`.
        inputs: Value per input name of the definition. Absent optional inputs may be left out or None.
        attributes: Value per attribute name; values equal to the default are not written.
        outputs: Names of the optional outputs wanted (`"lse"`); required outputs are always made.
        name: Node name; its outputs are then called `{name}_{output}`.
        extra: Feature bits that the caller knows of; different query and key lengths and a value head size of its
            own are found here where the inputs show them.
        token_axis: Symbol of the packed token axis that a `PackingPlan` makes.

    Raises:
        RaggedRTError: A name or element type that the definition does not have, or a required one that is missing.
    """
    op = definition_of(op_name)
    attributes = attributes or {}
    present = {key: value for key, value in inputs.items() if value is not None}
    _check_names(op, present, attributes, outputs or ())
    element_types = _element_types(op, present)
    made = [tensor for tensor in op.outputs if not tensor.optional or tensor.name in (outputs or ())]
    extra |= _visible_features(op, present, attributes)
    features = required_features(op_name, set(present), {tensor.name for tensor in made}, attributes, extra=extra)
    shapes = _SHAPES[op_name](present, attributes, token_axis)
    return ir.Node(
        DOMAIN,
        op_name,
        _positional(op, present),
        [*_written_attributes(op, attributes), *_guard(features)],
        outputs=[_output(tensor, element_types, shapes.get(tensor.name), name) for tensor in made],
        version=OPSET_VERSION,
        name=name,
    )


def _is_default(spec: AttributeSpec, value: AttributeValue) -> bool:
    return spec.default is not None and (tuple(value) if isinstance(value, Sequence) else value) == spec.default


def _check_names(
    op: OpDefinition,
    present: Mapping[str, ir.Value],
    attributes: Mapping[str, AttributeValue],
    outputs: Collection[str],
) -> None:
    known = (
        ("input", set(present), {t.name for t in op.inputs}, {t.name for t in op.inputs if not t.optional}),
        ("attribute", set(attributes), {a.name for a in op.attributes}, _required_attributes(op)),
        ("output", set(outputs), {t.name for t in op.outputs}, set[str]()),
    )
    for kind, given, allowed, required in known:
        if unknown := sorted(given - allowed):
            raise RaggedRTError(f"{op.name} has no {kind} {unknown[0]!r}; it has {', '.join(sorted(allowed))}.")
        if missing := sorted(required - given):
            raise RaggedRTError(f"{op.name} needs the {kind} {missing[0]!r}; give it to make_node.")


def _required_attributes(op: OpDefinition) -> set[str]:
    return {spec.name for spec in op.attributes if spec.default is None}


def _element_types(op: OpDefinition, present: Mapping[str, ir.Value]) -> dict[str, ir.DataType]:
    """Element type per `type_name`, from the inputs that have one; each is checked against the definition."""
    found: dict[str, ir.DataType] = {}
    for tensor in op.inputs:
        dtype = present[tensor.name].dtype if tensor.name in present else None
        if dtype is None:
            continue
        allowed = [ir.DataType(element.value) for element in tensor.element_types]
        if dtype not in allowed or found.setdefault(tensor.type_name, dtype) != dtype:
            expected = found.get(tensor.type_name) or " or ".join(str(each) for each in allowed)
            raise RaggedRTError(f"{op.name} input {tensor.name!r} is {dtype}, expected {expected}; insert a Cast.")
    return found


def _positional(op: OpDefinition, present: Mapping[str, ir.Value]) -> list[ir.Value | None]:
    values = [present.get(tensor.name) for tensor in op.inputs]
    while values and values[-1] is None:
        values.pop()
    return values


def _written_attributes(op: OpDefinition, attributes: Mapping[str, AttributeValue]) -> list[ir.Attr]:
    written = []
    for spec in op.attributes:
        if spec.name not in attributes or _is_default(spec, attributes[spec.name]):
            continue
        value = attributes[spec.name]
        if isinstance(value, Sequence):
            written.append(ir.AttrInt64s(spec.name, [int(each) for each in value]))
        elif spec.onnx_type == "FLOAT":
            written.append(ir.AttrFloat32(spec.name, float(value)))
        else:
            written.append(ir.AttrInt64(spec.name, int(value)))
    return written


def _guard(features: Feature) -> list[ir.Attr]:
    return [ir.AttrInt64("abi", ABI_VERSION), ir.AttrInt64("features", int(features))]


def _output(tensor: TensorSpec, element_types: Mapping[str, ir.DataType], dims: Dims, node: str | None) -> ir.Value:
    only = ir.DataType(tensor.element_types[0].value) if len(tensor.element_types) == 1 else None
    dtype = only or element_types.get(tensor.type_name)
    return ir.Value(
        name=f"{node}_{tensor.name}" if node else None,
        shape=None if dims is None else ir.Shape(dims),
        type=None if dtype is None else ir.TensorType(dtype),
    )


def _visible_features(
    op: OpDefinition, present: Mapping[str, ir.Value], attributes: Mapping[str, AttributeValue]
) -> Feature:
    """`CROSS_LENGTHS` and `VALUE_HEAD_SIZE` where the inputs themselves show them."""
    if op.name != "RaggedAttention":
        return _NOTHING
    features = _NOTHING
    if present["cu_seqlens_q"] is not present["cu_seqlens_k"]:
        features |= Feature.CROSS_LENGTHS
    key, value = (_dim(present[name], 1) for name in ("key", "value"))
    if isinstance(key, int) and isinstance(value, int) and key != value:
        features |= Feature.VALUE_HEAD_SIZE
    return features


def _dim(value: ir.Value, axis: int) -> int | ir.SymbolicDim:
    shape = value.shape
    return ir.SymbolicDim(None) if shape is None or len(shape) <= axis else shape[axis]


def _packing_plan_shapes(
    present: Mapping[str, ir.Value], attributes: Mapping[str, AttributeValue], token_axis: str
) -> dict[str, Dims]:
    tokens = ir.SymbolicDim(token_axis)
    batch = _dim(present["attention_mask"], 0)
    if isinstance(batch, int):
        rows: int | ir.SymbolicDim = batch + 1
    else:
        rows = ir.SymbolicDim(f"{batch.value or 'batch'} + 1")
    return {"token_index": [tokens], "cu_seqlens": [rows], "position": [tokens], "key_position": [tokens]}


def _pack_tokens_shapes(
    present: Mapping[str, ir.Value], attributes: Mapping[str, AttributeValue], token_axis: str
) -> dict[str, Dims]:
    shape = present["x"].shape
    return {"packed": None if shape is None else [_dim(present["token_index"], 0), *shape.dims[2:]]}


def _unpack_tokens_shapes(
    present: Mapping[str, ir.Value], attributes: Mapping[str, AttributeValue], token_axis: str
) -> dict[str, Dims]:
    shape, like = present["packed"].shape, present["like"]
    return {"x": None if shape is None else [_dim(like, 0), _dim(like, 1), *shape.dims[1:]]}


def _ragged_attention_shapes(
    present: Mapping[str, ir.Value], attributes: Mapping[str, AttributeValue], token_axis: str
) -> dict[str, Dims]:
    heads = attributes["num_heads"]
    kv_heads = attributes.get("kv_num_heads", 0) or heads
    width = _dim(present["value"], 1)
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or kv_heads <= 0 or heads % kv_heads:
        raise RaggedRTError(
            f"RaggedAttention has {heads} heads and {kv_heads} key/value heads: the second must divide."
        )
    out_width = width // kv_heads * heads if isinstance(width, int) else ir.SymbolicDim(None)
    tokens = _dim(present["query"], 0)
    return {"output": [tokens, out_width], "lse": [heads, tokens]}


def _block_mask_shapes(
    present: Mapping[str, ir.Value], attributes: Mapping[str, AttributeValue], token_axis: str
) -> dict[str, Dims]:
    length, size = _dim(present["max_seqlen"], 0), attributes["block_size"]
    if not isinstance(size, int) or size <= 0:
        raise RaggedRTError(f"BlockMask has block_size {size}, expected a positive number of positions.")
    unknown = ir.SymbolicDim(None)
    rows = -(-length // size) + 1 if isinstance(length, int) else unknown
    groups = _dim(present["blocks"], 0) if "blocks" in present else 1
    batch: int | ir.SymbolicDim = 1
    if "cu_seqlens" in present:
        bounds = _dim(present["cu_seqlens"], 0)
        batch = bounds - 1 if isinstance(bounds, int) else unknown
    words = size * size // 32
    return {
        "tile_ptr": [batch, groups, rows],
        "tile_col": [unknown],
        "tile_tag": [unknown],
        "tile_bits": [unknown, words],
    }


def _merge_attention_states_shapes(
    present: Mapping[str, ir.Value], attributes: Mapping[str, AttributeValue], token_axis: str
) -> dict[str, Dims]:
    output, lse = present["output1"], present["lse1"]
    return {"output": [_dim(output, 0), _dim(output, 1)], "lse": [_dim(lse, 0), _dim(lse, 1)]}


def _attention_plan_shapes(
    present: Mapping[str, ir.Value], attributes: Mapping[str, AttributeValue], token_axis: str
) -> dict[str, Dims]:
    return {"work_list": [ir.SymbolicDim(None)]}


_SHAPES: dict[str, Callable[[Mapping[str, ir.Value], Mapping[str, AttributeValue], str], dict[str, Dims]]] = {
    "PackingPlan": _packing_plan_shapes,
    "PackTokens": _pack_tokens_shapes,
    "UnpackTokens": _unpack_tokens_shapes,
    "RaggedAttention": _ragged_attention_shapes,
    "BlockMask": _block_mask_shapes,
    "MergeAttentionStates": _merge_attention_states_shapes,
    "AttentionPlan": _attention_plan_shapes,
}
