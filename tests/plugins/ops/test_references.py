"""Each reference against an oracle written another way: plain loops over single tokens, in Python floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from helpers.tolerances import EXACT, Tolerance, assert_close
from raggedrt.errors import RaggedRTError
from raggedrt.plugins.contract.mask_rules import Clauses, decode
from raggedrt.plugins.ops.arrays import Array
from raggedrt.plugins.ops.case import Case, Group
from raggedrt.plugins.ops.catalog import CASES, REFERENCES

pytestmark = pytest.mark.none

Oracle = Callable[[dict[str, Array], dict[str, Any]], dict[str, Array]]
FLOAT64_WORK = Tolerance(1e-6, 1e-6)


def block_mask(inputs: dict[str, Array], attributes: dict[str, Any]) -> dict[str, Array]:
    length, size = len(inputs["max_seqlen"]), attributes["block_size"]
    clauses = decode(attributes["rules"]) or ((),) * ("blocks" in inputs)
    listed = inputs.get("blocks", np.zeros((1, 0, 0), np.int32)).tolist()
    own = [length] if "cu_seqlens" not in inputs else np.diff(inputs["cu_seqlens"]).tolist()
    ptr, col, tag, bitmaps = [], [], [], dict[tuple[int, ...], int]()
    for tokens, blocks in ((tokens, blocks) for tokens in own for blocks in listed):
        ptr.append([len(col)])
        for row in range(0, length, size):
            for column in range(0, length, size):
                lists = row // size < len(blocks) and column // size in blocks[row // size]
                pairs = [(i, j) for i in range(row, row + size) for j in range(column, column + size)]
                seen = [max(pair) < tokens and sees(clauses, *pair, tokens, lists) for pair in pairs]
                if any(seen):
                    full = sum(seen) == sum(max(pair) < tokens for pair in pairs)
                    words = tuple(
                        sum(bit << k for k, bit in enumerate(seen[first : first + 32]))
                        for first in range(0, len(seen), 32)
                    )
                    col.append(column // size)
                    tag.append(-1 if full else bitmaps.setdefault(words, len(bitmaps)))
            ptr[-1].append(len(col))
    words = np.array(list(bitmaps), np.int64).reshape(-1, size * size // 32).astype(np.uint32).view(np.int32)
    table = np.array(ptr, np.int32).reshape(len(own), len(listed), -(-length // size) + 1)
    return {
        "tile_ptr": table,
        "tile_col": np.array(col, np.int32),
        "tile_tag": np.array(tag, np.int32),
        "tile_bits": words,
    }


def sees(clauses: Clauses, i: int, j: int, length: int, listed: bool) -> bool:
    return all(
        (listed and place == 0) or any(rule.holds(i, j, length) for rule in clause)
        for place, clause in enumerate(clauses)
    )


def packing_plan(inputs: dict[str, Array], attributes: dict[str, Any]) -> dict[str, Array]:
    mask, keep = inputs["attention_mask"].tolist(), inputs.get("keep_mask")
    tokens, bounds = [], [0]
    for row, slots in enumerate(mask):
        wanted = {slot % len(slots) for slot in attributes.get("keep_slots", ()) if -len(slots) <= slot < len(slots)}
        for slot, valid in enumerate(slots):
            if valid or slot in wanted or (keep is not None and keep[row, slot]):
                tokens.append((row * len(slots) + slot, slot, slot if valid else -1))
        bounds.append(len(tokens))
    capacity = attributes.get("capacity", 0)
    while capacity and (not tokens or len(tokens) % capacity):
        tokens.append((0, 0, -1))
    index, position, key = np.array(tokens, np.int32).reshape(-1, 3).T
    cu_seqlens = np.array(bounds, np.int32)
    return {"token_index": index, "cu_seqlens": cu_seqlens, "position": position, "key_position": key}


def pack_tokens(inputs: dict[str, Array], attributes: dict[str, Any]) -> dict[str, Array]:
    x = inputs["x"]
    packed = np.zeros((len(inputs["token_index"]), *x.shape[2:]), x.dtype)
    for token, index in enumerate(inputs["token_index"].tolist()):
        if index >= 0:
            packed[token] = x[divmod(index, x.shape[1])]
    return {"packed": packed}


def unpack_tokens(inputs: dict[str, Array], attributes: dict[str, Any]) -> dict[str, Array]:
    packed, like = inputs["packed"], inputs["like"]
    x = np.zeros((*like.shape, *packed.shape[1:]), packed.dtype)
    for token, index in enumerate(inputs["token_index"].tolist()):
        if "key_position" not in inputs or inputs["key_position"][token] >= 0:
            x[divmod(index, like.shape[1])] = packed[token]
    return {"x": x}


def merge_attention_states(inputs: dict[str, Array], attributes: dict[str, Any]) -> dict[str, Array]:
    output, lse = np.zeros_like(inputs["output1"]), np.full_like(inputs["lse1"], -np.inf)
    for (head, token), _ in np.ndenumerate(lse):
        parts = [float(inputs[name][head, token]) for name in ("lse1", "lse2")]
        top = max(parts)
        if top == -math.inf:
            continue
        total = sum(math.exp(part - top) for part in parts)
        lse[head, token] = top + math.log(total)
        size = output.shape[1] // len(lse)
        columns = slice(head * size, (head + 1) * size)
        output[token, columns] = sum(
            math.exp(part - top) / total * inputs[name][token, columns].astype(np.float64)
            for part, name in zip(parts, ("output1", "output2"), strict=True)
        )
    return {"output": output, "lse": lse}


def ragged_attention(inputs: dict[str, Array], attributes: dict[str, Any]) -> dict[str, Array]:
    heads = attributes["num_heads"]
    group = heads // attributes["kv_num_heads"]
    sizes = {name: inputs[name].shape[1] * (group if name != "query" else 1) // heads for name in ("query", "value")}
    output = np.zeros((len(inputs["query"]), heads * sizes["value"]))
    lse = np.full((heads, len(inputs["query"])), -np.inf, np.float32)
    for row, (first_q, last_q) in enumerate(zip(inputs["cu_seqlens_q"], inputs["cu_seqlens_q"][1:], strict=False)):
        first_k, last_k = inputs["cu_seqlens_k"][row : row + 2]
        align = (last_k - last_q) - (first_k - first_q) if attributes.get("causal") else 0
        for query in range(first_q, last_q):
            for head in range(heads):
                scores = {}
                for key in range(first_k, last_k):
                    i = int(inputs["positions_q"][query]) if "positions_q" in inputs else query - first_q + align
                    j = int(inputs["positions_k"][key]) if "positions_k" in inputs else key - first_k
                    if visible(i, j, attributes, "positions_k" in inputs) and shown(
                        inputs, attributes, row, head, i, j
                    ):
                        pair = (
                            _head(inputs["query"], query, head, heads),
                            _head(inputs["key"], key, head, heads, group),
                        )
                        scores[key] = score(pair, attributes) + added(inputs, row, head, i, j)
                        scores[key] += disentangled(inputs, head, query, key, j - i)
                mix(inputs, scores, query, head, group, output, lse)
    return {"output": output.astype(inputs["query"].dtype), "lse": lse}


def visible(i: int, j: int, attributes: dict[str, Any], has_positions: bool) -> bool:
    if (has_positions and j < 0) or (attributes.get("causal") and j > i):
        return False
    if {i, j} & set(attributes.get("global_tokens", ())):
        return True
    left, right = attributes.get("window_left", -1), attributes.get("window_right", -1)
    if (left >= 0 and i - j > left) or (right >= 0 and j - i > right):
        return False
    return bool(abs(j - i) % attributes.get("dilation", 1) == 0)


def shown(inputs: dict[str, Array], attributes: dict[str, Any], row: int, head: int, i: int, j: int) -> bool:
    if "tile_ptr" not in inputs:
        return True
    size, ptr = attributes["block_size"], inputs["tile_ptr"]
    group = inputs["head_group"][head] if "head_group" in inputs else head % ptr.shape[1]
    ends = ptr[row % len(ptr), group]
    if min(i, j) < 0 or i // size >= len(ends) - 1:
        return False
    for entry in range(ends[i // size], ends[i // size + 1]):
        if inputs["tile_col"][entry] == j // size:
            tag = int(inputs["tile_tag"][entry])
            word, bit = divmod(i % size * size + j % size, 32)
            return tag == -1 or bool(int(inputs["tile_bits"][tag, word]) >> bit & 1)
    return False


def disentangled(inputs: dict[str, Array], head: int, query: int, key: int, distance: int) -> float:
    total = 0.0
    if "rel_bucket" in inputs:
        table = inputs["rel_bucket"].tolist()
        bucket = table[min(max(distance + len(table) // 2, 0), len(table) - 1)]
        for name, token in (("rel_query", query), ("rel_key", key)):
            total += float(inputs[name][token, head, bucket]) if name in inputs else 0.0
    return total


def score(pair: tuple[Array, Array], attributes: dict[str, Any]) -> float:
    value = math.fsum((pair[0] * pair[1]).tolist()) * (attributes.get("scale") or 1 / math.sqrt(len(pair[0])))
    cap = attributes.get("softcap")
    return math.tanh(value / cap) * cap if cap else value


def added(inputs: dict[str, Array], row: int, head: int, i: int, j: int) -> float:
    total = 0.0
    if "bias" in inputs:
        rows, heads = inputs["bias"].shape[:2]
        total += float(inputs["bias"][row % rows, head % heads, i, j])
    if "distance_bias" in inputs:
        total += float(inputs["distance_bias"][head, j - i + inputs["distance_bias"].shape[1] // 2])
    if "alibi_slopes" in inputs:
        total -= float(inputs["alibi_slopes"][head]) * abs(j - i)
    return total


def mix(
    inputs: dict[str, Array],
    scores: dict[int, float],
    query: int,
    head: int,
    group: int,
    output: Array,
    lse: Array,
) -> None:
    if all(each == -math.inf for each in scores.values()):
        return
    sinks = [float(inputs["head_sink"][head])] if "head_sink" in inputs else []
    top = max([*scores.values(), *sinks])
    total = math.fsum(math.exp(each - top) for each in [*scores.values(), *sinks])
    lse[head, query] = top + math.log(total)
    size = output.shape[1] // len(lse)
    output[query, head * size : (head + 1) * size] = sum(
        math.exp(each - top) / total * _head(inputs["value"], key, head, len(lse), group)
        for key, each in scores.items()
    )


def _head(packed: Array, token: int, head: int, heads: int, group: int = 1) -> Array:
    size = packed.shape[1] * group // heads
    start = head // group * size
    return packed[token, start : start + size].astype(np.float64)


def attention_plan(inputs: dict[str, Array], attributes: dict[str, Any]) -> dict[str, Array]:
    return {"work_list": np.array([0, 0, 0, 0], np.int32)}


ORACLES: dict[str, Oracle] = {
    "AttentionPlan": attention_plan,
    "BlockMask": block_mask,
    "PackingPlan": packing_plan,
    "PackTokens": pack_tokens,
    "UnpackTokens": unpack_tokens,
    "MergeAttentionStates": merge_attention_states,
    "RaggedAttention": ragged_attention,
}


def _small_cases() -> list[Any]:
    return [
        pytest.param(op, case, id=f"{op}-{case.name}")
        for op, cases in CASES.items()
        for case in cases
        if case.group is not Group.PERFORMANCE
    ]


@pytest.mark.parametrize(("op", "case"), _small_cases())
@pytest.mark.parametrize("seed", [1, 2])
def test_reference_agrees_with_plain_loops(op: str, case: Case, seed: int) -> None:
    inputs = case.inputs(np.dtype(np.float32), seed)
    actual = REFERENCES[op](inputs, case.attributes, compute=np.float64)
    expected = ORACLES[op](inputs, dict(case.attributes))
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(actual[name], value, EXACT if value.dtype.kind in "ib" else FLOAT64_WORK, name)


@pytest.mark.parametrize(
    ("name", "absent", "message"),
    [
        ("tiles", "tile_bits", "tile_ptr but no tile_bits"),
        ("disentangled", "rel_bucket", "rel_query alone"),
        ("disentangled_query", "rel_query", "rel_bucket alone"),
    ],
)
def test_attention_reference_refuses_half_of_what_belongs_together(name: str, absent: str, message: str) -> None:
    case = next(case for case in CASES["RaggedAttention"] if case.name == name)
    inputs = {key: value for key, value in case.inputs(np.dtype(np.float32)).items() if key != absent}
    with pytest.raises(RaggedRTError, match=message):
        REFERENCES["RaggedAttention"](inputs, case.attributes)


def test_attention_reference_refuses_tiles_without_a_block_size() -> None:
    case = next(case for case in CASES["RaggedAttention"] if case.name == "tiles")
    with pytest.raises(RaggedRTError, match="block_size 0 and a tile list"):
        REFERENCES["RaggedAttention"](case.inputs(np.dtype(np.float32)), {**case.attributes, "block_size": 0})


def test_attention_reference_refuses_positions_of_one_side_under_causal() -> None:
    case = next(case for case in CASES["RaggedAttention"] if case.name == "causal_left")
    inputs = {name: value for name, value in case.inputs(np.dtype(np.float32)).items() if name != "positions_q"}
    with pytest.raises(RaggedRTError, match="positions_k alone, but causal"):
        REFERENCES["RaggedAttention"](inputs, case.attributes)


def test_an_absent_required_input_is_named() -> None:
    with pytest.raises(RaggedRTError, match="'token_index' is absent"):
        REFERENCES["PackTokens"]({"x": np.zeros((1, 2))}, {})
