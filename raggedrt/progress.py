"""Long work says what it is doing through one logger; who shows it, and how, is the caller's choice.

The command line shows it on stderr. A program that wants it adds a handler to the logger `raggedrt.progress`.
"""

from __future__ import annotations

import logging

LOGGER = logging.getLogger("raggedrt.progress")


def step(message: str, *values: object) -> None:
    """Announce the step that begins now, in the form of `logging`: `step("exporting %s", name)`."""
    LOGGER.info(message, *values)
