"""RaggedRT: transformers in ONNX Runtime and TensorRT without time spent on padding.

Names are loaded on first use, so that `import raggedrt` needs neither torch nor onnxruntime.
"""

from __future__ import annotations

import importlib
import types
from typing import TYPE_CHECKING, Any

import raggedrt.export as _export_package

if TYPE_CHECKING:
    from raggedrt.benchmarking import bench
    from raggedrt.building import build
    from raggedrt.comparing import compare
    from raggedrt.converting import convert
    from raggedrt.diagnosing import doctor
    from raggedrt.errors import FeatureError, InputError, NumericsError, RaggedRTError, TargetError
    from raggedrt.exporting import export
    from raggedrt.inspecting import inspect
    from raggedrt.models.contract import ModelSource
    from raggedrt.plugins.bundle.reader import Bundle
    from raggedrt.plugins.runtime.library import op_library_path
    from raggedrt.plugins.runtime.ort import ort_session
    from raggedrt.plugins.runtime.session import Session
    from raggedrt.rewriting import rewrite
    from raggedrt.running import run
    from raggedrt.shipping import ship
    from raggedrt.version import __version__

__all__ = [
    "Bundle",
    "FeatureError",
    "InputError",
    "ModelSource",
    "NumericsError",
    "RaggedRTError",
    "Session",
    "TargetError",
    "__version__",
    "bench",
    "build",
    "compare",
    "convert",
    "doctor",
    "export",
    "inspect",
    "op_library_path",
    "ort_session",
    "rewrite",
    "run",
    "ship",
]

_HOME = {
    "Bundle": "raggedrt.plugins.bundle.reader",
    "FeatureError": "raggedrt.errors",
    "InputError": "raggedrt.errors",
    "ModelSource": "raggedrt.models.contract",
    "NumericsError": "raggedrt.errors",
    "RaggedRTError": "raggedrt.errors",
    "Session": "raggedrt.plugins.runtime.session",
    "TargetError": "raggedrt.errors",
    "__version__": "raggedrt.version",
    "bench": "raggedrt.benchmarking",
    "build": "raggedrt.building",
    "compare": "raggedrt.comparing",
    "convert": "raggedrt.converting",
    "doctor": "raggedrt.diagnosing",
    "inspect": "raggedrt.inspecting",
    "op_library_path": "raggedrt.plugins.runtime.library",
    "ort_session": "raggedrt.plugins.runtime.ort",
    "rewrite": "raggedrt.rewriting",
    "run": "raggedrt.running",
    "ship": "raggedrt.shipping",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'raggedrt' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _ExportPackage(types.ModuleType):
    """`raggedrt.export` is a package and a verb: the import system binds the package, so the package is callable."""

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """See `raggedrt.exporting.export`."""
        return importlib.import_module("raggedrt.exporting").export(*args, **keywords)


_export_package.__class__ = _ExportPackage
