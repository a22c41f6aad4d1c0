"""The graph that TensorRT is handed: bodies in place of our ops, one by one, because its parser ignores overloads."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from raggedrt.errors import InputError
from raggedrt.plugins.bodies import attach_function_bodies
from raggedrt.plugins.contract.op_definition import DOMAIN
from raggedrt.plugins.tensorrt.lengths_plan import plan_from_lengths
from raggedrt.plugins.tensorrt.shared_dims import share_dims

PASSES = (
    common_passes.CommonSubexpressionEliminationPass(),  # every attention body finds the same slots
    common_passes.RemoveUnusedNodesPass(),
    common_passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
    common_passes.RemoveUnusedOpsetsPass(),
)

NARROW_PRODUCTS = (
    "attention scores are too large to be rounded to 16 bits, so attention multiplies in float32, which is slower"
)
"""Said where a check failed and the same model is tried with exact products."""


def prepare(model: ir.Model, where: str, *, exact: bool = False) -> None:
    """Turn a rewritten model (or any other) into standard ops, in place.

    Args:
        model: the model.
        where: its name in errors.
        exact: multiply in float32 in attention, whatever the element type.

    Raises:
        InputError: a node of ours has no function body.
    """
    if any(domain == DOMAIN for domain, *_ in model.functions):
        attach_function_bodies(model, engine=True, exact=exact)
    plan_from_lengths(model)
    common_passes.InlinePass()(model)
    share_dims(model.graph)
    for change in PASSES:
        change(model)
    left = next((node for node in model.graph.all_nodes() if node.domain == DOMAIN), None)
    if left is not None:
        raise InputError(
            f"{where}: node {left.name!r} ({left.op_type}) has no function body, so TensorRT for RTX cannot take it; "
            "rewrite the model again"
        )
    for name in [name for name in model.metadata_props if name.startswith("raggedrt.")]:
        del model.metadata_props[name]  # it counts ops that are bodies now


def has_narrow_attention(model: ir.Model) -> bool:
    """Whether `prepare` will let attention multiply in 16 bits, unless it is asked for exact products."""
    types = {node.inputs[0].dtype for node in model.graph.all_nodes() if _is_attention(node) and node.inputs[0]}
    return bool(types & {ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def _is_attention(node: ir.Node) -> bool:
    return (node.domain, node.op_type) == (DOMAIN, "RaggedAttention")
