"""Turns a loaded module into a `ModelSource`: its inputs, examples for tracing, axes and outputs."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raggedrt.errors import InputError
from raggedrt.models.catalog import INPUT_DEFAULTS, ModelAdapter
from raggedrt.models.contract import BATCH_AXIS, SEQUENCE_AXIS, ModelSource
from raggedrt.models.task_modules import TaskModule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_EXAMPLE_BATCH = 2
_EXAMPLE_LENGTH = 16  # tokens; 1 would be traced as a constant
_AXES: Mapping[int, str] = {0: BATCH_AXIS, 1: SEQUENCE_AXIS}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def input_names(adapter: ModelAdapter, config: Any, module: nn.Module) -> tuple[str, ...]:
    """Returns the adapter's inputs that this module's forward takes and the configuration uses.

    Raises:
        InputError: The forward takes no input_ids or no attention_mask.
    """
    parameters = inspect.signature(module.forward).parameters
    names = tuple(name for name in adapter.inputs if name in parameters)
    for name in ("input_ids", "attention_mask"):
        if name not in names:
            raise InputError(
                f"{type(module).__name__}: the forward has no parameter {name}, so it cannot be exported as a text "
                "model. Give a factory that returns a raggedrt.ModelSource."
            )
    types = getattr(config, "type_vocab_size", 0) or 0
    return tuple(name for name in names if name != "token_type_ids" or types > 1)


def example_inputs(names: Sequence[str], sizes: Mapping[str, int], limit: int | None) -> dict[str, torch.Tensor]:
    """Returns distinct int64 [batch, sequence] tensors that span each input's range of values.

    Args:
        names: Inputs, from `INPUT_DEFAULTS`.
        sizes: Number of values of input_ids and token_type_ids.
        limit: Longest sequence, in tokens.
    """
    length = min(_EXAMPLE_LENGTH, limit or _EXAMPLE_LENGTH)
    generator = torch.Generator().manual_seed(0)
    ranges = {"attention_mask": (1, 2), **{name: (0, sizes[name]) for name in sizes}}
    examples = {}
    for name in names:
        low, high = ranges[name]
        examples[name] = torch.randint(low, high, (_EXAMPLE_BATCH, length), generator=generator)
        examples[name][0, 0], examples[name][-1, -1] = low, high - 1
    return examples


def wrap_transformers(
    model: nn.Module, config: Any, adapter: ModelAdapter, limit: int | None
) -> tuple[TaskModule, dict[str, torch.Tensor]]:
    """Returns the model with plain inputs, giving `last_hidden_state` until told otherwise, and its example inputs."""
    parameters = inspect.signature(model.forward).parameters
    options = {"use_cache": False} if "use_cache" in parameters else {}
    sizes = {"input_ids": config.vocab_size, "token_type_ids": getattr(config, "type_vocab_size", 0) or 0}
    names = input_names(adapter, config, model)
    return TaskModule(model, ("last_hidden_state",), {**options, "return_dict": True}), example_inputs(
        names, sizes, limit
    )


def present_outputs(
    wrapped: TaskModule, examples: Mapping[str, torch.Tensor], outputs: Sequence[str], optional: Sequence[str]
) -> tuple[str, ...]:
    """Returns the outputs without those optional ones that the model does not give; runs it once to see.

    Raises:
        InputError: The model lacks an output that the task needs.
    """
    result = _run(wrapped.model, wrapped.call, examples)
    present = tuple(name for name in outputs if result.get(name) is not None)
    for name in outputs:
        if name not in present and name not in optional:
            raise InputError(
                f"{type(wrapped.model).__name__}: gives no output '{name}', only {', '.join(result)}. "
                "Choose another --task."
            )
    return present


def text_source(
    module: nn.Module, examples: Mapping[str, torch.Tensor], outputs: Sequence[str], *, long_length: int | None = None
) -> ModelSource:
    """Returns a source whose inputs all have a dynamic batch and sequence axis."""
    axes = {name: dict(_AXES) for name in examples}
    return ModelSource(module, examples, axes, tuple(outputs), long_length=long_length)


def in_dtype(module: Any, dtype: torch.dtype) -> Any:
    """Returns the caller's own module where it has this dtype already, else a converted copy of it."""
    if isinstance(module, torch.export.ExportedProgram):
        if dtype != torch.float32:
            raise InputError("--dtype applies to PyTorch modules; a torch.export program keeps its element types.")
        return module
    if all(tensor.dtype == dtype for tensor in module.state_dict().values() if tensor.is_floating_point()):
        return module
    return copy.deepcopy(module).to(dtype)


