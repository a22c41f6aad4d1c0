"""Sources that are code or programs: `package.module:factory` and `.pt2` files."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from raggedrt.errors import InputError, RaggedRTError
from raggedrt.models.contract import BATCH_AXIS, SEQUENCE_AXIS, ModelSource

if TYPE_CHECKING:
    from pathlib import Path

    import torch

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_factory(source: str) -> bool:
    """Says whether `source` has the form `package.module:function`."""
    return _FACTORY.fullmatch(source) is not None


def call_factory(source: str) -> Any:
    """Imports the module (the current directory is searched too) and calls the function without arguments.

    Raises:
        InputError: No such module or function, or the function fails.
    """
    module_name, _, attribute = source.partition(":")
    searched = os.getcwd() not in sys.path
    if searched:
        sys.path.insert(0, os.getcwd())
    try:
        value: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{source}: expected `package.module:function` that can be imported from here ({error}). "
            "Check the spelling, or install the package."
        ) from error
    finally:
        if searched:
            sys.path.remove(os.getcwd())
    if not callable(value):
        raise InputError(f"{source}: expected a function, found {type(value).__name__}.")
    try:
        return value()
    except (RaggedRTError, MemoryError):
        raise
    except Exception as error:  # somebody else's code
        raise InputError(f"{source}: the factory failed: {type(error).__name__}: {error}") from error


def weights_digest(name: str, module: torch.nn.Module) -> str:
    """Returns the sha256 (hex) over a factory's name and the module's tensors."""
    import torch

    total = hashlib.sha256(name.encode())
    for key, tensor in sorted(module.state_dict().items()):
        total.update(f"{key}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return total.hexdigest()


def load_program(path: Path) -> tuple[ModelSource, int | None]:
    """Loads a `.pt2` program; the caller has asked for permission to unpickle.

    Returns:
        The source, and the longest sequence that the program's own range constraints allow (tokens), if they say one.

    Raises:
        InputError: Not a program, or one with inputs that are not plain tensors.
    """
    import torch

    with contextlib.suppress(ImportError):  # its import registers the output classes that a program may return
        import transformers.modeling_outputs  # noqa: F401
    noisy = logging.getLogger("torch.export")
    level = noisy.level
    noisy.setLevel(logging.CRITICAL)  # torch prints a traceback of its own before it raises
    try:
        program = torch.export.load(str(path))
    except MemoryError:
        raise
    except Exception as error:  # damaged archives surface as many kinds
        raise InputError(
            f"{path}: cannot be read as a torch.export program ({type(error).__name__}: {error})."
        ) from error
    finally:
        noisy.setLevel(level)
    args, kwargs = program.example_inputs or ((), {})
    names = list(program.graph_signature.user_inputs)
    values = [*args, *kwargs.values()]
    if len(names) != len(values) or not all(isinstance(value, torch.Tensor) for value in values):
        raise InputError(f"{path}: expected a program with example inputs that are plain tensors, for {names}.")
    examples = {str(name): value.clone() for name, value in zip(names, values, strict=True)}
    mask = next((name for name in examples if "mask" in name), None)
    axes, limit = _dynamic_axes(program)
    return ModelSource(program, examples, axes, _output_names(program), mask), limit


def _dynamic_axes(program: Any) -> tuple[dict[str, dict[int, str]], int | None]:
    """Reads which axes are symbolic (the first two are named as everywhere else) and the limit of the second."""
    import torch

    wanted = set(program.graph_signature.user_inputs)
    axes: dict[str, dict[int, str]] = {}
    common = {0: BATCH_AXIS, 1: SEQUENCE_AXIS}
    limits: list[int] = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in wanted:
            shape = node.meta["val"].shape
            dynamic = [axis for axis, size in enumerate(shape) if isinstance(size, torch.SymInt)]
            axes[node.name] = {axis: common.get(axis, str(shape[axis])) for axis in dynamic}
            ranges = [program.range_constraints.get(shape[axis].node.expr) for axis in dynamic if axis == 1]
            limits += [int(found.upper) for found in ranges if found is not None and found.upper.is_finite]
    return axes, min(limits, default=None)


def _output_names(program: Any) -> list[str]:
    """Takes the keys of a returned dictionary or model output, else numbers the outputs."""
    spec = program.call_spec.out_spec
    keys = spec.context if spec is not None and isinstance(spec.context, list) else []
    count = len(program.graph_signature.user_outputs)
    if len(keys) == count and all(isinstance(key, str) for key in keys):
        return list(keys)
    return [f"output_{index}" for index in range(count)] if count > 1 else ["output"]
