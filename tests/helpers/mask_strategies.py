"""Random masks for property tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from raggedrt.plugins.contract.mask_rules import UNBOUNDED, Rule

BLOCK_SIZES = st.sampled_from([8, 16, 24])
_BEGINS = st.sampled_from([0, 0, 0, 1, 5, 17, -1, -6, UNBOUNDED])
_ENDS = st.sampled_from([UNBOUNDED, UNBOUNDED, 0, 3, 20, -1, -4])
_STEPS = st.sampled_from([1, 1, 1, 2, 5])
_RANGES = st.tuples(_BEGINS, _ENDS, _STEPS)
_DISTANCES = st.tuples(
    st.sampled_from([-UNBOUNDED, -20, -3, 0, 2]), st.sampled_from([UNBOUNDED, 0, 4, 11, -1]), st.sampled_from([1, 1, 3])
)
RULES = st.builds(Rule, st.sampled_from([1, 1, 8, 5]), _RANGES, _RANGES, _DISTANCES)
CLAUSES = st.lists(st.lists(RULES, min_size=1, max_size=3), max_size=3)


@st.composite
def block_masks(draw: st.DrawFn, block_size: int) -> npt.NDArray[np.bool_]:
    """A mask bool [B, G, Sq, Sk] in which whole blocks are empty, full, or random."""
    batch, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    lengths = draw(st.tuples(st.integers(0, 40), st.integers(0, 40)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = rng.integers(0, 3, (batch, groups, *(-(-length // block_size) for length in lengths)))
    kind = kind.repeat(block_size, -2).repeat(block_size, -1)[..., : lengths[0], : lengths[1]]
    mask: Any = np.select([kind == 0, kind == 1], [False, True], rng.random(kind.shape) < 0.5)
    return np.asarray(mask, np.bool_)
