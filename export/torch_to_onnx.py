"""PyTorch to ONNX through torch's dynamo exporter, with dynamic axes and the source's own names."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from raggedrt.errors import InputError, RaggedRTError, TargetError
from raggedrt.export.experts import exportable_experts
from raggedrt.export.files import save_model
from raggedrt.export.sparse_attention import attach_bodies, translation_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from raggedrt.models.contract import ModelSource

logger = logging.getLogger(__name__)
DEFAULT_OPSET = 20
# Below 18 the exporter writes 18; at 26 it writes an Attention node under an opset that has none.
OPSETS = range(18, 26)
# At opset 23 torch's own optimizer fuses rotary embeddings with caches of batch 1, which fails for larger batches.
_OPSET_WITH_FAULTY_FUSIONS = 23
_BULKY_METADATA = ("namespace", "pkg.torch.onnx.fx_node")  # half of a small file
_NOISY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch.fx")


@dataclass(frozen=True)
class ExportedModel:
    """An exported model.

    Attributes:
        model: The graph; its weights may still be those of the PyTorch module (no copy).
        opset: Version of the default operator set.
        inputs: Names of the graph inputs.
        outputs: Names of the graph outputs.
        path: Where it was written, if it was.
        data_path: The external data beside it, if there is any.
    """

    model: ir.Model
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    path: Path | None = None
    data_path: Path | None = None


def export_model(source: ModelSource, *, opset: int = DEFAULT_OPSET, output: Path | None = None) -> ExportedModel:
    """Exports a source; with `output`, also writes it there (external data beside it above 1.5 GB).

    Raises:
        InputError: The opset is out of range, the module cannot be traced, or an input has no effect.
        TargetError: torch is not installed.
        RaggedRTError: The exporter returned another interface than it was asked for.
    """
    if opset not in OPSETS:
        raise InputError(
            f"Opset {opset} cannot be exported; expected {OPSETS.start} to {OPSETS.stop - 1} (default {DEFAULT_OPSET})."
        )
    started = time.perf_counter()
    logger.info("exporting %s at opset %d", type(source.module).__name__, opset)
    program = _torch_export(source, opset)
    model: ir.Model = program.model
    if opset == _OPSET_WITH_FAULTY_FUSIONS:
        from onnxscript import optimizer

        with _quiet():
            optimizer.optimize(model)
    _name_interface(model, source)
    _check_inputs(model)
    if model.opset_imports.get("") != opset:
        raise RaggedRTError(
            f"The exporter wrote opset {model.opset_imports.get('')} where {opset} was asked for; try {DEFAULT_OPSET}."
        )
    strip_metadata(model)
    attach_bodies(model)
    logger.info("exported %d nodes in %.1f s", len(model.graph), time.perf_counter() - started)
    data_path = save_model(model, output) if output is not None else None
    names = tuple(str(value.name) for value in model.graph.inputs)
    return ExportedModel(model, opset, names, tuple(source.output_names), output, data_path)


def _torch_export(source: ModelSource, opset: int) -> Any:
    """Calls torch's exporter and turns its many errors into one."""
    try:
        import torch
    except ImportError as error:
        raise TargetError(f"Exporting needs torch ({error}); run `pip install 'raggedrt[hf]'`.") from error
    options: dict[str, Any] = {
        "dynamo": True,
        "opset_version": opset,
        "output_names": list(source.output_names),
        "optimize": opset != _OPSET_WITH_FAULTY_FUSIONS,
        "custom_translation_table": translation_table(),
        "verbose": False,
    }
    if isinstance(source.module, torch.export.ExportedProgram):
        target: Any = source.module
        options["input_names"] = list(source.example_inputs)
    else:
        target = source.module.eval()
        options["kwargs"] = dict(source.example_inputs)
        options["dynamic_shapes"] = {
            name: {axis: torch.export.Dim(symbol) for axis, symbol in source.dynamic_axes.get(name, {}).items()}
            for name in source.example_inputs
        }
    with _quiet(), torch.no_grad(), exportable_experts(source.module):
        try:
            return torch.onnx.export(target, (), **options)
        except MemoryError:
            raise
        except Exception as error:  # torch.export, dynamo and the translator raise many kinds
            if "can't allocate memory" in str(error):  # torch's own wording for the CPU
                raise MemoryError(str(error)) from error
            raise InputError(
                f"{type(source.module).__name__}: torch.onnx cannot export this module at opset {opset}: "
                f"{_cause(error)}. Check that its forward has no branches on tensor values and that the dynamic axes "
                "really vary; -v shows the exporter's own report."
            ) from error


def _name_interface(model: ir.Model, source: ModelSource) -> None:
    """Checks input and output names, and gives the inputs' dynamic axes the source's symbols."""
    inputs = [value.name for value in model.graph.inputs]
    if inputs != list(source.example_inputs) or len(model.graph.outputs) != len(source.output_names):
        raise RaggedRTError(
            f"The exported graph has the inputs {inputs} and {len(model.graph.outputs)} outputs; expected "
            f"{list(source.example_inputs)} and {list(source.output_names)}. "
            "Check output_names against what forward returns."
        )
    renamed: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, symbol in source.dynamic_axes.get(str(value.name), {}).items():
            dim = value.shape[axis] if value.shape is not None else None
            if not isinstance(dim, ir.SymbolicDim) or dim.value is None:
                raise InputError(
                    f"Input '{value.name}': axis {axis} ({symbol}) came out of the exporter with the fixed size "
                    f"{dim}; the module's forward specialises on it."
                )
            if dim.value != symbol:
                renamed[dim.value] = symbol
    if renamed:
        _rename_dims(model, renamed)


def _rename_dims(model: ir.Model, renamed: dict[str, str]) -> None:
    """Renames symbols that stand alone in value shapes."""
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape(
                [renamed.get(str(d.value), d.value) if isinstance(d, ir.SymbolicDim) else d for d in value.shape]
            )


def _check_inputs(model: ir.Model) -> None:
    """Refuses a graph that silently ignores one of its inputs."""
    outputs = set(model.graph.outputs)
    for value in model.graph.inputs:
        if not value.uses() and value not in outputs:
            raise InputError(
                f"Input '{value.name}' has no effect on the exported graph. If the module really ignores it, leave it "
                "out of example_inputs (and out of a program's inputs); if it does not, the exporter merged it with "
                "another, whose example was the same tensor, or made it a constant."
            )


def strip_metadata(model: ir.Model) -> None:
    """Keeps the name scopes and drops what records this machine's source paths or only repeats the graph."""
    holders: list[Any] = [model]
    graphs: list[Any] = [model.graph, *model.functions.values()]
    for graph in graphs:
        holders.append(graph)
        for node in graph.all_nodes():
            holders += [node, *node.outputs]
    for holder in holders:
        for key in [
            key for key, text in holder.metadata_props.items() if key in _BULKY_METADATA or _leaks_path(key, text)
        ]:
            del holder.metadata_props[key]


def _leaks_path(key: str, text: str) -> bool:
    return "stack_trace" in key or 'File "' in text


def _cause(error: BaseException) -> str:
    """Returns the first line of the innermost exception."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's known warnings, except in debug output; what matters in them is checked here."""
    if logger.isEnabledFor(logging.DEBUG):
        yield
        return
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [noisy.level for noisy in loggers]
    for noisy in loggers:
        noisy.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for noisy, level in zip(loggers, levels, strict=True):
            noisy.setLevel(level)
