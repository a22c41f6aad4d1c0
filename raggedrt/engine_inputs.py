"""What the inputs of a graph mean where no manifest says it, and feeds for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from raggedrt.batches import ragged_offsets
from raggedrt.errors import InputError
from raggedrt.export.input_specs import MASK_NAMES, graph_input_specs
from raggedrt.plugins.contract.io_roles import Role, TensorRole
from raggedrt.plugins.tensorrt.lengths_plan import CU_SEQLENS, MAX_SEQLEN
from raggedrt.plugins.tensorrt.profiles import Sizes, is_ragged, shapes_of

TOKENS = "tokens"
"""The symbol that the graph passes write for the axis of packed tokens."""
LENGTHS = ((5, 1, 7), (4,), (2, 3, 9, 1, 6))
"""Tokens of each sequence in the batches that check a graph."""


def graph_roles(values: Sequence[ir.Value], *, ragged: bool) -> tuple[TensorRole, ...]:
    """Roles by names and symbolic axes, as the graph passes and the exporter write them."""
    return tuple(_role(value, ragged=ragged) for value in values)


def takes_packed(model: ir.Model) -> bool:
    """Whether the graph has the inputs of packed tokens."""
    return {CU_SEQLENS, MAX_SEQLEN} <= {value.name for value in model.graph.inputs}


def _role(value: ir.Value, *, ragged: bool) -> TensorRole:
    name = str(value.name)
    if value.shape is None or value.dtype is None:
        raise InputError(f"{name!r} has no shape or type in the graph, so no engine can be built; infer shapes first")
    shape = tuple(dim if isinstance(dim, int) else str(dim.value or f"axis_{n}") for n, dim in enumerate(value.shape))
    if ragged and name in (CU_SEQLENS, MAX_SEQLEN):
        role = Role.CU_SEQLENS if name == CU_SEQLENS else Role.MAX_SEQLEN
    elif ragged:
        role = _lead(shape, 1, Role.PER_TOKEN if shape[:1] == (TOKENS,) else Role.PER_SEQUENCE)
    elif len(shape) > 1 and isinstance(shape[1], str):
        role = _lead(shape, 2, Role.ATTENTION_MASK if name in MASK_NAMES else Role.PER_TOKEN)
    else:
        role = _lead(shape, 1, Role.PER_SEQUENCE)
    return TensorRole(name, role, value.dtype.numpy().name, shape)


def _lead(shape: tuple[int | str, ...], axes: int, role: Role) -> Role:
    return role if len(shape) >= axes and all(isinstance(dim, str) for dim in shape[:axes]) else Role.OTHER


def sample_feeds(
    model: ir.Model, inputs: Sequence[TensorRole], lengths: Sequence[int], seed: int
) -> dict[str, npt.NDArray[Any]]:
    """Random values of the right range for every input: sequences of these lengths, padded at the right or packed."""
    rng = np.random.default_rng(seed)
    ranges = {spec.name: (spec.low, spec.high) for spec in graph_input_specs(model)}
    shapes = shapes_of(inputs, Sizes(len(lengths), sum(lengths), max(lengths)))
    feeds: dict[str, npt.NDArray[Any]] = {}
    for role in inputs:
        dtype = np.dtype(role.dtype)
        low, high = ranges[role.name]
        values = (
            rng.standard_normal(shapes[role.name]) if dtype.kind == "f" else rng.integers(low, high, shapes[role.name])
        )
        feeds[role.name] = values.astype(dtype)
    if is_ragged(inputs):
        offsets = ragged_offsets(list(lengths))
        return {**feeds, **{role.name: offsets[role.role.value] for role in inputs if role.role.value in offsets}}
    valid = np.arange(max(lengths)) < np.asarray(lengths)[:, None]
    masks = [role for role in inputs if role.role is Role.ATTENTION_MASK]
    return {**feeds, **{role.name: valid.astype(role.dtype) for role in masks}}
