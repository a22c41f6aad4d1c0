"""Does a rewritten graph compute what the source computes? Every kind of padding, with and without the op library."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from raggedrt.batches import ragged_offsets
from raggedrt.errors import InputError, NumericsError
from raggedrt.export.numerics import (
    DEFAULT_TOLERANCES,
    Arrays,
    Case,
    Comparison,
    OutputError,
    Runner,
    Tolerance,
    compare_results,
    runnable_cases,
    slot_axis,
)
from raggedrt.export.widen import wide_feeds, wide_file
from raggedrt.plugins.bundle.model_facts import load_proto
from raggedrt.plugins.contract.io_roles import Role, TensorRole
from raggedrt.plugins.contract.op_definition import DOMAIN
from raggedrt.plugins.runtime.cuda_device import cuda_state
from raggedrt.plugins.runtime.ort import CUDA_PROVIDER, Providers, find_library, ort_session
from raggedrt.plugins.runtime.ort_errors import import_onnxruntime, translated
from raggedrt.plugins.runtime.ort_values import BFLOAT16_VALUE
from raggedrt.plugins.runtime.targets import configured_providers
from raggedrt.plugins.runtime.tensorrt_provider import TARGET as PROVIDER_TARGET
from raggedrt.plugins.tensorrt.flavour import FLAVOURS
from raggedrt.progress import step

LOGGER = logging.getLogger("raggedrt")
SERVED_BY = {False: "on function bodies", True: "with the op library"}
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclasses.dataclass(frozen=True)
class Verified:
    """The worst errors over all ways of running the graph, at valid places."""

    cases: tuple[str, ...]
    outputs: tuple[OutputError, ...]
    native: bool
    """Whether the op library was tried too."""
    device: str = "cpu"
    """Best device that it was compared on: `cpu` or the target's, as `cuda`."""
    reference: str = "the original model"
    """What it was compared with."""


def make_tolerance(atol: float | None, rtol: float | None, dtype: str = "fp32") -> Tolerance | None:
    """The tolerance for floating-point outputs, None (by each output's own type) where neither number is given.

    Where one number is given, the other is the default for `dtype` (`"fp32"` …).

    Raises:
        InputError: a tolerance is negative or not a number.
    """
    for name, value in (("atol", atol), ("rtol", rtol)):
        if value is not None and not 0 <= value < float("inf"):
            raise InputError(f"--{name} {value}: expected a number of at least 0")
    if atol is None and rtol is None:
        return None
    default = DEFAULT_TOLERANCES[DTYPES[dtype]]
    return Tolerance(default.atol if atol is None else atol, default.rtol if rtol is None else rtol)


def verify_rewrite(
    model: pathlib.Path,
    inputs: Sequence[TensorRole],
    outputs: Sequence[TensorRole],
    cases: Sequence[Case],
    reference: Runner,
    tolerance: Tolerance | None,
    target: str = "ort-cpu",
) -> Verified:
    """Run the rewritten `model` over `cases`, with function bodies and, where it exists, with the op library.

    The CPU runs it for every target, a bfloat16 model in float32; where the target's device is here, it runs it too.

    Args:
        model: the rewritten ONNX file.
        inputs: its inputs and what they mean.
        outputs: its outputs and what they mean.
        cases: what to feed; for ragged I/O those with right padding are used.
        reference: gives what is right; with ragged I/O it is asked for every sequence alone.
        tolerance: for floating-point outputs; None: by each output's type.
        target: where the model will run.

    Raises:
        NumericsError: a value is outside the tolerance, or a padded slot of an unpacked output is not zero.
    """
    wanted = runnable_cases(usable_cases(cases, inputs), reference)
    if _takes_packed(inputs):
        axes = {role.name: slot_axis([(case, result[role.name]) for case, result in wanted]) for role in outputs}
        wanted = [(case, each_alone(case, reference, outputs, axes)) for case, _ in wanted]
    getattr(reference, "release", lambda: None)()  # or the weights would be in memory twice
    comparisons = []
    for native in natives():
        results = graph_results(model, inputs, outputs, wanted, native=native)
        comparison = compare_results(results, tolerance=tolerance)
        comparisons.append(comparison.require(f"the rewritten model, {SERVED_BY[native]}, against the original"))
    tried = len(comparisons) > 1
    device = device_of(target)
    if device != "cpu":
        results = graph_results(model, inputs, outputs, wanted, native=True, providers=configured_providers(target))
        comparison = compare_wide(results, tolerance)
        comparisons.append(comparison.require(f"the rewritten model, on {device}, against the original"))
    return Verified(comparisons[0].cases, worst_errors(comparisons), tried, device)


