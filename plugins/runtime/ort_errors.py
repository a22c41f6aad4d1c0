"""ONNX Runtime at arm's length: imported on demand, its exceptions turned into ours with one clear line."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from raggedrt.errors import InputError, RaggedRTError, TargetError

LOAD_ERRORS: Mapping[str, type[RaggedRTError]] = {
    "Fail": InputError,
    "InvalidArgument": InputError,
    "InvalidGraph": InputError,
    "InvalidProtobuf": InputError,
    "NoModel": InputError,
    "NoSuchFile": InputError,
    "NotImplemented": InputError,
    "ValueError": InputError,
    "EPFail": TargetError,
    "EngineError": TargetError,
}
"""Our class by ONNX Runtime's while a model is loaded; anything else is a failure of the work itself."""
RUN_ERRORS: Mapping[str, type[RaggedRTError]] = {"InvalidArgument": InputError, "DeviceReset": TargetError}
"""The same while a model runs: the model was accepted, so only an argument can be the caller's fault."""

NO_DEVICE = re.compile(r"CUDA failure (35|100|101|802|803)\b")
"""While a session is made: driver too old, no device, none of that number, not ready, or a driver of another kind."""
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_SOURCE_PLACE = re.compile(
    r"(?:/\S+\.(?:cc|cpp|h|cu):\d+|(?<=:)\s*\S+\.(?:cc|cpp|h|cu):\d+)\s+\S[^\n]*?\)\s*(?:const\s*)?"
)


def import_onnxruntime() -> Any:
    """The `onnxruntime` module.

    Raises:
        TargetError: it is not installed or does not load.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise TargetError(
            f"ONNX Runtime does not load ({error}); install it with `pip install 'raggedrt[cpu]'` (or `[cuda]`)."
        ) from None
    return onnxruntime


@contextlib.contextmanager
def translated(doing: str, classes: Mapping[str, type[RaggedRTError]], advice: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises inside the block into one of our errors: "`doing`: what it said. `advice`"."""
    try:
        yield
    except RaggedRTError:
        raise
    except MemoryError as error:
        raise RaggedRTError(f"{doing}: not enough memory.") from error
    except _failures() as error:
        line = first_line(str(error))
        kind = classes.get(type(error).__name__, RaggedRTError)
        if NO_DEVICE.search(line) and classes is LOAD_ERRORS:
            raise TargetError(f"{doing}: {line}") from error
        if "allocate memory" in line or "bad_alloc" in line:
            raise RaggedRTError(f"{doing}: {line} Use smaller batches or shorter sequences.") from error
        raise kind(f"{doing}: {line} {advice}".strip()) from error


@functools.cache
def _failures() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [e for e in vars(state).values() if isinstance(e, type) and issubclass(e, Exception)]
    return (*own, RuntimeError, ValueError)


def first_line(message: str) -> str:
    """The first line of an ONNX Runtime message that says something, without status codes and source places."""
    text = _SOURCE_PLACE.sub(" ", _PREFIX.sub("", message.strip()))
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    line = lines[0] if lines else "no reason given"
    return line if line.endswith((".", "!", "?")) else f"{line}."
