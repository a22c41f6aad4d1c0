"""The toolchain's version, as the installed distribution states it."""

from __future__ import annotations

import importlib.metadata

__version__ = importlib.metadata.version("raggedrt")
