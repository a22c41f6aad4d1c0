"""Imposed sparsity: is the graph what was asked for, and how far does it move the outputs?"""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from raggedrt.errors import InputError
from raggedrt.export.input_specs import graph_input_specs
from raggedrt.export.numerics import Arrays, Case, Runner, Tolerance, compare_results, runnable_cases
from raggedrt.export.padding_cases import InputSpec, padding_cases, sample_case
from raggedrt.graph_passes.masks.spec import MaskSpec
from raggedrt.onnx_runner import onnx_file_runner
from raggedrt.verification import SERVED_BY, Verified, graph_results, natives, usable_cases, worst_errors

if TYPE_CHECKING:
    from raggedrt.graph_passes.pipeline import RewriteConfig
    from raggedrt.graph_passes.report import RewriteReport

LOGGER = logging.getLogger("raggedrt")
SAMPLE_LENGTHS = 64, 1024
"""Least and most tokens of the sample where no typical length is given."""
MOST_SLOTS = 2048
"""Longest row that is sampled: function bodies and the original hold all pairs of all heads; also the longest one whose
masks are compared slot by slot."""
Results = Sequence[tuple[Case, Arrays, Arrays]]


@dataclasses.dataclass(frozen=True)
class OutputShift:
    """How far one output moved, over the valid tokens (or sequences) of all cases.

    Attributes:
        output: its name.
        max_abs: largest absolute difference.
        mean_abs: mean absolute difference.
        cosine: mean over tokens of the cosine between the vectors before and after.
        least_cosine: the least of them.
    """

    output: str
    max_abs: float
    mean_abs: float
    cosine: float
    least_cosine: float


def is_imposed(report: RewriteReport) -> bool:
    """Whether a lowered site computes something else than the original."""
    return any(entry.sparsity is not None and entry.op is not None for entry in report.attention)


def sample_of(
    report: RewriteReport, specs: Sequence[InputSpec], typical: int | None, limit: int | None, pad_token_id: int
) -> Case:
    """A batch long enough for the imposed masks to hide something.

    Args:
        report: of the rewrite.
        specs: the inputs.
        typical: the length that the user calls typical.
        limit: longest sequence that the source allows.
        pad_token_id: token id at padded slots.
    """
    least, most = SAMPLE_LENGTHS
    length = typical or min(max(4 * max(spec.largest_constant for spec, _ in _pairs(report)), least), most)
    limits = [number for number in (limit, report.position_limit) if number]
    return sample_case(specs, min([length, MOST_SLOTS, *limits]), pad_token_id=pad_token_id)


def verify_imposed(
    model: pathlib.Path,
    report: RewriteReport,
    cases: Sequence[Case],
    reference: Runner,
    tolerance: Tolerance | None,
) -> Verified:
    """Check that the graph computes the imposed masks, and write into the report how far they move the outputs.

    What is right is what the function bodies give; the op library is held to that, and the bodies to the original on
    the cases where nothing that was imposed hides a token.

    Raises:
        NumericsError: a value is outside the tolerance.
    """
    wanted = runnable_cases(usable_cases(cases, report.inputs), reference)
    results = graph_results(model, report.inputs, report.outputs, wanted, native=False)
    unmoved = _hides_nothing(report)
    same: list[tuple[Case, Arrays, Arrays]] = []
    moving: list[tuple[Case, Arrays, Arrays]] = []
    for result in results:
        (same if unmoved(result[0]) else moving).append(result)
    comparisons = []
    if same:
        found = compare_results(same, tolerance=tolerance)
        comparisons.append(found.require(f"the rewritten model, {SERVED_BY[False]}, where nothing is hidden"))
    served = natives()
    if True in served:
        bodies = [(case, got) for case, _, got in results]
        native = graph_results(model, report.inputs, report.outputs, bodies, native=True)
        found = compare_results(native, tolerance=tolerance)
        comparisons.append(found.require(f"the rewritten model, {SERVED_BY[True]}, against its function bodies"))
    report.approximation = _distance(report, moving or results, moved=bool(moving))
    unhidden = ", ".join(case.name for case, _, _ in same) or "none"
    reference_text = f"its function bodies with the imposed masks; the original where they hide nothing ({unhidden})"
    names = tuple(case.name for case, _, _ in results)
    errors = worst_errors(comparisons) if comparisons else ()
    return Verified(names, errors, True in served, reference=reference_text)


