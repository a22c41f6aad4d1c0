"""`bench`: a bundle against the unmodified model, on the lengths that requests have."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from raggedrt.baselines import Baseline, open_baselines
from raggedrt.diagnosing import machine_facts
from raggedrt.errors import InputError
from raggedrt.export.numerics import Case, Comparison, Tolerance
from raggedrt.options import choose
from raggedrt.outputs import refuse_existing, refuse_input, write_json
from raggedrt.plugins.bundle.reader import open_bundle
from raggedrt.plugins.runtime.session import Session
from raggedrt.plugins.runtime.targets import providers_beside, require_target
from raggedrt.progress import step
from raggedrt.runners import RunnerOptions
from raggedrt.verification import compare_wide, make_tolerance
from raggedrt.workload import Demand, Workload, longest_sequence, make_workload

BUNDLE = "raggedrt"
CEILING = "no padding"
ORDERS = ("arrival", "sorted")


@dataclasses.dataclass(frozen=True)
class BenchResult:
    """Times of one run of `bench`.

    Attributes:
        seconds: per job, the seconds of every round (all batches of the workload).
        facts: what was run: batches, tokens, slots, threads, order, seed, bundle, baseline, commit-free versions.
        errors: the bundle's outputs against the baseline's, taken from the timed sessions.
    """

    seconds: Mapping[str, list[float]]
    facts: Mapping[str, Any]
    errors: Comparison
    columns = ("what", "median s", "min s", "max s", "tokens/s", "speed-up")

    def median(self, job: str) -> float:
        """Median seconds of a job."""
        return statistics.median(self.seconds[job])

    @property
    def best_baseline(self) -> str:
        """The faster of the padded baselines."""
        return min((job for job in self.seconds if job != BUNDLE and CEILING not in job), key=self.median)

    @property
    def ratio(self) -> float:
        """How many times faster the bundle is than the best padded baseline."""
        return self.median(self.best_baseline) / self.median(BUNDLE)

    @property
    def ceiling(self) -> float:
        """The same for the best baseline on as many tokens in full rows: what removing padding can give at most."""
        return self.median(self.best_baseline) / min(self.median(job) for job in self.seconds if CEILING in job)

    @property
    def headline(self) -> str:
        """What was run."""
        f = self.facts
        return (
            f"{f['batches']} batches of {f['batch_size']}, {f['order']} order: {f['valid_tokens']} tokens in "
            f"{f['padded_tokens']} slots (fill {f['fill']:.3f}), "
            f"{f['threads']} threads, {f['rounds']} interleaved rounds"
        )

    def rows(self) -> list[tuple[str, ...]]:
        """The table, one row per job."""
        best = self.median(self.best_baseline)
        return [
            (
                job,
                f"{self.median(job):.4f}",
                f"{min(times):.4f}",
                f"{max(times):.4f}",
                f"{self.facts['valid_tokens'] / self.median(job):.0f}",
                f"{best / self.median(job):.2f}x",
            )
            for job, times in self.seconds.items()
        ]

    @property
    def conclusion(self) -> str:
        """Ratio, ceiling and error in one line."""
        worst = max((error.max_abs for error in self.errors.outputs), default=0.0)
        imposed = ", ".join(self.facts["imposed"])
        compared = (
            f"an approximation ({imposed}) whose outputs are up to {worst:.1e} away"
            if imposed
            else f"max abs error {worst:.1e}"
        )
        return (
            f"{self.ratio:.2f}x the best padded baseline ({self.best_baseline}), ceiling {self.ceiling:.2f}x "
            f"({self.ratio / self.ceiling:.0%} of it), {compared}"
        )

    def to_json(self) -> dict[str, Any]:
        """The same as a dictionary."""
        return {
            **self.facts,
            "seconds": {job: list(times) for job, times in self.seconds.items()},
            "median": {job: self.median(job) for job in self.seconds},
            "best_baseline": self.best_baseline,
            "ratio": self.ratio,
            "ceiling": self.ceiling,
            "errors": self.errors.to_json(),
        }


def bench(
    bundle: str | os.PathLike[str],
    *,
    baseline: str | os.PathLike[str] | None = None,
    lengths: str = "U[0.1,1]",
    lengths_from: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    batches: int = 4,
    max_length: int | None = None,
    order: str = "arrival",
    rounds: int = 5,
    threads: int | None = None,
    seed: int = 0,
    atol: float | None = None,
    rtol: float | None = None,
    report: str | os.PathLike[str] | None = None,
    allow_pickle: bool = False,
    trust_bundle: bool = False,
) -> BenchResult:
    """Time a bundle against the unmodified model: same weights, batches and threads, interleaved rounds.

    Args:
        bundle: bundle directory.
        baseline: the unmodified model (ONNX file or PyTorch source); None: the bundle's source, if unchanged.
        lengths: distribution: `"U[a,b]"` in shares of `max_length`, or token counts `"12,40,128"`.
        lengths_from: instead, a file with one text per line, measured with the bundle's tokenizer.
        batch_size: sequences per batch.
        batches: batches per round.
        max_length: tokens of the longest sequence; default 128, or the model's positions where these are fewer.
        order: `"arrival"`, or `"sorted"` by length before batching.
        rounds: timed rounds, after one that warms up.
        threads: threads of every session, default all cores.
        seed: of lengths and token ids.
        atol: absolute tolerance of the outputs; default by dtype.
        rtol: relative tolerance; default by dtype.
        report: also write the result to this JSON file.
        allow_pickle: accept a pickled baseline, which can run code.
        trust_bundle: load libraries that lie inside the bundle.

    Returns:
        Times, ratio, ceiling and errors.

    Raises:
        InputError: an option is wrong, or the baseline cannot be found or is another model.
        NumericsError: the bundle's outputs differ from the baseline's.
        TargetError: the bundle's target cannot be served on this machine.
    """
    for name, value in (
        ("batch-size", batch_size),
        ("batches", batches),
        ("max-length", max_length),
        ("rounds", rounds),
    ):
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: expected at least 1")
    choose("order", order, ORDERS)
    if report is not None:
        refuse_input(pathlib.Path(report), pathlib.Path(bundle), *([pathlib.Path(baseline)] if baseline else []))
        refuse_existing(pathlib.Path(report), force=True)
    opened = open_bundle(bundle)
    require_target(opened)
    longest = longest_sequence(opened, max_length)
    tolerance = make_tolerance(atol, rtol, opened.manifest.dtype)
    threads = threads or len(os.sched_getaffinity(0))
    providers = providers_beside(opened.manifest.target)
    options = RunnerOptions(threads=threads, allow_pickle=allow_pickle, trust_bundle=trust_bundle, providers=providers)
    # First of all: ONNX Runtime asks TensorRT for its plugins once, when a process makes the first session of it.
    session = Session(opened, threads=threads, trust_bundle=trust_bundle)
    with tempfile.TemporaryDirectory(prefix="raggedrt-bench-") as folder:
        peers = open_baselines(opened, baseline, pathlib.Path(folder), options)
        demand = Demand(lengths, batch_size, batches, longest, order == "sorted", seed)
        workload = make_workload(opened, peers[0].specs, demand, lengths_from)
        imposed = sorted({mask["imposed"] for mask in opened.manifest.mask_specs if mask.get("imposed")})
        errors, *_ = (_check(session, peer, workload, tolerance, approximate=bool(imposed)) for peer in peers)
        seconds = time_interleaved(_jobs(session, peers, workload), rounds)
    facts = {
        "bundle": str(bundle),
        "baseline": peers[0].label,
        "order": order,
        "threads": threads,
        "rounds": rounds,
        "seed": seed,
        "native": session.native,
        "imposed": imposed,
        "machine": machine_facts(),
        **workload.facts(),
    }
    result = BenchResult(seconds, facts, errors)
    if report is not None:
        write_json(pathlib.Path(report), result.to_json())
    return result


def time_interleaved(jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each job in each round; every round runs every job once, the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        step("round %d of %d", number, rounds)
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _check(
    session: Session, peer: Baseline, workload: Workload, tolerance: Tolerance | None, *, approximate: bool
) -> Comparison:
    """Compare the outputs of the sessions that are timed, on the batches that are timed.

    A bundle with imposed sparsity computes something else on purpose: its distance is stated, not judged.
    """
    step("comparing outputs")
    results = [
        (
            Case(f"batch {number}", batch.padded, batch.valid),
            peer.run(batch.padded),
            session.run(batch.padded_for(session)),
        )
        for number, batch in enumerate(workload.batches)
    ]
    compared = compare_wide(results, tolerance)
    return compared if approximate else compared.require(f"the bundle against {peer.name}")


def _jobs(session: Session, peers: list[Baseline], workload: Workload) -> dict[str, Callable[[], object]]:
    """What is timed: each baseline and the bundle on the workload, and each baseline on full rows."""

    def all_of(run: Callable[[Any], object], feeds: list[Any]) -> Callable[[], object]:
        return lambda: [run(feed) for feed in feeds]

    padded = [batch.padded for batch in workload.batches]
    full = [batch.padded for batch in workload.full]
    jobs = {peer.name: all_of(peer.run, padded) for peer in peers}
    jobs[BUNDLE] = all_of(session.run, [batch.timed_for(session) for batch in workload.batches])
    return jobs | {f"{peer.name}, {CEILING}": all_of(peer.run, full) for peer in peers}