def compare_wide(results: Sequence[tuple[Case, Arrays, Arrays]], tolerance: Tolerance | None) -> Comparison:
    """`compare_results` of bfloat16 outputs, as float32 arrays, with the tolerance of bfloat16."""
    wide = [(case, wide_feeds(want), wide_feeds(got)) for case, want, got in results]
    return compare_results(wide, tolerance=tolerance_of(results, tolerance))


def tolerance_of(results: Sequence[tuple[Case, Arrays, Arrays]], given: Tolerance | None) -> Tolerance | None:
    """The given tolerance, else that of bfloat16 where either side computes in it: widened arrays do not tell."""
    pairs = ((want, got) for _, want, got in results)
    narrow = any(array.dtype.name == "bfloat16" for pair in pairs for side in pair for array in side.values())
    return DEFAULT_TOLERANCES["bfloat16"] if narrow and given is None else given


ENGINES_ELSEWHERE = {
    PROVIDER_TARGET: "ONNX Runtime builds the TensorRT engine where it runs",
    **dict.fromkeys(FLAVOURS, "this graph was checked, and the engine made of it runs on its GPU"),
}
"""Targets whose engine is not what is verified, and why."""


def device_of(target: str) -> str:
    """The device that verifies for `target` besides the CPU: `cuda`, or `cpu` where there is none, with a warning."""
    if target in ENGINES_ELSEWHERE:
        LOGGER.warning(
            "verified on the CPU only: %s; run `raggedrt compare SOURCE BUNDLE` there", ENGINES_ELSEWHERE[target]
        )
    if target != "ort-cuda":
        return "cpu"
    problem = cuda_problem()
    if problem is None:
        return "cuda"
    LOGGER.warning(
        "verified on the CPU only, for %s; run `raggedrt compare SOURCE BUNDLE` on the machine that will run it",
        problem,
    )
    return "cpu"


def cuda_problem() -> str | None:
    """Why ONNX Runtime cannot run native kernels on a GPU here; None: it can."""
    problem = cuda_state().problem
    if problem is None and CUDA_PROVIDER not in import_onnxruntime().get_available_providers():
        problem = "ONNX Runtime has no CUDA provider (pip install 'raggedrt[cuda]' in its place)"
    if problem is None and find_library("auto") is None:
        problem = "no op library was found (raggedrt doctor --build-ops)"
    return problem


def each_alone(
    case: Case, reference: Runner, outputs: Sequence[TensorRole], axes: Mapping[str, int | None] | None = None
) -> Arrays:
    """What packed tokens mean: every sequence of a right-padded case alone, its outputs put where the case has them.

    `axes` says where outputs count slots, if not right behind the batch: there they come, as in what is packed.
    """
    results: list[Arrays | None] = []
    for row, count in enumerate(case.valid.sum(axis=1).tolist()):
        feeds = {name: _row_of(array, row, count, case) for name, array in case.feeds.items()}
        results.append(_slots_second(reference(feeds), axes or {}) if count else None)
    some = next((result for result in results if result is not None), None)
    if some is None:
        return reference(case.feeds)
    return {role.name: _rows_together(role, results, some[role.name], case) for role in outputs}


def _slots_second(result: Arrays, axes: Mapping[str, int | None]) -> Arrays:
    return {name: np.moveaxis(array, axes.get(name) or 0, 1 if axes.get(name) else 0) for name, array in result.items()}


def _row_of(array: Any, row: int, count: int, case: Case) -> Any:
    if array.shape[:2] == case.valid.shape:
        return array[row : row + 1, :count]
    return array[row : row + 1] if array.shape[:1] == case.valid.shape[:1] else array


def _rows_together(role: TensorRole, results: Sequence[Arrays | None], like: Any, case: Case) -> Any:
    if role.role not in (Role.PER_TOKEN, Role.PER_SEQUENCE):
        return like
    lead = case.valid.shape if role.role is Role.PER_TOKEN else case.valid.shape[:1]
    whole = np.zeros((*lead, *like.shape[len(lead) :]), like.dtype)
    for row, result in enumerate(results):
        if result is not None:
            part = result[role.name][0]
            if role.role is Role.PER_TOKEN:
                whole[row, : len(part)] = part
            else:
                whole[row] = part
    return whole


