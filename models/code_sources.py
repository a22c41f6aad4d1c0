"""Sources that are code: `package.module:factory`."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from raggedrt.errors import InputError, RaggedRTError

if TYPE_CHECKING:
    from collections.abc import Mapping


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


def weights_digest(name: str, module: Any) -> str:
    """Returns the sha256 (hex) over a factory's name and the tensors of what it made: a module, or a program."""
    import torch

    total = hashlib.sha256(name.encode())
    tensors: Mapping[str, Any] = module.state_dict() if callable(module.state_dict) else module.state_dict
    for key, tensor in sorted(tensors.items()):
        total.update(f"{key}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return total.hexdigest()
