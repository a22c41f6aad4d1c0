"""`python -m raggedrt`."""

from __future__ import annotations

import sys

from raggedrt.cli import main

sys.exit(main())
