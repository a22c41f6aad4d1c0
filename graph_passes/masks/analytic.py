"""Masks that `RaggedAttention` takes as attributes, without tiles."""

from __future__ import annotations

import dataclasses

from raggedrt.graph_passes.masks.algebra import Everything, GlobalTokens, Or, Term, Window
from raggedrt.plugins.contract.abi import Feature

MAX_GLOBAL_TOKENS = 1024
"""Longest list of global positions that is an attribute; a longer one is a matter of tiles."""


@dataclasses.dataclass(frozen=True)
class AnalyticMask:
    """Mask attributes of `RaggedAttention`, with its meaning: globals are exempt from window and dilation only."""

    causal: bool = False
    window_left: int = -1
    window_right: int = -1
    dilation: int = 1
    global_tokens: tuple[int, ...] = ()

    def attributes(self) -> dict[str, int | tuple[int, ...]]:
        """By the op's attribute names."""
        return {
            "causal": int(self.causal),
            "window_left": self.window_left,
            "window_right": self.window_right,
            "dilation": self.dilation,
            "global_tokens": self.global_tokens,
        }

    @property
    def features(self) -> Feature:
        """Bits that the attributes need."""
        windowed = self.window_left >= 0 or self.window_right >= 0
        return (
            (Feature.CAUSAL if self.causal else Feature(0))
            | (Feature.WINDOW if windowed else Feature(0))
            | (Feature.DILATION if self.dilation > 1 else Feature(0))
            | (Feature.GLOBAL_TOKENS if self.global_tokens else Feature(0))
        )

    @property
    def narrows(self) -> bool:
        """A query that is no global token does not see every key on its allowed side."""
        return bool(self.features & (Feature.WINDOW | Feature.DILATION))

    @property
    def compares_positions(self) -> bool:
        """Something other than the order of tokens matters, so original positions are needed."""
        return bool(self.features & ~Feature.CAUSAL)


def analytic_form(pattern: Term, *, causal: bool) -> AnalyticMask | None:
    """The attributes of a canonical pattern; None where it needs tiles."""
    windows, positions = [], set[int]()
    for part in pattern.operands if isinstance(pattern, Or) else (pattern,):
        if isinstance(part, Window):
            windows.append(part)
        elif isinstance(part, GlobalTokens) and part.rows and part.columns:
            positions |= set(part.positions)
        elif isinstance(part, Everything):
            windows.append(Window())
        else:
            return None
    if len(windows) != 1 or len(positions) > MAX_GLOBAL_TOKENS:
        return None
    window = windows[0]
    return AnalyticMask(causal, window.left, window.right, window.dilation, tuple(sorted(positions)))
