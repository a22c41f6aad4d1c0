"""Verifies an exported ONNX file against eager PyTorch over several shapes and paddings."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from raggedrt.errors import InputError, RaggedRTError, TargetError
from raggedrt.export.files import save_model
from raggedrt.export.input_specs import input_specs
from raggedrt.export.mask_polarity import refuse_inverted_mask
from raggedrt.export.numerics import Arrays, Comparison, Runner, Tolerance, compare_results, runnable_cases
from raggedrt.export.padding_cases import padding_cases

if TYPE_CHECKING:
    from collections.abc import Callable

    from raggedrt.models.contract import ModelSource

logger = logging.getLogger(__name__)


def verify_export(
    source: ModelSource,
    model: str | os.PathLike[str] | ir.Model,
    *,
    pad_token_id: int = 0,
    position_limit: int | None = None,
    tolerance: Tolerance | None = None,
    seed: int = 0,
) -> Comparison:
    """Compares an ONNX model on ONNX Runtime's CPU provider with the PyTorch module.

    Args:
        source: What was exported.
        model: The ONNX file, or a model in memory.
        pad_token_id: Token id of padded slots.
        position_limit: Longest sequence, in tokens.
        tolerance: Default by the outputs' dtype.
        seed: Of the random feeds.

    Raises:
        NumericsError: An output is outside the tolerance.
        InputError: The PyTorch module itself fails on the feeds, or its padding mask is inverted.
        TargetError: onnxruntime is not installed.
    """
    reason = _cannot_verify(source)
    if reason is not None:
        logger.warning("not verified: %s", reason)
        return Comparison((), (), skipped=reason)
    cases = padding_cases(
        input_specs(source),
        pad_token_id=pad_token_id,
        position_limit=position_limit,
        long_length=source.long_length,
        seed=seed,
    )
    exported = onnx_runner(model)
    runnable = runnable_cases(cases, eager_runner(source), sure_length=_sure_length(source))
    results = [(case, wanted, exported(case.feeds)) for case, wanted in runnable]
    result = compare_results(results, tolerance=tolerance)
    for error in result.outputs:
        logger.info("%s: max abs error %.2g (%s)", error.output, error.max_abs, error.case)
    if not result.passed and source.mask_input is not None:  # rows that hide everything are computed in many ways
        refuse_inverted_mask(source.mask_input, cases, eager_runner(source))
    return result.require("ONNX against eager PyTorch")


def _sure_length(source: ModelSource) -> int:
    """The length that was traced must run; a program may by its own constraints refuse shorter ones."""
    import torch

    if isinstance(source.module, torch.export.ExportedProgram):
        return 0
    return max(int(size) for tensor in source.example_inputs.values() for size in tensor.shape)


def _cannot_verify(source: ModelSource) -> str | None:
    """ONNX Runtime's CPU provider lacks bfloat16 kernels for most ops."""
    import torch

    program = isinstance(source.module, torch.export.ExportedProgram)
    weights = source.module.state_dict if program else source.module.state_dict()
    if any(tensor.dtype == torch.bfloat16 for tensor in weights.values()):
        return "ONNX Runtime's CPU provider does not run bfloat16 models"
    return None


def eager_runner(source: ModelSource) -> Runner:
    """Returns a function that runs the PyTorch module on numpy arrays."""
    import torch

    call = _program_call(source.module) if isinstance(source.module, torch.export.ExportedProgram) else source.module

    def run(feeds: Arrays) -> Arrays:
        # Copies, for a module may change its inputs.
        tensors = {name: torch.from_numpy(feeds[name].copy()) for name in source.example_inputs}
        with torch.inference_mode():
            try:
                result = call(**tensors)
            except IndexError as error:  # an embedding that is smaller than the ids that were tried
                largest = max(int(array.max()) for array in feeds.values() if array.size and array.dtype.kind == "i")
                raise InputError(
                    f"The module fails on its own kind of input, integers up to {largest}: {error}. A module without "
                    "a config does not tell its vocabulary: have the factory return a raggedrt.ModelSource whose "
                    "example_inputs hold the largest id that the module takes."
                ) from error
        values = _tensors(result)
        return {name: value.detach().numpy() for name, value in zip(source.output_names, values, strict=True)}

    return run


def _tensors(result: Any) -> list[Any]:
    """The tensors of what a module returned, in the order of the exported outputs; None is no output."""
    import torch
    from torch.utils import _pytree as pytree

    tree = list(result.values()) if isinstance(result, dict) else result  # output classes may not be registered
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _program_call(program: Any) -> Callable[..., Any]:
    """Calls a program with its tensors by name; numbers and flags among its inputs are those of the export."""
    import torch
    from torch.utils import _pytree as pytree

    leaves, form = pytree.tree_flatten(program.example_inputs)
    module = program.module()

    def call(**tensors: Any) -> Any:
        given = iter(tensors.values())
        args, kwargs = pytree.tree_unflatten(
            [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], form
        )
        return module(*args, **kwargs)

    return call


def onnx_runner(model: str | os.PathLike[str] | ir.Model) -> Runner:
    """Returns a function that runs a plain ONNX model on ONNX Runtime's CPU provider.

    Raises:
        TargetError: onnxruntime is not installed.
        RaggedRTError: ONNX Runtime refuses the model.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise TargetError("Verifying needs onnxruntime; run `pip install 'raggedrt[cpu]'`.") from error
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, once
    try:
        if isinstance(model, ir.Model):
            with tempfile.TemporaryDirectory(prefix="raggedrt-") as folder:
                save_model(model, Path(folder) / "model.onnx")
                session = ort.InferenceSession(
                    os.path.join(folder, "model.onnx"), options, providers=["CPUExecutionProvider"]
                )
        else:
            session = ort.InferenceSession(os.fspath(model), options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:  # ONNX Runtime's own exception classes share no base of ours
        raise RaggedRTError(f"ONNX Runtime cannot load the exported model ({_first_line(error)}).") from error
    inputs = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]

    def run(feeds: Arrays) -> Arrays:
        try:
            results = session.run(outputs, {name: feeds[name] for name in inputs})
        except Exception as error:  # as above
            raise RaggedRTError(f"ONNX Runtime fails to run the model ({_first_line(error)}).") from error
        return dict(zip(outputs, results, strict=True))

    return run


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