def measure_approximation(
    before: ir.Model, after: ir.Model, report: RewriteReport, config: RewriteConfig, folder: pathlib.Path
) -> None:
    """Verify a rewritten ONNX model with imposed sparsity against the model that it was, and write it into the report.

    Args:
        before: the original.
        after: the rewritten model.
        report: of the rewrite.
        config: of the rewrite.
        folder: for files in passing.

    Raises:
        NumericsError: the op library and the function bodies differ.
    """
    if not is_imposed(report):
        return
    try:
        specs = graph_input_specs(before)
        cases = padding_cases(specs, position_limit=report.position_limit)
        cases.append(sample_of(report, specs, config.opt_length, None, 0))
    except InputError as error:
        LOGGER.warning("how far the outputs move was not measured: %s", error)
        return
    paths = folder / "before.onnx", folder / "after.onnx"
    for model, path in zip((before, after), paths, strict=True):
        ir.save(model, path, external_data=f"{path.name}.data")
    verify_imposed(paths[1], report, cases, onnx_file_runner(paths[0]), None)


def _distance(report: RewriteReport, results: Results, *, moved: bool) -> dict[str, Any]:
    """`RewriteReport.approximation`."""
    shifts = [_shift(name, results) for name in results[0][1]]
    if not moved:
        LOGGER.warning(
            "the imposed masks hide nothing in the samples that were run, so they say nothing about it; give typical "
            "shapes (--opt-shapes) of longer sequences"
        )
    return {
        "sparsity": sorted({entry.sparsity for entry in report.attention if entry.sparsity is not None}),
        "cases": [case.name for case, _, _ in results],
        "longest": max(int(case.valid.sum(axis=1).max()) for case, _, _ in results),
        "outputs": [dataclasses.asdict(shift) for shift in shifts],
    }


def _shift(name: str, results: Results) -> OutputShift:
    per_token = all(want[name].shape[:2] == case.valid.shape for case, want, _ in results)
    pairs = [_valid_rows(case, want[name], got[name], per_token=per_token) for case, want, got in results]
    differences = np.concatenate([np.abs(got - want).ravel() for want, got in pairs])
    cosines = np.concatenate([_cosines(want, got) for want, got in pairs])
    return OutputShift(
        name,
        float(differences.max(initial=0.0)),
        float(differences.mean()) if differences.size else 0.0,
        float(cosines.mean()) if cosines.size else 1.0,
        float(cosines.min(initial=1.0)),
    )


def _valid_rows(
    case: Case, want: NDArray[Any], got: NDArray[Any], *, per_token: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as [rows, features]: one row per valid token, or per sequence that has one."""
    keep = case.valid if per_token else case.valid.any(axis=1)
    rows = [array[keep] if array.shape[: keep.ndim] == keep.shape else array for array in (want, got)]
    want, got = (row.astype(np.float64).reshape(len(row), -1) for row in rows)
    return want, got


def _cosines(want: NDArray[np.float64], got: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row; equal rows have 1, also where they are zero."""
    if want.shape[1] < 2:  # one number has no direction: all rows together do
        want, got = want.reshape(1, -1), got.reshape(1, -1)
    product = (want * got).sum(axis=1)
    norms = np.linalg.norm(want, axis=1) * np.linalg.norm(got, axis=1)
    cosine = product / np.where(norms == 0.0, 1.0, norms)
    return np.asarray(np.where((want == got).all(axis=1), 1.0, cosine))


def _pairs(report: RewriteReport) -> list[tuple[MaskSpec, MaskSpec]]:
    """Distinct masks that were imposed on, after and before."""
    found = {
        json.dumps([entry.mask_spec, entry.original_mask_spec])
        for entry in report.attention
        if entry.original_mask_spec is not None and entry.op is not None
    }
    return [(MaskSpec.from_json(after), MaskSpec.from_json(before)) for after, before in map(json.loads, sorted(found))]


def _hides_nothing(report: RewriteReport) -> Callable[[Case], bool]:
    """Whether no imposed mask hides a token of a case from another."""
    pairs = _pairs(report)

    def unmoved(case: Case) -> bool:
        if case.valid.shape[1] > MOST_SLOTS:
            return False
        valid = case.valid[:, :, None] & case.valid[:, None, :]
        return all(
            np.array_equal(after.visible(case.valid) & valid, before.visible(case.valid) & valid)
            for after, before in pairs
        )

    return unmoved
