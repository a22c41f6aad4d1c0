"""Is the graph that TensorRT is handed still the model, and did the builder understand it as we do?"""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from raggedrt.engine_inputs import LENGTHS, sample_feeds
from raggedrt.errors import NumericsError, RaggedRTError
from raggedrt.export.numerics import DEFAULT_TOLERANCES, EXACT
from raggedrt.export.widen import wide_feeds, wide_file
from raggedrt.onnx_files import read_onnx
from raggedrt.plugins.bundle.manifest import ShapeProfile
from raggedrt.plugins.contract.io_roles import TensorRole
from raggedrt.plugins.runtime.ort import ort_session
from raggedrt.progress import step

TYPE_NAMES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "BOOL": "bool"}
"""Element types of TensorRT that are not called as in numpy."""


def check_prepared(before: pathlib.Path, after: pathlib.Path, inputs: Sequence[TensorRole]) -> None:
    """Run the graph before and after its ops were replaced, on ONNX Runtime's CPU provider.

    Raises:
        NumericsError: an output differs.
        TargetError: ONNX Runtime is not installed.
    """
    step("verifying the graph for TensorRT on ONNX Runtime")
    model = read_onnx(before).model
    names = [str(value.name) for value in model.graph.outputs]
    with wide_file(before) as (first, _), wide_file(after) as (second, _):
        sessions = [ort_session(path, native=False) for path in (first, second)]
    for seed, lengths in enumerate(LENGTHS):
        feeds = wide_feeds(sample_feeds(model, inputs, lengths, seed))
        results = [session.run(names, feeds) for session in sessions]
        for name, want, got in zip(names, *results, strict=True):
            allowed = DEFAULT_TOLERANCES.get(str(want.dtype), EXACT)  # a bfloat16 graph runs in float32
            if want.shape != got.shape or not np.allclose(got, want, allowed.rtol, allowed.atol, equal_nan=True):
                raise NumericsError(
                    f"{before}: output {name!r} changed when the ops were replaced by their bodies; nothing was built. "
                    "This is a fault of RaggedRT, please report it with the model's architecture"
                )


def check_tensors(
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    inputs: Sequence[TensorRole],
    outputs: Sequence[TensorRole],
    where: str,
) -> None:
    """Check that inputs and outputs of the network are those of the graph: names, ranks, static sizes, types.

    Raises:
        RaggedRTError: they are not.
    """
    for side, roles in (("inputs", inputs), ("outputs", outputs)):
        tensors = {tensor["Name"]: tensor for tensor in found[side]}
        for role in roles:
            tensor = tensors.pop(role.name, None)
            if tensor is None or not _agrees(tensor, role):
                raise RaggedRTError(
                    f"{where}: TensorRT sees the {side[:-1]} {role.name!r} as {tensor}, and the graph has {role.dtype} "
                    f"{list(role.shape)}; this is a fault of RaggedRT, please report it"
                )
        if tensors:
            raise RaggedRTError(f"{where}: TensorRT sees {side} that the graph does not have: {', '.join(tensors)}")


def check_engine_tensors(
    found: Sequence[Mapping[str, Any]],
    inputs: Sequence[TensorRole],
    outputs: Sequence[TensorRole],
    profiles: Sequence[ShapeProfile],
    where: str,
) -> None:
    """Check that the engine itself has these inputs and outputs, and these bounds; nothing where nobody told its own.

    Raises:
        RaggedRTError: it has not.
    """
    if not found:
        return
    names = {"Input": [role.name for role in inputs], "Output": [role.name for role in outputs]}
    for mode, wanted in names.items():
        real = [tensor["Name"] for tensor in found if tensor["IOMode"] == mode]
        if sorted(real) != sorted(wanted):
            raise RaggedRTError(
                f"{where}: the engine has the {mode.lower()}s {', '.join(real)}, and the graph {', '.join(wanted)}; "
                "this is a fault of RaggedRT, please report it"
            )
    for tensor in found:
        bounds = [tuple(map(tuple, profile)) for profile in tensor["Profiles"]]
        name = tensor["Name"]
        asked = [(p.minimum[name], p.optimum[name], p.maximum[name]) for p in profiles if name in p.minimum]
        if tensor["IOMode"] == "Input" and bounds != asked:
            raise RaggedRTError(
                f"{where}: the engine was built for {name!r} of the shapes {bounds}, and {asked} were asked for; this "
                "is a fault of RaggedRT, please report it"
            )


def _agrees(tensor: Mapping[str, Any], role: TensorRole) -> bool:
    name = tensor["Format/Datatype"]
    dims = tensor["Dimensions"]
    return (
        TYPE_NAMES.get(name, name.lower()) == role.dtype
        and dims is not None
        and len(dims) == len(role.shape)
        # A size that TensorRT could not derive is dynamic to it.
        and all(size in (-1, dim) or isinstance(dim, str) for size, dim in zip(dims, role.shape, strict=True))
    )


def linear_rows(graph: pathlib.Path) -> dict[str, int]:
    """How many linear layers have their rows along each axis: `tokens` where padding was removed."""
    model = read_onnx(graph).model
    counts: collections.Counter[str] = collections.Counter()
    for node in model.graph:
        if node.op_type in ("MatMul", "Gemm") and len(node.inputs) > 1:
            rows, weight = node.inputs[0], node.inputs[1]
            if weight is not None and weight.is_initializer() and rows is not None:
                lead = ["?"] if rows.shape is None else [_dim(dim) for dim in rows.shape[:-1]]
                counts["x".join(lead)] += 1
    return dict(counts)


def _dim(dim: int | ir.SymbolicDim) -> str:
    return str(dim) if isinstance(dim, int) else str(dim.value or "?")
