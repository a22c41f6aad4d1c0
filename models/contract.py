"""The contract between whatever a model comes from and the exporter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from raggedrt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

BATCH_AXIS = "batch"
SEQUENCE_AXIS = "sequence"


@dataclass(frozen=True)
class ModelSource:
    """A PyTorch module together with everything that exporting it needs.

    Attributes:
        module: The module, called with the example inputs as keyword arguments; returns a tensor or a tuple of
            tensors in the order of `output_names`. For a `.pt2` source it is a `torch.export.ExportedProgram`.
        example_inputs: Name to tensor, each a distinct object. Their values matter only for integers: verification
            draws other values from the range that an example spans.
        dynamic_axes: Name to {axis: symbol}; axes that are not named are fixed at the example's size.
        output_names: One name per output.
        mask_input: The input that says which tokens are valid (non-zero), or None.
        long_length: Length in tokens that verification also tries, for a module that computes in another way from
            some length on; None: the usual lengths do.
    """

    module: Any
    example_inputs: Mapping[str, torch.Tensor]
    dynamic_axes: Mapping[str, Mapping[int, str]]
    output_names: Sequence[str]
    mask_input: str | None = "attention_mask"
    long_length: int | None = None

    def __post_init__(self) -> None:
        """Check what would otherwise fail late or, worse, pass silently.

        Raises:
            InputError: Two inputs share one tensor, or a name does not belong to an input.
        """
        if not self.example_inputs or not self.output_names:
            raise InputError("ModelSource needs at least one example input and one output name.")
        seen: dict[int, str] = {}
        for name, tensor in self.example_inputs.items():
            other = seen.setdefault(id(tensor), name)
            if other != name:  # torch.export would take both for one input, and the graph would ignore the second
                raise InputError(
                    f"ModelSource: the example inputs '{other}' and '{name}' are the same tensor object; "
                    "torch.export would merge them into one input. Give each input its own tensor."
                )
        for name in self.dynamic_axes:
            if name not in self.example_inputs:
                raise InputError(f"ModelSource: dynamic_axes names '{name}', which is not among {list(seen.values())}.")
        if self.mask_input is not None and self.mask_input not in self.example_inputs:
            object.__setattr__(self, "mask_input", None)


@dataclass(frozen=True)
class ResolvedSource:
    """A SOURCE of the command line, found, checked and (for PyTorch) loaded.

    Attributes:
        kind: What `model` is made of; "onnx" means only `path` is set.
        model: What to export; None for an ONNX file.
        path: The directory or file it came from; None for a factory.
        tokenizer_dir: Directory that holds tokenizer files, if there is one.
        digest: sha256 (hex) of the model's files, or of the weights for a factory.
        position_limit: Longest sequence the model can read, in tokens; None when unknown or unlimited.
        pad_token_id: Token id of padded slots.
        input_defaults: Value that fills an optional input which the caller leaves out.
        description: One line for people.
        task: The task that was chosen; None for an ONNX file.
        truncate_to: Length at which the source's own tokenizer settings cut texts, in tokens, if they say one.
    """

    kind: Literal["torch", "onnx", "pt2"]
    model: ModelSource | None
    path: Path | None
    digest: str
    description: str
    tokenizer_dir: Path | None = None
    position_limit: int | None = None
    pad_token_id: int = 0
    input_defaults: Mapping[str, int] = field(default_factory=dict)
    task: str | None = None
    truncate_to: int | None = None
