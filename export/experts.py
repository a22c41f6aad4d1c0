"""Mixtures of experts: choose the computation that ONNX has operators for while a module is exported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

EXPORTABLE = "batched_mm"
"""One product per token and expert, with the expert's weights looked up; grouped products have no translation."""
_SETTING = "_experts_implementation"


@contextlib.contextmanager
def exportable_experts(module: Any) -> Iterator[None]:
    """Switch transformers' mixtures of experts over, and back afterwards."""
    modules = module.modules() if hasattr(module, "modules") else ()
    configs = {id(c): c for m in modules if getattr(c := getattr(m, "config", None), _SETTING, None) is not None}
    before = [(config, getattr(config, _SETTING)) for config in configs.values()]
    try:
        for config in configs.values():
            setattr(config, _SETTING, EXPORTABLE)
        yield
    finally:
        for config, setting in before:
            setattr(config, _SETTING, setting)
