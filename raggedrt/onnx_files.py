"""Reading and writing ONNX files: every fault of a file is an `InputError`, external weights are mapped, not read."""

from __future__ import annotations

import dataclasses
import pathlib

import onnx
import onnx_ir as ir

from raggedrt.errors import InputError
from raggedrt.external_data import write_with_external_data
from raggedrt.older_opsets import with_known_opset
from raggedrt.onnx_check import check_graph
from raggedrt.onnx_stream import write_single_file
from raggedrt.outputs import staged
from raggedrt.plugins.bundle.model_facts import check_external_data, load_proto, model_facts

INLINE_LIMIT = 1_500_000_000
"""Bytes of weights above which a file is written with external data (protobuf ends at 2 GiB)."""


@dataclasses.dataclass(frozen=True)
class OnnxFile:
    """A checked ONNX file. `data_files` hold its external data, which is mapped, not read."""

    path: pathlib.Path
    model: ir.Model
    data_files: frozenset[pathlib.Path]


def read_onnx(path: pathlib.Path) -> OnnxFile:
    """Read and check the ONNX file at `path`.

    Raises:
        InputError: the file is missing, no valid ONNX, or its external data is missing, cut off or outside its folder.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an ONNX model")
    proto = load_proto(path)
    facts = model_facts(proto)
    check_external_data(facts, path.parent, str(path))
    model = read_proto(proto, str(path))
    ir.external_data.set_base_dir(model.graph, path.parent)
    return OnnxFile(path, model, frozenset(path.parent / name for name in facts.external_files))


def read_proto(proto: onnx.ModelProto, where: str = "the model") -> ir.Model:
    """The intermediate form of `proto`, which is left as it is (weights are shared); `where` names it in messages.

    Raises:
        InputError: `proto` is no valid model.
    """
    check_graph(proto, where)
    proto = with_known_opset(proto, where)
    try:
        return _without_negative_sizes(ir.from_proto(proto))
    except MemoryError:
        raise
    except Exception as error:  # onnx_ir raises many kinds
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"{where} is not valid ONNX ({first_line}); check it with onnx.checker") from error


def _without_negative_sizes(model: ir.Model) -> ir.Model:
    """Some exporters write -1 for a size known at run time only, which constant folding would take for a number."""
    graph = model.graph
    for value in (*graph.inputs, *(output for node in graph.all_nodes() for output in node.outputs)):
        if value.shape is not None and any(isinstance(dim, int) and dim < 0 for dim in value.shape):
            value.shape = ir.Shape([None if isinstance(dim, int) and dim < 0 else dim for dim in value.shape])
    return model


def write_onnx(model: ir.Model, output: pathlib.Path, *, external: bool) -> None:
    """Write `model` to `output`, whole or not at all.

    With `external`, or above the limit, the weights go to `<output>.data`.
    """
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    with staged(output) as path:
        if external or size > INLINE_LIMIT:
            write_with_external_data(model, path, f"{output.name}.data")
        else:
            write_single_file(model, path)
