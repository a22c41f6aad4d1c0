"""The CUDA kernels against what others run on the same GPU: ragged, sparse and packing.

Sections:
  ragged      lengths U[1, L]: torch.nn.attention.varlen (FlashAttention-2), SDPA of cuDNN and of PyTorch on padded rows
  long rows   full rows: FlashAttention-2 at head sizes 64 and 128
  sparse      causal, window, Longformer and BigBird: compiled FlexAttention, the better of its block sizes, mask cached
  packing     plan, pack and unpack: the bandwidth of a copy, and their share of a BERT-base layer
  work list   the plan of a thousand sequences

Every contender has the same operands, mask, lengths and type, and outputs of the timed calls are compared. The plan
(with its tile list) is made once per forward; its share of one layer, a twelfth, is counted in our times. What others
can only prepare beforehand is prepared. A contender that does not run here is named.

    python scripts/bench_gpu_attention.py --output scripts/benchmarks/gpu_attention
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gpu_packing import LAYERS, measure_packing, measure_plan, random_tokens
from gpu_timing import (
    NO_GPU,
    Times,
    arguments,
    attention_flops,
    first_error,
    geometric_mean,
    goal,
    gpu_facts,
    summary,
    time_in_turns,
    uniform_lengths,
    why_no_gpu,
    write_record,
)

LARGEST_ERROR = 2e-2
SPARSE_LENGTHS = (1024, 2048, 4096, 8192, 16384)
SHAPES = ((12, 64), (32, 128))
OURS, PLAN = "ours", "plan"
BLOCK = 64
GOALS = (
    ("ragged", "varlen (FlashAttention-2)", 1.15),
    ("ragged", "padded cuDNN SDPA", 2.5),
    ("long rows", "varlen (FlashAttention-2)", 0.95),
)
"""Least ratio in every row of a section against a contender."""
SPARSE_MEAN, SPARSE_LEAST = 1.1, 0.9
COPY_SHARE, PLAN_MICROSECONDS, LAYER_SHARE = 0.8, 10.0, 0.03


@dataclasses.dataclass(frozen=True)
class Ragged:
    """A batch: `lengths` in tokens, heads, head size."""

    name: str
    lengths: tuple[int, ...]
    heads: int = 12
    head_size: int = 64

    @property
    def flops(self) -> int:
        """Of the valid pairs."""
        return attention_flops(sum(length * length for length in self.lengths), self.heads, self.head_size)


def ragged_cases(quick: bool) -> list[Ragged]:
    """U[1, 512] and U[1, 1024], 32 rows each."""
    longest = (512,) if quick else (512, 1024)
    return [Ragged(f"32 x U[1, {n}]", tuple(uniform_lengths(32, 0.0, n))) for n in longest]


def long_cases(quick: bool) -> list[Ragged]:
    """Full rows with about 16,384 tokens."""
    lengths = (2048,) if quick else (1024, 2048, 4096, 8192, 16384)
    return [
        Ragged(f"{max(1, 16384 // n)} x {n}, {heads} x {size}", (n,) * max(1, 16384 // n), heads, size)
        for heads, size in ((12, 64), (16, 128))
        for n in lengths
    ]


def measure_ragged(kernels: Any, case: Ragged, rounds: int, missing: dict[str, str]) -> dict[str, Any]:
    """One row of the sections `ragged` and `long rows`."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    operands = [random_tokens(sum(case.lengths), case.heads, case.head_size, seed) for seed in range(3)]
    offsets = torch.tensor(np.cumsum([0, *case.lengths]), dtype=torch.int32, device="cuda")
    longest = max(case.lengths)
    plan, attend, output = kernels.attention(operands, offsets, longest, {})
    plan()
    contenders: dict[str, Callable[[], object]] = {PLAN: plan, OURS: attend}
    results: dict[str, Callable[[Any], Any]] = {}

    def varlen() -> Callable[[], object]:
        from torch.nn.attention.varlen import varlen_attn

        return lambda: varlen_attn(*operands, offsets, offsets, longest, longest)

    valid = torch.arange(longest, device="cuda") < offsets.diff()[:, None]
    padded = [_padded(tensor, valid) for tensor in operands]
    bias = None if bool(valid.all()) else valid[:, None, None, :]

    def sdpa(backend: Any) -> Callable[[], Callable[[], object]]:
        def call() -> object:
            with sdpa_kernel([backend]):
                return scaled_dot_product_attention(*padded, attn_mask=bias)

        return lambda: call

    ways = {
        "varlen (FlashAttention-2)": (varlen, lambda tensor: tensor),
        "padded cuDNN SDPA": (sdpa(SDPBackend.CUDNN_ATTENTION), lambda tensor: tensor.transpose(1, 2)[valid]),
        "padded efficient SDPA": (sdpa(SDPBackend.EFFICIENT_ATTENTION), lambda tensor: tensor.transpose(1, 2)[valid]),
    }
    for name, (make, tokens_of) in ways.items():
        call = first_error(make, missing, f"{name}, {case.name}")
        if call is not None:
            contenders[name], results[name] = call, tokens_of
    attend()
    errors = {name: _distance(tokens_of(contenders[name]()), output) for name, tokens_of in results.items()}
    times = time_in_turns(contenders, rounds)
    return row_of(
        {"case": case.name, "fill": round(sum(case.lengths) / (len(case.lengths) * longest), 3)},
        times,
        errors,
        case.flops,
    )


