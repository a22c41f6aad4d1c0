"""Test cases of BlockMask."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from raggedrt.plugins.contract.mask_rules import UNBOUNDED, Clauses, Rule, causal, columns, encode, rows, window
from raggedrt.plugins.contract.op_definition import ElementType
from raggedrt.plugins.ops.arrays import Array, Attributes
from raggedrt.plugins.ops.case import Case, Group

_INT32 = (ElementType.INT32,)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of one call; calling it generates the inputs."""

    length: int = 45
    listed: tuple[int, int, int] | None = None
    """Shape of `blocks`."""
    own: tuple[int, ...] | None = None
    """Lengths of the sequences."""

    def __call__(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> dict[str, Array]:
        """Inputs by name."""
        inputs: dict[str, Array] = {"max_seqlen": np.zeros(self.length, np.float32)}
        if self.listed is not None:
            inputs["blocks"] = rng.integers(-2, 9, self.listed).astype(np.int32)
        if self.own is not None:
            inputs["cu_seqlens"] = np.concatenate([[0], np.cumsum(self.own)]).astype(np.int32)
        return inputs


def _row(name: str, group: Group, clauses: Clauses, sizes: Sizes | None = None, block_size: int = 8) -> Case:
    attributes: Attributes = {"block_size": block_size, "rules": encode(clauses)}
    return Case(name, group, sizes or Sizes(), attributes, element_types=_INT32)


def _bigbird(block_size: int) -> Clauses:
    """Three neighbours, the first and the last block."""
    ends = [(0, 1), (-1, UNBOUNDED)]
    edges = [make(*end, unit=block_size) for make in (rows, columns) for end in ends]
    return [[window(1, 1, unit=block_size), *edges]]


_LONGFORMER: Clauses = [[window(6, 6), rows(0, 1), columns(0, 1)]]
_OWN = (45, 1, 0, 16, 30)

CASES = (
    _row("full", Group.CORRECTNESS, []),
    _row("causal", Group.CORRECTNESS, [[causal()]]),
    _row("window", Group.CORRECTNESS, [[window(5, 3)]]),
    _row("window_causal", Group.CORRECTNESS, [[window(9, -1)], [causal()]]),
    _row("block_size_16", Group.CORRECTNESS, [[window(5, 3)]], block_size=16),
    _row("block_size_24", Group.CORNER, [[window(5, 3), columns(-3, -1)]], block_size=24),
    _row("window_global", Group.CORRECTNESS, _LONGFORMER),
    _row("window_global_causal", Group.CORRECTNESS, [*_LONGFORMER, [causal()]]),
    _row("dilated", Group.CORRECTNESS, [[window(12, 12, dilation=4)]]),
    _row("strided", Group.CORRECTNESS, [[window(3, 0), columns(3, UNBOUNDED, step=4)], [causal()]]),
    _row("chunked", Group.CORRECTNESS, [[window(0, 0, unit=10)], [causal()]]),
    _row("prefix", Group.CORRECTNESS, [[causal(), columns(0, 11)]]),
    _row("not_itself", Group.CORNER, [[Rule(distance=(-UNBOUNDED, -1, 1)), Rule(distance=(1, UNBOUNDED, 1))]]),
    _row("from_the_end", Group.CORRECTNESS, [[rows(-2, UNBOUNDED), columns(-7, -2), window(1, 1)]]),
    _row("bigbird", Group.CORRECTNESS, _bigbird(8), Sizes(listed=(2, 6, 2))),
    _row("bigbird_own_lengths", Group.CORRECTNESS, _bigbird(8), Sizes(listed=(1, 9, 2), own=_OWN)),
    _row("listed_alone", Group.CORRECTNESS, [], Sizes(listed=(3, 4, 2))),
    _row("listed_causal", Group.CORNER, [[window(0, 0)], [causal()]], Sizes(listed=(2, 6, 3))),
    _row("listed_none", Group.CORNER, [[causal()]], Sizes(listed=(1, 0, 0))),
    _row("own_lengths", Group.CORRECTNESS, [[window(3, 3), columns(-2, UNBOUNDED)]], Sizes(own=_OWN)),
    _row("nothing_visible", Group.CORNER, [[window(2, 2)], [Rule(distance=(5, 9, 1))]]),
    _row("union_is_full", Group.CORNER, [[causal(), Rule(distance=(0, UNBOUNDED, 1))]]),
    _row("length_1", Group.CORNER, _LONGFORMER, Sizes(1)),
    _row("length_of_a_block", Group.CORNER, _LONGFORMER, Sizes(16)),
    _row("no_token", Group.CORNER, _LONGFORMER, Sizes(0)),
    _row("no_sequence", Group.CORNER, _LONGFORMER, Sizes(own=())),
    _row("bigbird_64", Group.PERFORMANCE, _bigbird(64), Sizes(4096), 64),
)  # fmt: skip