def natives() -> tuple[bool, ...]:
    """How the graph can be run here: on function bodies, and with the op library where there is one."""
    if find_library("auto") is not None:
        return (False, True)
    LOGGER.warning("verified on function bodies only: no op library was found; raggedrt doctor --build-ops builds it")
    return (False,)


def usable_cases(cases: Sequence[Case], inputs: Sequence[TensorRole]) -> list[Case]:
    """The cases that a graph with these inputs can be fed: packed tokens only mean right padding."""
    ragged = _takes_packed(inputs)
    return [case for case in cases if not ragged or right_padded(case)]


def graph_results(
    model: pathlib.Path,
    inputs: Sequence[TensorRole],
    outputs: Sequence[TensorRole],
    wanted: Sequence[tuple[Case, Arrays]],
    *,
    native: bool,
    providers: Providers | None = None,
) -> list[tuple[Case, Arrays, Arrays]]:
    """What the rewritten graph gives, as padded arrays, beside what is wanted; `providers` None: the CPU's.

    Raises:
        NumericsError: a padded slot of an unpacked output is not zero.
    """
    step("verifying over %d kinds of padding, %s", len(wanted), SERVED_BY[native])
    unpacked = _unpacked_outputs(model)
    if providers is None:
        with wide_file(model) as (runnable, _):
            session = ort_session(runnable, native=native)
    else:
        session = ort_session(model, native=native, providers=providers)
    call = _graph_call(session, inputs, outputs, ragged=_takes_packed(inputs))
    return [(case, want, _check_padded_slots(call(case), case, unpacked)) for case, want in wanted]


def _takes_packed(inputs: Sequence[TensorRole]) -> bool:
    return any(role.role is Role.CU_SEQLENS for role in inputs)


def right_padded(case: Case) -> bool:
    """Whether every row has its valid slots first: all that packed tokens can mean."""
    return bool((np.diff(case.valid.astype(np.int8), axis=1) <= 0).all())


def _graph_call(
    session: Any, inputs: Sequence[TensorRole], outputs: Sequence[TensorRole], *, ragged: bool
) -> Callable[[Case], Arrays]:
    """A function from a padded case to padded outputs, whatever I/O the graph has."""
    names = [role.name for role in outputs]

    def padded(case: Case) -> Arrays:
        feeds = {role.name: case.feeds[role.name] for role in inputs}
        return dict(zip(names, _run(session, names, feeds), strict=True))

    def packed(case: Case) -> Arrays:
        feeds = ragged_offsets(case.valid.sum(axis=1).tolist())
        for role in inputs:
            if role.name not in feeds:
                array = case.feeds[role.name]
                feeds[role.name] = array[case.valid] if role.role is Role.PER_TOKEN else array
        values = _run(session, names, feeds)
        return {role.name: _unpack(value, case, role) for role, value in zip(outputs, values, strict=True)}

    return packed if ragged else padded


def _run(session: Any, names: list[str], feeds: Arrays) -> Any:
    types = {value.name: value.type for value in session.get_inputs()}
    feeds = {n: wide_feeds({n: array})[n] if types[n] != BFLOAT16_VALUE else array for n, array in feeds.items()}
    with translated("the rewritten model failed in verification", {}, "This is a fault of RaggedRT, please report it."):
        return session.run(names, feeds)


def _unpack(packed: Any, case: Case, role: TensorRole) -> Any:
    if role.role is not Role.PER_TOKEN:
        return packed
    padded = np.zeros((*case.valid.shape, *packed.shape[1:]), packed.dtype)
    padded[case.valid] = packed
    return padded


def _unpacked_outputs(model: pathlib.Path) -> frozenset[str]:
    nodes = load_proto(model).graph.node
    return frozenset(node.output[0] for node in nodes if (node.domain, node.op_type) == (DOMAIN, "UnpackTokens"))


def _check_padded_slots(values: Arrays, case: Case, unpacked: frozenset[str]) -> Arrays:
    for name in unpacked & values.keys():
        if values[name][~case.valid].any():  # NaN counts as true
            raise NumericsError(
                f"output {name!r} is not zero at padded slots in the case {case.name!r}; this is a fault of RaggedRT, "
                "please report it with the model's architecture"
            )
    return values


def worst_errors(comparisons: Sequence[Comparison]) -> tuple[OutputError, ...]:
    """The worst error of each output."""
    columns = zip(*(comparison.outputs for comparison in comparisons), strict=True)
    return tuple(max(column, key=lambda error: error.max_abs) for column in columns)
