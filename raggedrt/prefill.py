"""Graphs for calls that start without a cache: the original runs on empty ones, the rewritten has no such input."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from raggedrt.errors import InputError
from raggedrt.export.numerics import Arrays, Runner
from raggedrt.graph_passes.caches import leave_out_empty_caches
from raggedrt.graph_passes.clean import clean
from raggedrt.graph_passes.graph_inputs import batch_axis, cache_axis, describe_inputs
from raggedrt.graph_passes.sites.find import understand


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
    graph = model.graph
    found = [(value, axis) for value in graph.inputs if (axis := cache_axis(value)) is not None]
    leave_out_empty_caches(graph, prefill=True)
    heads = functools.cache(lambda: _heads_of(model))
    return [_empty(value, axis, heads) for value, axis in found]


def _heads_of(model: ir.Model) -> dict[int, int]:
    """Length of the axes 1 and 3 of a cache, as far as all attention has the same heads."""
    clean(model)
    sites = understand(model.graph, describe_inputs(model.graph)).sites
    sizes = {(site.kv_num_heads, site.head_size, site.value_head_size) for site in sites}
    if len(sizes) != 1:
        return {}
    heads, size, value_size = sizes.pop()
    return {1: heads, 3: size} if size == value_size else {1: heads}


def _empty(value: ir.Value, axis: int, known: Callable[[], Mapping[int, int]]) -> EmptyCache:
    """`known` gives the heads and their size, which a graph of fused attention may leave to run time."""
    batch = batch_axis(value)
    dims: list[int | None] = []
    for number, dim in enumerate(value.shape or ()):
        if number in (axis, batch):
            dims.append(0 if number == axis else None)
        elif isinstance(dim, int):
            dims.append(dim)
        else:
            dims.append(known().get(number - batch))
            if dims[-1] is None:
                raise InputError(f"--prefill: the cache '{value.name}' does not say how long its axis {number} is")
    dtype = np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
    return EmptyCache(value.name or "", dtype, tuple(dims))


def started_empty(run: Runner, caches: list[EmptyCache]) -> Runner:
    """Run the original on empty caches."""

    def on_empty_caches(feeds: Arrays) -> Arrays:
        batch = len(next(iter(feeds.values())))
        return run({**feeds, **{cache.name: cache.array(batch) for cache in caches}})

    return on_empty_caches
