from __future__ import annotations

import numpy as np
import pytest

from raggedrt.errors import InputError, NumericsError
from raggedrt.export.numerics import (
    DEFAULT_TOLERANCES,
    Arrays,
    Case,
    Tolerance,
    compare_cases,
    compare_results,
    runnable_cases,
)

pytestmark = pytest.mark.none


def cases() -> list[Case]:
    rng = np.random.default_rng(0)
    made = []
    for name, valid in (("right", [[1, 1, 1], [1, 0, 0]]), ("empty", [[1, 1, 1, 1], [0, 0, 0, 0]])):
        mask = np.array(valid, dtype=np.bool_)
        made.append(Case(name, {"x": rng.standard_normal((*mask.shape, 5)).astype(np.float32)}, mask))
    return made


def reference(feeds: Arrays) -> Arrays:
    x = feeds["x"]
    return {"tokens": x * 2, "rows": x[:, 0], "count": np.array([len(x)] * len(x))}


def test_equal_outputs_pass() -> None:
    result = compare_cases(cases(), reference, reference)
    assert result.passed
    assert [error.max_abs for error in result.outputs] == [0.0, 0.0, 0.0]
    assert result.cases == ("right", "empty")
    assert result.to_json()["outputs"][0]["output"] == "tokens"
    assert result.require("test") is result


@pytest.mark.parametrize(
    ("output", "index", "noticed"),
    [
        ("tokens", (0, 2, 3), True),
        ("tokens", (1, 0, 0), True),  # valid in the first case, in the empty row of the second
        ("rows", (0, 4), True),
    ],
)
def test_a_wrong_value_at_a_valid_place_fails(output: str, index: tuple[int, ...], noticed: bool) -> None:
    def wrong(feeds: Arrays) -> Arrays:
        result = {name: value.copy() for name, value in reference(feeds).items()}
        result[output][index] += 1e-2
        return result

    result = compare_cases(cases(), reference, wrong)
    assert result.passed is not noticed
    worst = next(error for error in result.outputs if error.output == output)
    assert worst.at == index
    assert worst.max_abs == pytest.approx(1e-2, rel=1e-3)
    with pytest.raises(NumericsError, match=f"test: output '{output}' differs by 0.01"):
        result.require("test")


@pytest.mark.parametrize(("output", "index"), [("tokens", (1, 2, 0)), ("rows", (1, 0))])
def test_padded_places_do_not_count(output: str, index: tuple[int, ...]) -> None:
    def wrong(feeds: Arrays) -> Arrays:
        result = {name: value.copy() for name, value in reference(feeds).items()}
        if feeds["x"].shape[1] == 4 or output == "tokens":
            result[output][index] = np.nan
        return result

    assert compare_cases(cases(), reference, wrong).passed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_on_one_side_fails(value: float) -> None:
    def wrong(feeds: Arrays) -> Arrays:
        result = {name: value.copy() for name, value in reference(feeds).items()}
        result["tokens"][0, 0, 0] = value
        return result

    assert not compare_cases(cases(), reference, wrong).passed
    assert not compare_cases(cases(), wrong, reference).passed
    assert compare_cases(cases(), wrong, wrong).passed


def test_integers_are_exact() -> None:
    def wrong(feeds: Arrays) -> Arrays:
        return {**reference(feeds), "count": reference(feeds)["count"] + 1}

    assert not compare_cases(cases(), reference, wrong, tolerance=Tolerance(10.0, 0.0)).passed


def test_a_failure_in_an_earlier_case_is_kept() -> None:
    first, second = cases()
    want = {"y": np.zeros((2, 2), np.float32)}
    large = {"y": np.full((2, 2), 1e6, np.float32)}
    pairs = [(first, want, {"y": want["y"] + 1}), (second, large, {"y": large["y"] + 8})]  # 8 is within rtol of 1e6
    assert not compare_results(pairs).passed
    assert not compare_results(pairs[::-1]).passed
    assert compare_results(pairs[1:]).passed


@pytest.mark.parametrize("change", ["shape", "dtype", "missing"])
def test_another_interface_is_an_error(change: str) -> None:
    def other(feeds: Arrays) -> Arrays:
        result = dict(reference(feeds))
        if change == "missing":
            del result["rows"]
        else:
            result["rows"] = result["rows"][:, :2] if change == "shape" else result["rows"].astype(np.float64)
        return result

    with pytest.raises(NumericsError, match="'rows'"):
        compare_cases(cases(), reference, other)


def test_no_default_tolerance_is_vacuous() -> None:
    assert max(tolerance.rtol for tolerance in DEFAULT_TOLERANCES.values()) < 0.1


def test_cases_that_the_reference_cannot_run() -> None:
    def limited(feeds: Arrays) -> Arrays:
        if feeds["x"].shape[1] > 3:
            raise IndexError("index out of range")
        return reference(feeds)

    assert [case.name for case, _ in runnable_cases(cases(), limited, sure_length=3)] == ["right"]
    with pytest.raises(InputError, match=r"fails on a batch of shape \[2, 4\]"):
        runnable_cases(cases(), limited, sure_length=4)
    with pytest.raises(InputError, match="none of the shapes"):
        runnable_cases(cases()[1:], limited)