def row_of(facts: Mapping[str, Any], times: Times, errors: Mapping[str, float], flops: int) -> dict[str, Any]:
    """A row of the record: times in microseconds, ratios to ours with its share of the plan.

    Raises:
        SystemExit: outputs differ; a speed of wrong results means nothing.
    """
    worst = max(errors.values(), default=0.0)
    if not worst < LARGEST_ERROR:
        raise SystemExit(f"{facts}: outputs differ by {errors}")
    spent = {name: summary(values) for name, values in times.items()}
    ours = spent[OURS]["median"] + spent.get(PLAN, {"median": 0.0})["median"] / LAYERS
    ratios = {f"{name} / ours": round(spent[name]["median"] / ours, 3) for name in times if name not in (OURS, PLAN)}
    return {**facts, **spent, "TFLOP/s": round(flops / ours / 1e6, 1), **ratios, "max error": worst}


def _padded(tokens: Any, valid: Any) -> Any:
    """[B, N, S, H] of packed tokens [T, N, H]."""
    import torch

    padded = torch.zeros((*valid.shape, *tokens.shape[1:]), dtype=tokens.dtype, device=tokens.device)
    padded[valid] = tokens
    return padded.transpose(1, 2).contiguous()


def _distance(one: Any, other: Any) -> float:
    return float((one.float() - other.float()).abs().max())


# --- sparse -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SparseMask:
    """Attributes of ours, or rules and random blocks; whether positions see each other, for FlexAttention."""

    name: str
    attributes: Mapping[str, Any]
    rules: tuple[int, ...] = ()


def sparse_masks() -> list[SparseMask]:
    """The masks of the promise."""
    from bench_sparse_attention import MASKS

    from raggedrt.plugins.contract.mask_rules import encode

    wanted = (
        "causal",
        "window(256)",
        "longformer(window=512, global=[0])",
        "bigbird(block=64, window=3, global=2, random=3)",
    )
    found = {mask.name: mask for mask in MASKS}
    return [
        SparseMask(name, found[name].attributes, () if found[name].attributes else encode(found[name].clauses))
        for name in wanted
    ]


def measure_sparse(
    kernels: Any, mask: SparseMask, length: int, shape: tuple[int, int], rounds: int, missing: dict[str, str]
) -> dict[str, Any]:
    """One row of the section `sparse`; the mask as pairs is on the device for FlexAttention and for the density."""
    import torch
    from bench_sparse_attention import random_blocks
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    heads, size = shape
    operands = [random_tokens(length, heads, size, seed) for seed in range(3)]
    offsets = torch.tensor([0, length], dtype=torch.int32, device="cuda")
    given = dict(mask.attributes)
    build = None
    if mask.rules:
        blocks = torch.from_numpy(random_blocks(length)).cuda()
        build, given["tiles"] = kernels.block_mask(mask.rules, length, BLOCK, blocks)
        build()
    plan, attend, output = kernels.attention(operands, offsets, length, given)

    def forward_plan() -> None:
        if build is not None:
            build()
        plan()

    forward_plan()
    attend()
    contenders: dict[str, Callable[[], object]] = {PLAN: forward_plan, OURS: attend}
    pairs = _pairs(mask, length)
    kept = _kept(pairs, length)
    four = [tensor.transpose(0, 1)[None].contiguous() for tensor in operands]
    errors = {}
    for block in (64, 128):

        def flex(block: int = block) -> Callable[[], object]:
            compiled = torch.compile(flex_attention, dynamic=False)
            listed = create_block_mask(
                lambda b, h, q, k: pairs(q, k), None, None, length, length, device="cuda", BLOCK_SIZE=block
            )
            return lambda: compiled(*four, block_mask=listed)

        name = f"FlexAttention ({block})"
        call = first_error(flex, missing, f"{name}, {mask.name}, {length}, {heads} x {size}")
        if call is not None:
            contenders[name] = call
            errors[name] = _distance(call()[0].transpose(0, 1), output)  # type: ignore[index]
    times = time_in_turns(contenders, rounds)
    facts = {"mask": mask.name, "S": length, "heads": f"{heads} x {size}", "density": round(kept / length**2, 4)}
    return row_of(facts, times, errors, attention_flops(kept, heads, size))


