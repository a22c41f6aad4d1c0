"""What verification may feed to a model: read from a `ModelSource` or from an ONNX graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir

from raggedrt.errors import InputError
from raggedrt.export.padding_cases import InputSpec

if TYPE_CHECKING:
    from raggedrt.models.contract import ModelSource

Role = Literal["mask", "ids", "values"]
MASK_NAMES = ("attention_mask", "input_mask", "mask")
_CACHE = "past"
"""In the names of inputs that hold keys and values of tokens that came before."""
ID_NAMES = ("input_ids", "ids", "tokens")
# Ops that hand on their first input's values, so that an index can be followed to the table it reads.
_SAME_VALUES = ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "PackTokens")
_MAX_STEPS = 16


def input_specs(source: ModelSource) -> list[InputSpec]:
    """Returns one spec per input; integers take the range that the example spans."""
    anchor = source.mask_input or next(iter(source.example_inputs))
    symbols = source.dynamic_axes.get(anchor, {})
    named: dict[str, Literal["batch", "sequence"]] = {}
    for axis, symbol in ((1, "sequence"), (0, "batch")):
        if axis in symbols:
            named[symbols[axis]] = symbol  # type: ignore[assignment]
    specs = []
    for name, tensor in source.example_inputs.items():
        dynamic = source.dynamic_axes.get(name, {})
        axes = tuple(named.get(dynamic.get(axis, ""), int(size)) for axis, size in enumerate(tensor.shape))
        dtype = np.dtype(str(tensor.dtype).removeprefix("torch.").replace("bfloat16", "float32"))
        integer = dtype.kind in "iu"
        low, high = (int(tensor.min()), int(tensor.max()) + 1) if integer and tensor.numel() else (0, 2)
        role = "mask" if name == source.mask_input else _role(name)
        specs.append(InputSpec(name, dtype, axes, role, low, high))
    return specs


def graph_input_specs(model: ir.Model) -> list[InputSpec]:
    """Returns one spec per graph input; the range of integers comes from the table that they index.

    Raises:
        InputError: An input without a shape, or with a dynamic axis that is neither batch nor sequence.
    """
    return [_graph_input(value, model) for value in model.graph.inputs if value.name not in model.graph.initializers]


def _graph_input(value: ir.Value, model: ir.Model) -> InputSpec:
    name = str(value.name)
    if value.shape is None or value.dtype is None:
        raise InputError(f"Input '{name}' has no shape or type in the graph; give the inputs yourself (--inputs).")
    axes: list[Literal["batch", "sequence"] | int] = []
    for axis, size in enumerate(value.shape):
        if isinstance(size, int):
            axes.append(size)
        elif axis < 2:
            axes.append("batch" if axis == 0 else "sequence")
        else:
            advice = "--prefill leaves caches out" if _CACHE in name else "give the inputs yourself"
            raise InputError(f"Input '{name}': cannot tell what its dynamic axis {axis} ({size}) is; {advice}.")
    integer = value.dtype in (ir.DataType.INT64, ir.DataType.INT32)
    high = _table_rows(value) if integer else 2
    return InputSpec(name, value.dtype.numpy(), tuple(axes), _role(name), 0, high)


def _role(name: str) -> Role:
    if name in MASK_NAMES:
        return "mask"
    return "ids" if name in ID_NAMES else "values"


def _table_rows(value: ir.Value) -> int:
    """Returns the rows of the smallest table that an input indexes; 2 where none is found, which every table has."""
    rows: list[int] = []
    front = [value]
    for _ in range(_MAX_STEPS):
        following: list[ir.Value] = []
        for node, index in ((use.node, use.idx) for one in front for use in one.uses()):
            table = node.inputs[0]
            if node.op_type == "Gather" and index == 1 and table is not None and table.shape is not None:
                axis = node.attributes.get_int("axis", 0)
                size = table.shape[axis] if table.is_initializer() else None
                rows += [size] if isinstance(size, int) else []
            elif node.op_type in _SAME_VALUES and index == 0:
                following.append(node.outputs[0])
        front = following
    return min(rows, default=2)
