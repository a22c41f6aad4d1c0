"""The graph that TensorRT is handed: bodies in place of our ops, one by one, because its parser ignores overloads."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable
from typing import TypeVar

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from raggedrt.errors import InputError, NumericsError
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

LOGGER = logging.getLogger("raggedrt")
Checked = TypeVar("Checked")


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


def save_prepared(model: ir.Model, path: pathlib.Path, where: str, check: Callable[[], Checked]) -> Checked:
    """Prepare a model, in place, write it to `path` with its weights beside, and check the file.

    16-bit matrices of attention are multiplied as such, unless the check finds the scores too large for that.

    Raises:
        InputError: a node of ours has no function body.
        NumericsError: the check fails, also with exact products.
    """
    spare = model.clone() if _has_narrow_attention(model) else None
    prepare(model, where)
    ir.save(model, path, external_data=f"{path.name}.data")
    try:
        return check()
    except NumericsError as error:
        if spare is None:
            raise
        LOGGER.warning(
            "%s: attention scores are too large to be rounded to 16 bits, so attention multiplies in float32, which is "
            "slower (%s)",
            where,
            error,
        )
    prepare(spare, where, exact=True)
    ir.save(spare, path, external_data=f"{path.name}.data")
    return check()


def _has_narrow_attention(model: ir.Model) -> bool:
    """Whether `prepare` will let attention multiply in 16 bits, unless it is asked for exact products."""
    types = {node.inputs[0].dtype for node in model.graph.all_nodes() if _is_attention(node) and node.inputs[0]}
    return bool(types & {ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def _is_attention(node: ir.Node) -> bool:
    return (node.domain, node.op_type) == (DOMAIN, "RaggedAttention")
