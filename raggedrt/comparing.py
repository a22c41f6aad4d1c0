"""`compare`: numerics of two models over every kind of padding."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from raggedrt.errors import NumericsError
from raggedrt.export.numerics import (
    Arrays,
    Case,
    OutputError,
    Tolerance,
    compare_results,
    difference,
    runnable_cases,
    valid_places,
)
from raggedrt.export.padding_cases import InputSpec, padding_cases
from raggedrt.export.widen import wide_feeds
from raggedrt.outputs import refuse_existing, refuse_input, write_json
from raggedrt.progress import step
from raggedrt.runners import OpenModel, RunnerOptions, bundle_dtype, open_model
from raggedrt.verification import make_tolerance, right_padded, tolerance_of

NOTE = (
    "Compared at valid places: padded slots are ignored, because the original leaves arbitrary values there and a "
    "packed model zeros; sequences without any valid token are ignored too."
)


@dataclasses.dataclass(frozen=True)
class ModelComparison:
    """Errors of the second model against the first, per output and kind of padding."""

    first: str
    second: str
    errors: tuple[OutputError, ...]
    """One entry per output and case."""
    skipped: tuple[str, ...]
    """Cases that the first model does not run."""
    columns = ("output", "case", "max abs error", "max rel error", "at", "within tolerance")
    note = NOTE

    @property
    def passed(self) -> bool:
        """Whether everything is within the tolerance."""
        return all(error.passed for error in self.errors)

    def rows(self) -> list[tuple[str, ...]]:
        """The table, one row per output and case."""
        return [
            (
                error.output,
                error.case,
                f"{error.max_abs:.2e}",
                f"{error.max_rel:.2e}",
                str(list(error.at)),
                "yes" if error.passed else "NO",
            )
            for error in self.errors
        ]

    def require(self) -> None:
        """Check that everything is within the tolerance.

        Raises:
            NumericsError: it is not.
        """
        bad = [error for error in self.errors if not error.passed]
        if bad:
            worst = max(bad, key=lambda error: error.max_abs)
            raise NumericsError(
                f"{self.second} differs from {self.first}: output {worst.output!r} by {worst.max_abs:.3g} at "
                f"{list(worst.at)} in the case {worst.case!r}, more than atol {worst.atol:g} + rtol {worst.rtol:g} "
                f"allow ({len(bad)} of {len(self.errors)} comparisons are outside)"
            )

    def to_json(self) -> dict[str, Any]:
        """The same as a dictionary."""
        return {
            "first": self.first,
            "second": self.second,
            "passed": self.passed,
            "errors": [dataclasses.asdict(error) for error in self.errors],
            "skipped": list(self.skipped),
            "note": self.note,
        }


def compare(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    task: str = "auto",
    atol: float | None = None,
    rtol: float | None = None,
    threads: int | None = None,
    report: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    allow_pickle: bool = False,
    trust_bundle: bool = False,
) -> ModelComparison:
    """Run two models on the same inputs: right-, left-, hole-padded, full, length-1 and empty rows.

    Args:
        first: the reference: PyTorch source, ONNX file or bundle.
        second: what is checked: the same kinds.
        task: task head of PyTorch sources.
        atol: absolute tolerance; default by the outputs' dtype.
        rtol: relative tolerance; default by the outputs' dtype.
        threads: threads of sessions, default all cores.
        report: also write the comparison to this JSON file.
        revision: revision of Hub models.
        allow_pickle: accept pickled sources, which can run code.
        trust_bundle: load libraries that lie inside bundles.

    Returns:
        The errors; `.require()` raises where one is outside the tolerance.

    Raises:
        InputError: a model is unusable.
        NumericsError: an output of the first is missing in the second, or differs in shape or dtype.
        TargetError: PyTorch, ONNX Runtime or a bundle's target is missing on this machine.
    """
    tolerance = make_tolerance(atol, rtol)
    dtype = bundle_dtype(os.fspath(first), os.fspath(second))
    options = RunnerOptions(task, revision, allow_pickle, threads, trust_bundle, dtype)
    if report is not None:
        refuse_input(pathlib.Path(report), pathlib.Path(first), pathlib.Path(second))
        refuse_existing(pathlib.Path(report), force=True)
    one, two = (open_model(os.fspath(text), options) for text in (first, second))
    cases = _cases(one, two)
    wanted = runnable_cases(cases, one.run)
    step("comparing over %d kinds of padding", len(wanted))
    narrow = [(case, want, two.run(case.feeds)) for case, want in wanted]
    tolerance = tolerance_of(narrow, tolerance)
    results = [(case, wide_feeds(want), wide_feeds(got)) for case, want, got in narrow]
    total = compare_results(results, tolerance=tolerance)
    errors = [error for output in total.outputs for error in _case_errors(output.output, results, tolerance)]
    skipped = tuple(case.name for case in cases if case.name not in total.cases)
    result = ModelComparison(one.label, two.label, tuple(errors), skipped)
    if report is not None:
        write_json(pathlib.Path(report), result.to_json())
    return result


def _case_errors(
    output: str, results: Sequence[tuple[Case, Arrays, Arrays]], tolerance: Tolerance | None
) -> Iterator[OutputError]:
    """The worst error of one output in each case; that it is per token shows over all cases together."""
    per_token = all(want[output].shape[:2] == case.valid.shape for case, want, _ in results)
    for case, want, got in results:
        where = valid_places(want[output], case.valid, per_token=per_token)
        yield difference(output, case.name, got[output], want[output], where, tolerance)


def _cases(one: OpenModel, two: OpenModel) -> list[Case]:
    """Cases that feed both: the first model says how values are made, the second adds what only it takes."""
    specs: dict[str, InputSpec] = {spec.name: spec for spec in (*two.specs, *one.specs)}
    pads = [model.pad_token_id for model in (one, two) if model.pad_token_id is not None]
    limits = [model.position_limit for model in (one, two) if model.position_limit is not None]
    cases = padding_cases(
        list(specs.values()), pad_token_id=pads[0] if pads else 0, position_limit=min(limits, default=None)
    )
    return [case for case in cases if right_padded(case) or not (one.ragged or two.ragged)]
