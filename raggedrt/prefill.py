"""Graphs for calls that start without a cache: the original runs on empty ones, the rewritten has no such input."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from raggedrt.export.numerics import Arrays, Runner
from raggedrt.graph_passes.caches import leave_out_empty_caches
from raggedrt.graph_passes.graph_inputs import cache_axis


@dataclasses.dataclass(frozen=True)
class EmptyCache:
    """An input that was left out: zero tokens of earlier calls.

    Attributes:
        name: of the input.
        dtype: its element type.
        dims: static dimensions, zero tokens, and None for the batch.
    """

    name: str
    dtype: np.dtype[np.generic]
    dims: tuple[int | None, ...]

    def array(self, batch: int) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        """The cache of a batch."""
        return np.zeros([batch if dim is None else dim for dim in self.dims], self.dtype)


def leave_out_caches(model: ir.Model) -> list[EmptyCache]:
    """Make the graph one for calls without a cache, in place; returns what it does not ask for any more.

    Raises:
        InputError: the graph has no cache, or reads one otherwise than attention does.
    """
    before = [(value, cache_axis(value)) for value in model.graph.inputs]
    caches = [
        EmptyCache(
            value.name or "",
            np.dtype(np.float32) if value.dtype is None else value.dtype.numpy(),
            tuple(
                0 if number == axis else dim if isinstance(dim, int) else None
                for number, dim in enumerate(value.shape or ())
            ),
        )
        for value, axis in before
        if axis is not None
    ]
    leave_out_empty_caches(model.graph, prefill=True)
    return caches


def started_empty(run: Runner, caches: list[EmptyCache]) -> Runner:
    """Run the original on empty caches."""

    def on_empty_caches(feeds: Arrays) -> Arrays:
        batch = len(next(iter(feeds.values())))
        return run({**feeds, **{cache.name: cache.array(batch) for cache in caches}})

    return on_empty_caches
