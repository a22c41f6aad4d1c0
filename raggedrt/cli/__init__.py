"""The command line. `main` turns every outcome into one documented exit code and one paragraph on stderr."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from raggedrt.cli.signals import unwinding_signals
from raggedrt.errors import RaggedRTError

LOGGER = logging.getLogger("raggedrt")

EXTRAS = {
    "torch": "hf",
    "transformers": "hf",
    "tokenizers": "hf",
    "safetensors": "hf",
    "huggingface_hub": "hf",
    "onnxruntime": "cpu",
    "PIL": "draw",
    "polygraphy": "tensorrt-rtx",
}
"""The extra of the distribution that installs an optional module."""


def _describe_missing_module(error: BaseException) -> tuple[int, str]:
    extra = EXTRAS.get((getattr(error, "name", None) or "").partition(".")[0])
    if extra is None:
        return 1, f"internal error: {error}; run again with -v for the traceback"
    return 5, f"{error}; install it with: pip install 'raggedrt[{extra}]'"


def _describe_os_error(error: BaseException) -> tuple[int, str]:
    return 1, f"{error}; nothing was written, check the space and the permissions there"


FAILURES: tuple[tuple[type[BaseException], Callable[[BaseException], tuple[int, str]]], ...] = (
    (RaggedRTError, lambda error: (getattr(error, "exit_code", 1), str(error))),
    (
        MemoryError,
        lambda error: (1, f"out of memory {error}".rstrip() + "; nothing was written, free memory and retry"),
    ),
    (ModuleNotFoundError, _describe_missing_module),
    (OSError, _describe_os_error),
    (
        Exception,
        lambda error: (1, f"internal error: {type(error).__name__}: {error}; run again with -v for the traceback"),
    ),
)
"""Exit code and message of what escapes from a verb; the first row whose class fits counts."""


def _run(argv: Sequence[str] | None) -> int:
    from raggedrt.cli.app import app
    from raggedrt.cli.console import stop_logging

    try:
        app(None if argv is None else list(argv), prog_name="raggedrt")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - this is the one place where every failure becomes an exit code
        stop_logging()
        code, message = next(describe(error) for kind, describe in FAILURES if isinstance(error, kind))
        if LOGGER.isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        print(f"raggedrt: error: {message}", file=sys.stderr)
        return code
    finally:
        stop_logging()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's) and return its exit code."""
    with unwinding_signals() as received:
        try:
            code = _run(argv)
            sys.stdout.flush()
        except KeyboardInterrupt:
            code = 1
        except BrokenPipeError:  # whoever read our output has gone; a second failure at shutdown helps nobody
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
    if received:
        print("raggedrt: interrupted; temporary files are removed", file=sys.stderr)
        return 128 + received[0]
    return code
