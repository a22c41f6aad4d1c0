"""Arguments of the kernels around attention (cuda/kernels/data_params.h), and running them in the emulator."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import dataclasses
import functools
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from helpers.device_attention import MaskTerms, TileList
from helpers.emulator import Grid, Kernels, Memory, Variant, aligned, registered

DATA_THREADS, SCAN_THREADS = 256, 1024
MAX_KEEP_SLOTS, MAX_RULES = 64, 32
_INT, _POINTER = ctypes.c_int, ctypes.c_void_p
Array = npt.NDArray[np.generic]
Fields = Mapping[str, object]


class MaskTensor(ctypes.Structure):
    _fields_ = (("data", _POINTER), ("bytes", _INT), ("is_float", _INT))


class PackingPlanParams(ctypes.Structure):
    _fields_ = (
        ("mask", MaskTensor),
        ("keep_mask", MaskTensor),
        ("keep_slots", _INT * MAX_KEEP_SLOTS),
        *((name, _INT) for name in ("keep_count", "rows", "slots", "capacity", "tokens")),
        *((name, _POINTER) for name in ("cu_seqlens", "token_index", "position", "key_position", "token_count")),
    )


class TokenCopyParams(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("source", "target", "token_index", "key_position", "token_of_slot")),
        *((name, _INT) for name in ("tokens", "slots", "row_bytes")),
    )


class WorkListParams(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("cu_seqlens_q", "cu_seqlens_k", "positions_q")),
        *((name, _INT) for name in ("sequences", "total_q", "total_k", "causal")),
        ("mask", MaskTerms),
        ("tiles", TileList),
        *((name, _INT) for name in ("splits", "most_tiles", "lanes", "capacity")),
        ("work_list", _POINTER),
    )


class TileListParams(ctypes.Structure):
    _fields_ = (
        ("rules", _INT * (11 * MAX_RULES)),
        *((name, _INT) for name in ("rule_count", "clauses", "length", "block_size")),
        ("blocks", _POINTER),
        *((name, _INT) for name in ("groups", "block_rows", "block_columns")),
        ("cu_seqlens", _POINTER),
        *((name, _INT) for name in ("sequences", "tile_rows")),
        *((name, _POINTER) for name in ("listed", "partial", "counts", "candidates", "candidate_index", "table")),
        ("candidate_count", _POINTER),
        *((name, _INT) for name in ("candidate_capacity", "table_size")),
        *((name, _POINTER) for name in ("tile_ptr", "tile_col", "tile_tag", "tile_bits")),
        *((name, _INT) for name in ("entry_capacity", "bitmap_capacity")),
        *((name, _POINTER) for name in ("entry_count", "bitmap_count")),
    )


class MergeParams(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("output1", "output2", "lse1", "lse2", "output", "lse")),
        *((name, _INT) for name in ("tokens", "heads", "head_size")),
    )


class CombineParams(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("split_output", "split_lse", "head_sink", "cu_seqlens_q", "output", "lse")),
        *((name, _INT) for name in ("sequences", "splits", "total_q", "num_heads", "value_head_size")),
    )


def fields(structure: type[ctypes.Structure], **values: object) -> ctypes.Structure:
    """A struct with these fields; an array stands for its address, None for a null pointer, a sequence for an array."""
    params = structure()
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            setattr(params, name, value.ctypes.data if value.size else None)
        elif isinstance(value, list | tuple):
            getattr(params, name)[: len(value)] = list(value)
        else:
            setattr(params, name, value)
    return params


def device_array(values: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Array:
    """A copy that begins as GPU memory does."""
    given = np.asarray(values, dtype)
    made = aligned(given.shape, given.dtype)
    made[...] = given
    return made


@dataclasses.dataclass
class Emulated:
    """Arrays of a call as device memory, and the schedules of its launches."""

    seed: int = 0
    memory: dict[str, tuple[Array, Memory]] = dataclasses.field(default_factory=dict)

    def input(self, name: str, values: npt.ArrayLike | None, dtype: npt.DTypeLike | None = None) -> Array | None:
        """Memory that kernels read; None stays None."""
        if values is None:
            return None
        return self._keep(name, device_array(values, dtype), Memory.INPUT)

    def output(self, name: str, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Memory that holds nothing yet."""
        return self._keep(name, aligned(shape, dtype), Memory.UNINITIALIZED)

    def zeros(self, name: str, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Memory that the host has cleared."""
        return self._keep(name, aligned(shape, dtype), Memory.IN_OUT)

    def _keep(self, name: str, array: Array, kind: Memory) -> Array:
        self.memory[name] = (array, kind)
        return array

    def run(self, *launches: tuple[Variant, ctypes.Structure, Grid]) -> None:
        """One launch after the other."""
        counts = _COUNTS.get()
        with registered(self.memory):
            for place, (variant, params, grid) in enumerate(launches):
                made = kernel(variant.source, tuple(sorted(variant.macros.items())))
                seed = self.seed + place if self.seed else 0
                counters = made.run(variant.entry, params, grid, seed=seed, profile=counts is not None)
                if counts is not None:
                    counts[variant.source.removesuffix(".cu")] = counters


_COUNTS: contextvars.ContextVar[dict[str, dict[str, int]] | None] = contextvars.ContextVar("_COUNTS", default=None)


@contextlib.contextmanager
def counted() -> Iterator[dict[str, dict[str, int]]]:
    """What each kernel does inside the block: counters by kernel, sectors of memory and bank conflicts among them."""
    counts: dict[str, dict[str, int]] = {}
    token = _COUNTS.set(counts)
    try:
        yield counts
    finally:
        _COUNTS.reset(token)


@functools.cache
def kernel(source: str, macros: tuple[tuple[str, str], ...]) -> Kernels:
    """One compiled kernel."""
    return Kernels([variant_of(source.removesuffix(".cu"), **dict(macros))])


def variant_of(family: str, **macros: str) -> Variant:
    """The kernel `family` with these macros."""
    parts = [family, *(value for _, value in sorted(macros.items()))]
    return Variant(f"{family}.cu", "_".join(parts), macros)
