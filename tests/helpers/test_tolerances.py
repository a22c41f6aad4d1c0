from __future__ import annotations

import re

import numpy as np
import pytest

from helpers.tolerances import EXACT, Tolerance, assert_close

pytestmark = pytest.mark.none
LOOSE = Tolerance(1e-6, 1e-5)


def _sample() -> np.ndarray:
    sample = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    sample[0, 1], sample[1, 2], sample[2, 3] = np.nan, np.inf, -np.inf
    return sample


def test_equal_arrays_pass_exactly() -> None:
    assert_close(_sample(), _sample(), EXACT)


def test_empty_arrays_pass() -> None:
    assert_close(np.zeros((0, 3)), np.zeros((0, 3)), EXACT)


@pytest.mark.parametrize("place", [(0, 1), (1, 2), (2, 3)])
def test_a_moved_nan_or_infinity_fails(place: tuple[int, int]) -> None:
    changed = _sample()
    changed[place] = 0
    with pytest.raises(AssertionError, match=re.escape(f"differs at 1 places, first {place}")):
        assert_close(changed, _sample(), LOOSE)


def test_an_error_fails_and_the_worst_place_is_named() -> None:
    changed = _sample()
    changed[0, 0] += 1e-3
    changed[2, 1] += 1e-2
    with pytest.raises(AssertionError, match=r"2 of 12 elements .* worst at \(2, 1\)"):
        assert_close(changed, _sample(), LOOSE)


def test_other_shape_or_dtype_fails() -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_close(_sample()[:1], _sample(), LOOSE)
    with pytest.raises(AssertionError, match="dtype"):
        assert_close(_sample().astype(np.float64), _sample(), LOOSE)


def test_a_tolerance_that_accepts_anything_is_refused() -> None:
    with pytest.raises(ValueError, match=r"below 0\.1"):
        assert_close(_sample(), _sample(), Tolerance(0, 0.1))
