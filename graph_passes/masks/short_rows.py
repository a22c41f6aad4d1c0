"""Short rows are dense: some models change to full attention below a length."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from raggedrt.errors import InputError
from raggedrt.graph_passes.masks.pairs import BoolArray, Pairs


@dataclasses.dataclass(frozen=True)
class ShortRow:
    """Every pair of a row of at most `size` slots (padding included)."""

    name: ClassVar[str] = "short_row"
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"{self}: a row has at least 1 slot.")

    def holds(self, pairs: Pairs) -> BoolArray:
        """Whether each pair is visible."""
        return np.full((1,) * len(pairs.shape), pairs.length <= self.size)

    @property
    def words(self) -> str:
        """In prose."""
        return f"the row has at most {self.size} slots"

    def __str__(self) -> str:
        return f"{self.name}({self.size})"