def _kept(pairs: Callable[[Any, Any], Any], length: int) -> int:
    """How many pairs see each other, counted on the device a thousand queries at a time."""
    import torch

    keys = torch.arange(length, device="cuda")[None]
    strips = (torch.arange(first, min(first + 1024, length), device="cuda") for first in range(0, length, 1024))
    return sum(int(pairs(strip[:, None], keys).sum()) for strip in strips)


def _pairs(mask: SparseMask, length: int) -> Callable[[Any, Any], Any]:
    import torch
    from bench_sparse_attention import MASKS, mask_rows

    found = next(other for other in MASKS if other.name == mask.name)
    if found.pairs is not None:
        return found.pairs
    rows = np.concatenate([mask_rows(found, length, first, first + 1) for first in range(0, length, BLOCK)])
    table = torch.from_numpy(np.ascontiguousarray(rows[:, ::BLOCK])).cuda()
    return lambda q, k: table[q // BLOCK, k // BLOCK]


# --- the record -------------------------------------------------------------------------------------------------------


def judge(sections: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The promises and what was measured of them."""
    judged = []
    for section, rival, least in GOALS:
        ratios = [row[f"{rival} / ours"] for row in sections.get(section, []) if f"{rival} / ours" in row]
        judged.append(goal(f"{section}, least against {rival}", min(ratios, default=None), least))
    best = [
        min(row[name] for name in row if name.startswith("FlexAttention") and name.endswith("/ ours"))
        for row in sections.get("sparse", [])
        if any(name.startswith("FlexAttention") and name.endswith("/ ours") for name in row)
    ]
    judged.append(goal("sparse, geometric mean against FlexAttention", geometric_mean(best) or None, SPARSE_MEAN))
    judged.append(goal("sparse, least against FlexAttention", min(best, default=None), SPARSE_LEAST))
    for row in sections.get("packing", []):
        judged.append(goal(f"pack and unpack, share of a copy's bandwidth ({row['rows']})", row["of copy"], COPY_SHARE))
        judged.append(
            goal(f"a layer over plan, pack and unpack ({row['rows']})", 1 / row["of one layer"], 1 / LAYER_SHARE)
        )
    judged += [
        goal("microseconds allowed over those of the work list", PLAN_MICROSECONDS / row[PLAN]["median"], 1.0)
        for row in sections.get("work list", [])
    ]
    return judged


def main() -> int:
    """Measure, print and write what was asked for; 1 where a promise is missed, 5 without a GPU."""
    options = arguments(__doc__)
    problem = why_no_gpu()
    if problem is not None:
        print(f"nothing to measure on: {problem}")
        return NO_GPU
    from gpu_kernels import Kernels

    kernels, missing, rounds = Kernels(), dict[str, str](), options.rounds
    lengths = SPARSE_LENGTHS[:1] if options.quick else SPARSE_LENGTHS
    measures: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "ragged": lambda: [measure_ragged(kernels, case, rounds, missing) for case in ragged_cases(options.quick)],
        "long rows": lambda: [measure_ragged(kernels, case, rounds, missing) for case in long_cases(options.quick)],
        "sparse": lambda: [
            measure_sparse(kernels, mask, length, shape, rounds, missing)
            for mask in sparse_masks()
            for shape in SHAPES
            for length in lengths
        ],
        "packing": lambda: [measure_packing(kernels, 16, 1024, rounds)],
        "work list": lambda: [measure_plan(kernels, 1000, rounds)],
    }
    sections: dict[str, list[dict[str, Any]]] = {}
    for name, measure in measures.items():
        if options.only in name:
            print(f"==> {name}", flush=True)
            sections[name] = measure()
            for row in sections[name]:
                print("   ", row, flush=True)
    goals = judge(sections)
    record = {"facts": gpu_facts(), "sections": sections, "goals": goals, "missing": missing}
    for line in goals:
        print(line)
    if options.output:
        write_record(options.output, "CUDA kernels of RaggedRT (fp16, microseconds, cold caches)", record)
    return int(any(line[""] == "MISSED" for line in goals))


if __name__ == "__main__":
    raise SystemExit(main())
