"""The one comparison of arrays in the tests, and the tolerances that go with element types."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
LARGEST_RTOL = 0.1


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """An element passes when |actual - expected| <= atol + rtol * |expected|."""

    atol: float
    rtol: float


EXACT = Tolerance(0.0, 0.0)
ATTENTION: dict[np.dtype[Any], Tolerance] = {
    np.dtype(np.float32): Tolerance(2e-6, 2e-5),
    np.dtype(np.float16): Tolerance(1e-3, 2e-3),
    np.dtype(ml_dtypes.bfloat16): Tolerance(8e-3, 1.6e-2),
}
"""For results of order 1 that are computed in float32 and rounded once."""


def assert_close(actual: Array, expected: Array, tolerance: Tolerance, what: str = "result") -> None:
    """Shape and dtype are equal, inf and NaN are in the same places, everything else is within the tolerance."""
    if tolerance.rtol >= LARGEST_RTOL:
        raise ValueError(f"rtol {tolerance.rtol} would accept wrong results; it must be below {LARGEST_RTOL}")
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"{what}: dtype {actual.dtype}, expected {expected.dtype}"
    got, want = actual.astype(np.float64), expected.astype(np.float64)
    for kind, of in (("NaN", np.isnan), ("+inf", np.isposinf), ("-inf", np.isneginf)):
        differ = np.argwhere(of(got) != of(want))
        assert not len(differ), f"{what}: {kind} differs at {len(differ)} places, first {tuple(differ[0].tolist())}"
    finite = np.isfinite(want)
    error = np.where(finite, np.abs(np.where(finite, got, 0) - np.where(finite, want, 0)), 0)
    excess = error - (tolerance.atol + tolerance.rtol * np.where(finite, np.abs(want), 0))
    if excess.size and excess.max() > 0:
        worst = np.unravel_index(int(excess.argmax()), excess.shape)
        place = tuple(int(axis) for axis in worst)
        raise AssertionError(
            f"{what}: {np.count_nonzero(excess > 0)} of {excess.size} elements differ by more than {tolerance}; "
            f"worst at {place}: {got[worst]!r}, expected {want[worst]!r}, error {error[worst]:.3g}"
        )
