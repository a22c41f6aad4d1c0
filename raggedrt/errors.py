"""Every error RaggedRT raises on purpose; each class has one exit code (see EXIT_CODES in the README).

This module imports nothing, and every package may import it.
A message is one paragraph: the file or node, what was expected, what to do.
"""

from __future__ import annotations


class RaggedRTError(Exception):
    """The work failed for a reason that is not the input's (exit code 1)."""

    exit_code = 1


class InputError(RaggedRTError):
    """Wrong usage or unusable input, including a bundle that fails verification (exit code 2)."""

    exit_code = 2


class FeatureError(RaggedRTError):
    """A required feature matched nothing or stopped early (exit code 3)."""

    exit_code = 3


class NumericsError(RaggedRTError):
    """Outputs differ from the reference by more than the tolerance (exit code 4)."""

    exit_code = 4


class TargetError(RaggedRTError):
    """The target cannot be served on this machine; the message says what to install (exit code 5)."""

    exit_code = 5
