"""Sparse RaggedAttention against compiled FlexAttention and ONNX Runtime's dense attention, with identical masks.

Every contender gets the same queries, keys, values and mask; outputs of the timed calls are compared. FlexAttention
has its mask built beforehand, in the faster of its block sizes; ours is built inside the timer where it is a tile list
(a BlockMask node). ONNX Runtime's MultiHeadAttention gets the mask as an additive bias, where memory allows. Rounds
alternate; times are medians with the 10th to 90th percentile. "Visited" is the share of query-key pairs that a
contender computes, kept ones or not.

    python scripts/bench_sparse_attention.py --threads 2 --output scripts/benchmarks/sparse_attention_cpu
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import torch
from bench_attention import machine_facts, time_alternately
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from raggedrt.plugins.contract.mask_rules import UNBOUNDED, Clauses, causal, columns, encode, rows, window
from raggedrt.plugins.contract.op_definition import DOMAIN
from raggedrt.plugins.layout.from_rules import rule_holds
from raggedrt.plugins.native.build import build_in_cache
from raggedrt.plugins.node import make_node

Array = npt.NDArray[Any]
MaskMod = Callable[[Any, Any, Any, Any], Any]

HEADS, HEAD_SIZE, BLOCK = 12, 64, 64
LENGTHS = (1024, 4096, 16384)
FLEX_BLOCKS = (64, 128)
LONGEST_DENSE = 4096
"""ONNX Runtime keeps the scores of all heads where it is given a bias: 12 x S x S floats."""
LARGEST_ERROR = 1e-4
OVERALL_GOAL = 1.8
"""Geometric mean of FlexAttention's time to ours over every case."""


@dataclasses.dataclass(frozen=True)
class Mask:
    """One mask: as attributes or rules for us, as pairs for FlexAttention; goals are least ratios at S = 4096."""

    name: str
    clauses: Clauses
    attributes: Mapping[str, Any]
    """Of RaggedAttention; none: a tile list."""
    pairs: Callable[[Any, Any], Any] | None = None
    """Whether query and key positions (tensors) see each other; none: by block."""
    flex_goal: float | None = None
    dense_goal: float | None = None


def _reach(distance: int) -> dict[str, int]:
    return {"window_left": distance, "window_right": distance}


def _bigbird() -> Clauses:
    """Three neighbours, the first and the last block; random ones are listed."""
    edges = [make(*end, unit=BLOCK) for make in (rows, columns) for end in ((0, 1), (-1, UNBOUNDED))]
    return [[window(1, 1, unit=BLOCK), *edges]]


MASKS = (
    Mask("causal", [[causal()]], {"causal": 1}, lambda q, k: k <= q),
    Mask("window(64)", [[window(64, 64)]], _reach(64), lambda q, k: (q - k).abs() <= 64, 2.5),
    Mask("window(256)", [[window(256, 256)]], _reach(256), lambda q, k: (q - k).abs() <= 256, 2.5),
    Mask(
        "dilated(window=64, dilation=4)",
        [[window(64, 64, dilation=4)]],
        {**_reach(64), "dilation": 4},
        lambda q, k: ((q - k).abs() <= 64) & ((q - k) % 4 == 0),
    ),
    Mask(
        "longformer(window=512, global=[0])",
        [[window(256, 256), rows(0, 1), columns(0, 1)]],
        {**_reach(256), "global_tokens": [0]},
        lambda q, k: ((q - k).abs() <= 256) | (q == 0) | (k == 0),
        2.5,
    ),
    Mask("bigbird(block=64, window=3, global=2, random=3)", _bigbird(), {}, None, 2.0, 6.0),
)


def random_blocks(length: int) -> Array:
    """Three further blocks for each row but the first and last, int32 [1, rows, 3]; -1 is none."""
    count = length // BLOCK
    rng = np.random.default_rng(0)
    listed = np.full((1, count, 3), -1, np.int32)
    for row in range(1, count - 1):
        others = np.setdiff1d(np.arange(1, count - 1), [row - 1, row, row + 1])
        listed[0, row] = rng.choice(others, 3, replace=False)
    return listed