def source_in_dtype(source: ModelSource, dtype: torch.dtype) -> ModelSource:
    """Returns a source whose module and floating-point examples have this dtype."""
    examples = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in source.example_inputs.items()
    }
    return dataclasses.replace(source, module=in_dtype(source.module, dtype), example_inputs=examples)


def wrap_module(module: nn.Module) -> ModelSource:
    """Wraps any module whose forward takes only inputs of `INPUT_DEFAULTS`, as a factory may return it.

    Raises:
        InputError: The forward has other required parameters, or the size of the vocabulary cannot be told.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    names = [p.name for p in parameters if p.name in INPUT_DEFAULTS]
    unknown = [
        p.name
        for p in parameters
        if p.name not in INPUT_DEFAULTS and p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    tables = [table.num_embeddings for table in module.modules() if isinstance(table, nn.Embedding)]
    if unknown or "input_ids" not in names or not tables:
        signature = inspect.signature(module.forward)
        raise InputError(
            f"{type(module).__name__}: cannot tell which inputs to export it with (forward{signature}). Return "
            "raggedrt.ModelSource(module, example_inputs, dynamic_axes, output_names, mask_input) from the factory."
        )
    examples, result = _first_that_runs(module, names, sorted(set(tables), reverse=True))
    if isinstance(result, dict):
        return text_source(_DictOutputs(module, tuple(result)), examples, tuple(result))
    count = len(result) if isinstance(result, (tuple, list)) else 1
    return text_source(module, examples, [f"output_{i}" for i in range(count)] if count > 1 else ["output"])


def _first_that_runs(
    module: nn.Module, names: Sequence[str], tables: Sequence[int]
) -> tuple[Mapping[str, torch.Tensor], Any]:
    """Examples within the largest table that the ids may index: positions often have more rows than the vocabulary.

    Raises:
        InputError: It runs with none of them.
    """
    failure: IndexError | None = None
    for vocabulary in tables:
        sizes = {"input_ids": vocabulary, "token_type_ids": 2 if "token_type_ids" in names else 0}
        examples = example_inputs(names, sizes, None)
        try:
            return examples, _run(module, module, examples)
        except IndexError as error:
            failure = error
    raise InputError(
        f"{type(module).__name__}: fails on ids within each of its embedding tables ({failure}). Return "
        "raggedrt.ModelSource with example_inputs that it takes from the factory."
    ) from failure


def _run(module: nn.Module, call: Callable[..., Any], examples: Mapping[str, torch.Tensor]) -> Any:
    """What `call` gives for the examples, in PyTorch.

    Raises:
        IndexError: Ids are outside of an embedding table.
        InputError: The module's own code fails otherwise.
    """
    try:
        with torch.no_grad():
            return call(**examples)
    except (IndexError, MemoryError):
        raise
    except Exception as error:  # whatever the module's code raises
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in examples.items())
        raise InputError(
            f"{type(module).__name__}: the module fails in PyTorch itself, on example inputs {shapes}: "
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}. "
            "Make it run there first; a factory may return a raggedrt.ModelSource with example_inputs of its own."
        ) from error


class _DictOutputs(nn.Module):
    """Returns the values of a module's dictionary in a fixed order."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module = module
        self.names = names

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Takes int64 [batch, sequence] inputs."""
        given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        result = self.module(input_ids, **{name: value for name, value in given.items() if value is not None})
        return tuple(result[name] for name in self.names)
