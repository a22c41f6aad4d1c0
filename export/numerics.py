"""Comparing two ways of computing the same outputs, over every kind of padding, at the places that are valid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raggedrt.errors import InputError, NumericsError, RaggedRTError

logger = logging.getLogger(__name__)
Arrays = Mapping[str, NDArray[Any]]
Runner = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Tolerance:
    """Accepts |candidate - reference| <= atol + rtol * |reference|."""

    atol: float
    rtol: float


# Keyed by the dtype of the output. Six layers of float32 give about 5e-6 between two orders of summation.
DEFAULT_TOLERANCES: Mapping[str, Tolerance] = {
    "float32": Tolerance(1e-4, 1e-4),
    "float64": Tolerance(1e-4, 1e-4),  # weights are float32 where only an output is float64
    "float16": Tolerance(2e-2, 2e-2),
    "bfloat16": Tolerance(5e-2, 5e-2),
}
EXACT = Tolerance(0.0, 0.0)


@dataclass(frozen=True)
class Case:
    """One call: its name, the arrays to feed, and which slots are valid.

    Attributes:
        name: Kind of padding.
        feeds: Input name to array.
        valid: bool [batch, sequence].
    """

    name: str
    feeds: dict[str, NDArray[Any]]
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class OutputError:
    """The worst difference of one output over all cases.

    Attributes:
        output: Name of the output.
        max_abs: Largest absolute difference at a valid place.
        max_rel: `max_abs` divided by the largest magnitude of the reference.
        case: The case it occurred in.
        at: Its coordinate in that case's array.
        passed: Whether every valid place of every case is within the tolerance.
        atol: Absolute tolerance that was applied.
        rtol: Relative tolerance that was applied.
    """

    output: str
    max_abs: float
    max_rel: float
    case: str
    at: tuple[int, ...]
    passed: bool
    atol: float
    rtol: float


@dataclass(frozen=True)
class Comparison:
    """The result of comparing over several cases.

    Attributes:
        outputs: One entry per output.
        cases: Names of the cases that were run.
        skipped: Why nothing was compared, or None.
    """

    outputs: tuple[OutputError, ...]
    cases: tuple[str, ...]
    skipped: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every output is within its tolerance (True where nothing was compared)."""
        return all(error.passed for error in self.outputs)

    def require(self, what: str) -> Comparison:
        """Returns itself.

        Raises:
            NumericsError: An output is outside its tolerance.
        """
        bad = [error for error in self.outputs if not error.passed]
        if bad:
            worst = max(bad, key=lambda error: error.max_abs)
            raise NumericsError(
                f"{what}: output '{worst.output}' differs by {worst.max_abs:.3g} at {list(worst.at)} in the case "
                f"'{worst.case}', more than atol {worst.atol:g} + rtol {worst.rtol:g} allow "
                f"({len(bad)} of {len(self.outputs)} outputs are outside). "
                "Nothing was kept; raise --atol/--rtol only if this error is acceptable."
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """Returns plain dictionaries and lists."""
        return {"outputs": [asdict(e) for e in self.outputs], "cases": list(self.cases), "skipped": self.skipped}


def runnable_cases(cases: Sequence[Case], reference: Runner, *, sure_length: int = 1) -> list[tuple[Case, Arrays]]:
    """Returns the cases that the reference itself can run, with its results; the others are logged.

    A model whose position limit is not known may fail on a long row; that is no fault of what is compared with it.

    Args:
        cases: What to feed.
        reference: Computes what is right.
        sure_length: Length, in tokens, up to which a failure is an error.

    Raises:
        InputError: The reference fails on a short case, or on all of them.
    """
    results = []
    for case in cases:
        try:
            results.append((case, reference(case.feeds)))
        except (RuntimeError, IndexError, AssertionError, RaggedRTError) as error:
            shape = list(case.valid.shape)
            if max(shape) <= sure_length:
                raise InputError(f"The original model fails on a batch of shape {shape}: {error}") from error
            logger.warning("case '%s' left out: the original model fails on shape %s: %s", case.name, shape, error)
    if not results:
        raise InputError("The original model runs on none of the shapes tried; are its dynamic axes really dynamic?")
    return results


def compare_cases(
    cases: Sequence[Case], reference: Runner, candidate: Runner, *, tolerance: Tolerance | None = None
) -> Comparison:
    """Runs both over all cases and compares every output of the reference at the valid places.

    Args:
        cases: What to feed; several lengths, so that per-token outputs can be told from per-sequence ones.
        reference: Computes what is right.
        candidate: Computes what is checked; more outputs than the reference's are ignored.
        tolerance: For floating-point outputs; default by dtype.

    Raises:
        NumericsError: An output is missing, or differs in shape or dtype.
    """
    return compare_results(
        [(case, reference(case.feeds), candidate(case.feeds)) for case in cases], tolerance=tolerance
    )


def compare_results(pairs: Sequence[tuple[Case, Arrays, Arrays]], *, tolerance: Tolerance | None = None) -> Comparison:
    """Compares results that are at hand, as (case, reference, candidate); see `compare_cases`."""
    names = list(pairs[0][1]) if pairs else []
    outputs = tuple(_compare_output(name, pairs, tolerance) for name in names)
    return Comparison(outputs, tuple(case.name for case, _, _ in pairs))


def _compare_output(
    name: str, pairs: Sequence[tuple[Case, Arrays, Arrays]], tolerance: Tolerance | None
) -> OutputError:
    """Compares one output over all cases and keeps the worst."""
    axis = slot_axis([(case, wanted[name]) for case, wanted, _ in pairs])
    worst: OutputError | None = None
    for case, wanted, got in pairs:
        want = wanted[name]
        if name not in got:
            raise NumericsError(f"Output '{name}' is missing; the candidate gives {list(got)}.")
        have = got[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            raise NumericsError(
                f"Output '{name}' in the case '{case.name}' is {have.dtype}{list(have.shape)}, expected "
                f"{want.dtype}{list(want.shape)}."
            )
        if axis is not None:
            want, have = (np.moveaxis(array, axis, 1) for array in (want, have))
        where = valid_places(want, case.valid, per_token=axis is not None)
        error = difference(name, case.name, have, want, where, tolerance)
        if worst is None or (error.max_abs, not error.passed) > (worst.max_abs, not worst.passed):
            passed = error.passed and (worst is None or worst.passed)
            worst = OutputError(**{**asdict(error), "passed": passed})
        elif not error.passed:
            worst = OutputError(**{**asdict(worst), "passed": False})
    if worst is None:
        raise NumericsError(f"Output '{name}' was compared over no case.")
    return worst


def slot_axis(results: Sequence[tuple[Case, NDArray[Any]]]) -> int | None:
    """The axis of an output [batch, ...] that counts slots in every case; None where it has none.

    That is 1 but for keys and values that a decoder puts out for later calls, [batch, heads, slots, head size].
    """
    rank = min((array.ndim for _, array in results), default=0)
    if any(array.shape[:1] != case.valid.shape[:1] for case, array in results):
        return None
    numbers = range(1, rank)
    return next((n for n in numbers if all(array.shape[n] == case.valid.shape[1] for case, array in results)), None)


def valid_places(array: NDArray[Any], valid: NDArray[np.bool_], *, per_token: bool) -> NDArray[np.bool_]:
    """Returns a mask of the array's shape: its valid tokens, or the sequences that have a valid token."""
    keep = valid if per_token else valid.any(axis=1)
    if array.ndim < keep.ndim or array.shape[: keep.ndim] != keep.shape:
        return np.ones(array.shape, dtype=np.bool_)
    return np.broadcast_to(keep.reshape(keep.shape + (1,) * (array.ndim - keep.ndim)), array.shape)


def difference(
    output: str,
    case: str,
    have: NDArray[Any],
    want: NDArray[Any],
    where: NDArray[np.bool_],
    tolerance: Tolerance | None = None,
) -> OutputError:
    """Measures the worst difference of two arrays of one shape at the places `where`."""
    exact = want.dtype.kind in "iub"
    bound = EXACT if exact else tolerance or DEFAULT_TOLERANCES.get(want.dtype.name, DEFAULT_TOLERANCES["float32"])
    a, b = have.astype(np.float64), want.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    error = np.where(same | ~where, 0.0, np.where(np.isfinite(error), error, np.inf))
    magnitude = np.where(where & np.isfinite(b), np.abs(b), 0.0)
    passed = bool((error <= bound.atol + bound.rtol * magnitude).all())
    if not error.size:
        return OutputError(output, 0.0, 0.0, case, (), passed, bound.atol, bound.rtol)
    index = np.unravel_index(int(error.argmax()), error.shape)
    largest = float(error[index])
    relative = largest / max(float(magnitude.max()), float(np.finfo(np.float32).tiny))
    return OutputError(output, largest, relative, case, tuple(int(i) for i in index), passed, bound.atol, bound.rtol)