def mask_rows(mask: Mask, length: int, first: int, end: int) -> Array:
    """The mask of some queries: bool [end - first, length]."""
    query, key = np.arange(first, end)[:, None], np.arange(length)[None, :]
    visible = np.ones((end - first, length), bool)
    for place, clause in enumerate(mask.clauses):
        holds = np.zeros_like(visible)
        for rule in clause:
            holds |= rule_holds(rule, query, key, length)
        if place == 0 and not mask.attributes:
            holds |= (random_blocks(length)[0][query[:, 0] // BLOCK][:, :, None] == key // BLOCK).any(axis=1)
        visible &= holds
    return visible


def pairs_of(mask: Mask, length: int) -> tuple[float, float]:
    """Share of pairs that the mask keeps, and that our kernel computes: 12 rows by whole vectors in 64-key tiles."""
    kept = visited = 0
    for first in range(0, length, 12):
        visible = mask_rows(mask, length, first, min(first + 12, length))
        kept += int(visible.sum())
        tiles = visible.any(axis=0).reshape(-1, 4, 16).any(axis=2)  # [tiles, vectors]
        spans = 4 - tiles.argmax(axis=1) - tiles[:, ::-1].argmax(axis=1)
        visited += len(visible) * int(16 * spans[tiles.any(axis=1)].sum())
    return kept / length**2, visited / length**2


def our_session(mask: Mask, threads: int, library: pathlib.Path) -> ort.InferenceSession:
    """RaggedAttention, with a BlockMask where the mask is a tile list."""
    width = HEADS * HEAD_SIZE
    values = {name: ir.val(name, ir.DataType.FLOAT, ["tokens", width]) for name in ("query", "key", "value")}
    values["cu_seqlens_q"] = values["cu_seqlens_k"] = ir.val("cu_seqlens", ir.DataType.INT32, ["offsets"])
    values["max_seqlen_q"] = values["max_seqlen_k"] = ir.val("max_seqlen", ir.DataType.FLOAT, ["longest"])
    inputs = list(dict.fromkeys(values.values()))
    attributes: dict[str, Any] = {"num_heads": HEADS, **mask.attributes}
    nodes = []
    if not mask.attributes:
        blocks = ir.val("blocks", ir.DataType.INT32, [1, "rows", 3])
        rules = {"block_size": BLOCK, "rules": encode(mask.clauses)}
        nodes.append(
            make_node("BlockMask", {"max_seqlen": values["max_seqlen_q"], "blocks": blocks}, rules, name="mask")
        )
        values |= dict(zip(("tile_ptr", "tile_col", "tile_tag", "tile_bits"), nodes[0].outputs, strict=True))
        inputs.append(blocks)
        attributes["block_size"] = BLOCK
    nodes.append(make_node("RaggedAttention", values, attributes, name="attention"))
    return _session(nodes, inputs, threads, {DOMAIN: 1}, library)


def dense_session(threads: int) -> ort.InferenceSession:
    """One MultiHeadAttention node with a bias."""
    width = HEADS * HEAD_SIZE
    values = [ir.val(name, ir.DataType.FLOAT, [1, "slots", width]) for name in ("query", "key", "value")]
    bias = ir.val("bias", ir.DataType.FLOAT, [1, 1, "slots", "slots"])
    node = ir.node("MultiHeadAttention", [*values, None, None, bias], {"num_heads": HEADS}, domain="com.microsoft")
    node.outputs[0].name, node.outputs[0].dtype = "output", ir.DataType.FLOAT
    return _session([node], [*values, bias], threads, {"com.microsoft": 1})


def _session(
    nodes: Sequence[ir.Node],
    inputs: Sequence[ir.Value],
    threads: int,
    imports: Mapping[str, int],
    library: pathlib.Path | None = None,
) -> ort.InferenceSession:
    graph = ir.Graph(inputs, nodes[-1].outputs, nodes=nodes, opset_imports={"": 20, **imports}, name="bench")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if library is not None:
        options.register_custom_ops_library(str(library))
    model = ir.to_proto(ir.Model(graph, ir_version=10))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def aligned(array: Array) -> Array:
    """A copy that starts at a cache line, as tensors of ONNX Runtime and PyTorch do."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def bind(session: ort.InferenceSession, feed: Mapping[str, Array]) -> tuple[Callable[[], object], ort.OrtValue]:
    """A call on bound memory, and the output it writes."""
    binding = session.io_binding()
    for name in (value.name for value in session.get_inputs()):
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(aligned(feed[name])))
    output = ort.OrtValue.ortvalue_from_numpy(aligned(np.zeros_like(feed["query"])))
    binding.bind_ortvalue_output(session.get_outputs()[0].name, output)
    return lambda: session.run_with_iobinding(binding), output


class Flex:
    """Compiled FlexAttention with a cached mask, in its faster block size."""

    def __init__(self, mask: Mask, length: int, feed: Mapping[str, Array]) -> None:
        shape = (1, length, HEADS, HEAD_SIZE)
        self.operands = [
            torch.from_numpy(feed[name]).view(shape).transpose(1, 2).contiguous() for name in ("query", "key", "value")
        ]
        compiled = torch.compile(flex_attention, dynamic=False)
        pairs = mask.pairs or _by_block(mask, length)
        masks = [
            create_block_mask(lambda b, h, q, k: pairs(q, k), None, None, length, length, device="cpu", BLOCK_SIZE=size)
            for size in FLEX_BLOCKS
        ]
        calls = [self._call(compiled, each) for each in masks]
        spent = time_alternately(calls, 0.0)
        best = int(np.argmin([np.median(times) for times in spent]))
        self.call, self.mask, self.block = calls[best], masks[best], FLEX_BLOCKS[best]

    def _call(self, compiled: Callable[..., Any], mask: BlockMask) -> Callable[[], object]:
        def call() -> object:
            with torch.no_grad():
                self.output = compiled(*self.operands, block_mask=mask)
            return self.output

        return call

    def result(self) -> Array:
        """The last output, [S, heads * head size]."""
        tokens: Array = self.output.transpose(1, 2).reshape(-1, HEADS * HEAD_SIZE).numpy()
        return tokens

    def visited(self, length: int) -> float:
        """Share of pairs in the blocks that it computes."""
        blocks = self.mask.kv_num_blocks.sum() + self.mask.full_kv_num_blocks.sum()
        return float(blocks) * self.block**2 / length**2


def _by_block(mask: Mask, length: int) -> Callable[[Any, Any], Any]:
    table = torch.from_numpy(mask_rows(mask, length, 0, length)[::BLOCK, ::BLOCK].copy())
    return lambda q, k: table[q // BLOCK, k // BLOCK]


def measure(mask: Mask, length: int, threads: int, seconds: float, library: pathlib.Path) -> dict[str, Any]:
    """One row of the record."""
    rng = np.random.default_rng(1)
    names = ("query", "key", "value")
    feed: dict[str, Array] = {name: rng.standard_normal((length, HEADS * HEAD_SIZE), np.float32) for name in names}
    flex = Flex(mask, length, feed)
    sequences = {"cu_seqlens": np.array([0, length], np.int32), "max_seqlen": np.zeros(length, np.float32)}
    ours, got = bind(our_session(mask, threads, library), {**feed, **sequences, "blocks": random_blocks(length)})
    sides = {"ours": ours, "flex": flex.call}
    results = {"flex": flex.result}
    if length <= LONGEST_DENSE:
        bias = np.where(mask_rows(mask, length, 0, length), np.float32(0), np.float32(-1e9))[None, None]
        dense, expected = bind(dense_session(threads), {**{name: feed[name][None] for name in names}, "bias": bias})
        sides["dense"], results["dense"] = dense, lambda: expected.numpy()[0]
    spent = dict(zip(sides, time_alternately(list(sides.values()), seconds), strict=True))
    errors = {name: float(np.abs(result() - got.numpy()).max()) for name, result in results.items()}
    if not max(errors.values()) < LARGEST_ERROR:
        raise SystemExit(f"{mask.name}, {length}: outputs differ by {errors}; a speed of wrong results means nothing")
    kept, visited = pairs_of(mask, length)
    medians = {name: float(np.median(times)) for name, times in spent.items()}
    return {
        "mask": mask.name,
        "length": length,
        "density": round(kept, 4),
        "visited": {"ours": round(visited, 4), "flex": round(flex.visited(length), 4)},
        "flex_block": flex.block,
        "ms": {name: _milliseconds(times) for name, times in spent.items()},
        "ours_gflops_kept": round(4 * kept * length**2 * HEADS * HEAD_SIZE / medians["ours"] / 1e9, 1),
        "ratio": {name: round(medians[name] / medians["ours"], 3) for name in results},
        "goal": {"flex": mask.flex_goal, "dense": mask.dense_goal} if length == 4096 else {},
        "rounds": len(spent["ours"]),
        "max_abs_error": max(errors.values()),
    }


def _milliseconds(times: Sequence[float]) -> dict[str, float]:
    low, middle, high = np.percentile(times, (10, 50, 90)) * 1e3
    return {name: float(f"{value:.4g}") for name, value in (("p10", low), ("median", middle), ("p90", high))}


COLUMNS = (
    "| mask | S | density | visited: ours, Flex (block) | ours ms (p10-p90) | Flex ms (p10-p90) | ORT dense ms "
    "| ours GFLOP/s kept | Flex / ours | ORT / ours | goals |"
)


def markdown_row(row: Mapping[str, Any]) -> str:
    """One line of the table."""
    spread = [f"{ms['median']:.2f} ({ms['p10']:.2f}-{ms['p90']:.2f})" for ms in map(row["ms"].get, ("ours", "flex"))]
    dense = row["ms"].get("dense")
    goals = [f"{name} {goal:.1f}" for name, goal in row["goal"].items() if goal]
    cells = [
        row["mask"],
        str(row["length"]),
        f"{row['density']:.3f}",
        f"{row['visited']['ours']:.3f}, {row['visited']['flex']:.3f} ({row['flex_block']})",
        *spread,
        f"{dense['median']:.1f}" if dense else "",
        f"{row['ours_gflops_kept']:.0f}",
        f"{row['ratio']['flex']:.2f}",
        f"{row['ratio']['dense']:.1f}" if dense else "",
        ", ".join(goals),
    ]
    return "| " + " | ".join(cells) + " |"


def markdown(facts: Mapping[str, Any], table: Sequence[Mapping[str, Any]], overall: float) -> str:
    """The record as a page."""
    lines = ["# Sparse RaggedAttention against FlexAttention and dense attention (CPU, float32, 12 heads x 64)", ""]
    lines += [" · ".join(f"{name} {value}" for name, value in facts.items()), "", COLUMNS]
    lines.append("|" + "---|" * (COLUMNS.count("|") - 1))
    lines += [markdown_row(row) for row in table]
    lines += ["", f"Geometric mean of Flex / ours: {overall:.2f} (goal {OVERALL_GOAL})."]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure every case, print the table, write it where asked; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="spent per case")
    parser.add_argument("--only", default="", help="masks whose name contains this")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--output", type=pathlib.Path, help="writes OUTPUT.json and OUTPUT.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    library = build_in_cache()
    facts = {**machine_facts(options.threads, library), "torch": torch.__version__}
    table = []
    print(COLUMNS)
    for mask in MASKS:
        for length in options.lengths if options.only in mask.name else ():
            torch.compiler.reset()
            table.append(measure(mask, length, options.threads, options.seconds, library))
            print(markdown_row(table[-1]), flush=True)
    overall = float(np.exp(np.mean([np.log(row["ratio"]["flex"]) for row in table]))) if table else 0.0
    print(f"geometric mean of Flex / ours: {overall:.2f}")
    if options.output:
        record = {**facts, "geometric_mean": round(overall, 3), "rows": table}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(markdown(facts, table, overall))
    missed = [row for row in table for side, goal in row["goal"].items() if goal and row["ratio"][side] < goal]
    return int(bool(missed) or overall < OVERALL_GOAL)


if __name__ == "__main__":
    raise SystemExit(main())
