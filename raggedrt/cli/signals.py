"""SIGINT and SIGTERM unwind the stack, so that whoever holds temporary files removes them."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

RETRY_SECONDS = 0.05
IMPORT_MACHINERY = "<frozen importlib"


@contextlib.contextmanager
def unwinding_signals() -> Iterator[list[int]]:
    """While active, SIGINT and SIGTERM raise KeyboardInterrupt in the main thread; yields the signals received.

    During an import the exception waits: extension modules that are being initialised call Python from C++ where an
    exception ends the process on the spot, and temporary files would stay.
    """
    received: list[int] = []

    def unwind(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGALRM:
            received.append(number)
        if _importing(frame):
            signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
        else:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # Python sets handlers nowhere else
        yield received
        return
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    previous = {number: signal.signal(number, unwind) for number in handled}
    try:
        yield received
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(IMPORT_MACHINERY):
            return True
        frame = frame.f_back
    return False
