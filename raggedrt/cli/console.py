"""What the user sees: log lines `[I] …` and the running step on stderr, results on stdout."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Sequence
from typing import Any

import rich.console
import rich.markup
import rich.status

from raggedrt import progress
from raggedrt.tables import format_table

ROOT = logging.getLogger("raggedrt")
_SILENCE = logging.NullHandler()
"""On the root logger, so that Python prints no warnings of other libraries for want of a handler."""


class _LineHandler(logging.Handler):
    """Writes steps and warnings, with `-v` everything, as `[I] message` lines; on a terminal a step is a spinner."""

    def __init__(self) -> None:
        super().__init__()
        self._console = rich.console.Console(stderr=True, soft_wrap=True, highlight=False)
        self._status: rich.status.Status | None = None
        self._began = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING and not self._wanted(record):
            return
        text = record.getMessage()
        if record.name == progress.LOGGER.name:
            text = f"{text} ({time.monotonic() - self._began:.1f} s since start)"
        line = rich.markup.escape(f"[{record.levelname[0]}] {text}")
        if record.name == progress.LOGGER.name and self._console.is_terminal:
            self._spin(line)
        else:
            self._console.print(line)

    def _wanted(self, record: logging.LogRecord) -> bool:
        return record.name == progress.LOGGER.name or ROOT.isEnabledFor(logging.DEBUG)

    def _spin(self, line: str) -> None:
        if self._status is None:
            self._status = self._console.status(line)
            self._status.start()
        else:
            self._status.update(line)

    def end_step(self) -> None:
        """Remove the spinner."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def close(self) -> None:
        """Remove the spinner for good."""
        self.end_step()
        super().close()


def start_logging() -> None:
    """Show the log of `raggedrt` on stderr at level INFO. Libraries' Python warnings are shown with `-v` only."""
    stop_logging()
    ROOT.addHandler(_LineHandler())
    ROOT.setLevel(logging.INFO)
    ROOT.propagate = False
    logging.getLogger().addHandler(_SILENCE)
    # Warnings of other libraries are for their developers; ours are for the user.
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=r"raggedrt\b")
    warnings.showwarning = _log_warning


def _log_warning(message: Warning | str, category: type[Warning], *place: object, **more: object) -> None:
    ROOT.warning("%s", message)


def stop_logging() -> None:
    """Undo `start_logging`, before the last line of the process is written."""
    logging.getLogger().removeHandler(_SILENCE)
    for handler in _handlers():
        ROOT.removeHandler(handler)
        handler.close()


def _handlers() -> list[_LineHandler]:
    return [handler for handler in ROOT.handlers if isinstance(handler, _LineHandler)]


def set_verbose(value: bool) -> bool:
    """Callback of `-v`; what it returns is the option's value."""
    if value:
        ROOT.setLevel(logging.DEBUG)
        warnings.simplefilter("default")
        warnings.showwarning = _log_warning
    return value


def set_quiet(value: bool) -> bool:
    """Callback of `-q`; what it returns is the option's value."""
    if value:
        ROOT.setLevel(logging.WARNING)
    return value


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print an aligned table on stdout."""
    print_text(format_table(columns, rows))


def print_text(text: str) -> None:
    """Print `text` on stdout as it is; the step that was running is over."""
    for handler in _handlers():
        handler.end_step()
    print(text)


def print_json(data: Any) -> None:
    """Print `data` on stdout as JSON."""
    print_text(json.dumps(data, indent=2))
