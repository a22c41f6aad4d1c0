"""Recover what an attention mask hides from the graph that computes it.

`explain_mask` is the entry: it cuts the mask's sub-graph out (extract), evaluates it (probe), reads it
symbolically (grammar) and accepts a `MaskSpec` only where every evidence agrees.
"""

from __future__ import annotations

from raggedrt.graph_passes.masks.explain import MaskExplanation, explain_mask
from raggedrt.graph_passes.masks.inputs import GraphInputs, MaskAxes, Polarity
from raggedrt.graph_passes.masks.spec import MaskSpec

__all__ = ["GraphInputs", "MaskAxes", "MaskExplanation", "MaskSpec", "Polarity", "explain_mask"]
