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
from raggedrt.export.numerics import Arrays, Comparison, Runner, Tolerance, compare_results, runnable_cases
from raggedrt.export.padding_cases import padding_cases

if TYPE_CHECKING:
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
        InputError: The PyTorch module itself fails on the feeds.
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
    traced = max(int(size) for tensor in source.example_inputs.values() for size in tensor.shape)
    exported = onnx_runner(model)
    runnable = runnable_cases(cases, eager_runner(source), sure_length=traced)
    results = [(case, wanted, exported(case.feeds)) for case, wanted in runnable]
    result = compare_results(results, tolerance=tolerance)
    for error in result.outputs:
        logger.info("%s: max abs error %.2g (%s)", error.output, error.max_abs, error.case)
    return result.require("ONNX against eager PyTorch")


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

    call: Any = source.module
    positional = 0
    if isinstance(source.module, torch.export.ExportedProgram):
        positional = len((source.module.example_inputs or ((), {}))[0])
        call = source.module.module()

    def run(feeds: Arrays) -> Arrays:
        tensors = {name: torch.from_numpy(feeds[name]) for name in source.example_inputs}
        with torch.inference_mode():
            names = list(tensors)
            try:
                result = call(*(tensors[n] for n in names[:positional]), **{n: tensors[n] for n in names[positional:]})
            except IndexError as error:  # an embedding that is smaller than the ids that were tried
                largest = max(int(array.max()) for array in feeds.values() if array.size and array.dtype.kind == "i")
                raise InputError(
                    f"The module fails on its own kind of input, integers up to {largest}: {error}. A module without "
                    "a config does not tell its vocabulary: have the factory return a raggedrt.ModelSource whose "
                    "example_inputs hold the largest id that the module takes."
                ) from error
        if isinstance(result, torch.Tensor):
            result = (result,)
        values = result.values() if isinstance(result, dict) else result
        return {name: value.detach().numpy() for name, value in zip(source.output_names, values, strict=True)}

    return run


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
