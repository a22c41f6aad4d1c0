"""Keys and values of earlier calls: graphs for calls without any (`prefill`), and what is put out for later calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from helpers.attended import HEAD_SIZE, HEADS, WIDTH, Attended, embeddings
from helpers.cached_graphs import Cached
from helpers.encoder_runs import FP32, MASK, Rewritten, plain_session, rewritten, run
from helpers.graph_writer import GraphWriter
from helpers.tolerances import assert_close
from raggedrt.errors import FeatureError, InputError
from raggedrt.plugins.runtime.ort import ort_session

pytestmark = pytest.mark.ort_cpu


def _check(pair: Rewritten, feed: dict[str, Any], further: dict[str, Any], slots: dict[str, int]) -> None:
    """Equal at valid slots, zero elsewhere; `slots` says which axis of an output counts them."""
    want, got = run(plain_session(pair.original), feed | further), run(ort_session(pair.model, native=False), feed)
    valid = feed["attention_mask"] != 0
    for name, values in want.items():
        assert got[name].shape == values.shape
        order = {1: (0, 1, 2), 2: (0, 2, 1, 3), 3: (1, 3, 0, 2, 4)}[slots.get(name, 1)]
        wanted, found = (array.transpose(order) for array in (values, got[name]))
        assert_close(found[valid], wanted[valid], FP32, name)
        if not found[~valid].any():
            continue  # else nothing in front of it was packed, and it is the original's
        assert_close(found, wanted, FP32, name)


@pytest.mark.parametrize("mask", [MASK, np.ones((3, 1), np.int64)])
def test_prefill_leaves_caches_out(mask: Any) -> None:
    graph = Cached()
    pair = rewritten(graph.model(graph.layer()), features=("pack",), prefill=True)
    assert [value.name for value in pair.model.graph.inputs] == ["inputs_embeds", "attention_mask"]
    assert pair.ops.count("RaggedAttention") == 1
    empty = np.zeros((len(mask), HEADS, 0, HEAD_SIZE), np.float32)
    caches = {"past.key": empty, "past.value": empty}
    _check(pair, embeddings(mask), caches, {"present.key": 2, "present.value": 2})


def test_a_cache_is_refused_without_prefill_and_prefill_without_a_cache() -> None:
    graph = Cached()
    with pytest.raises(FeatureError, match=r"past\.key.*--prefill"):
        rewritten(graph.model(graph.layer()), features=("pack",))
    plain = Attended()
    with pytest.raises(InputError, match="no input of the graph is a cache"):
        rewritten(plain.model({"result": plain.y}), prefill=True)


def test_a_cache_that_something_else_reads_is_refused() -> None:
    graph = Cached()
    outputs = graph.layer()
    outputs["norm"] = graph.reduce("ReduceSum", graph.past[0], [2, 3], keepdims=False)
    with pytest.raises(InputError, match=r"ReduceSum.*reads the cache 'past\.key' otherwise"):
        rewritten(graph.model(outputs), prefill=True)


def test_a_cache_of_a_branch_is_refused() -> None:
    graph = Cached()
    outputs = graph.layer()
    inner = ir.Node("", "Concat", [graph.past[0], graph.past[0]], [ir.AttrInt64("axis", 2)], num_outputs=1)
    other = ir.Node("", "Concat", [graph.past[1], graph.past[1]], [ir.AttrInt64("axis", 2)], num_outputs=1)
    branches = [ir.Graph([], [node.outputs[0]], nodes=[node], name=name) for node, name in ((inner, "a"), (other, "b"))]
    test = graph.constant(True, np.bool_)
    outputs["chosen"] = graph.op.op("If", [test], {"then_branch": branches[0], "else_branch": branches[1]})
    with pytest.raises(InputError, match="a branch or loop"):
        rewritten(graph.model(outputs), prefill=True)


def _fused(op_type: str, opset: int) -> tuple[GraphWriter, dict[str, ir.Value], dict[str, int]]:
    graph = Attended(opset)
    op, x = graph.op, graph.y
    if op_type == "Attention-1":
        inputs = [x, graph.weight(WIDTH, 3 * WIDTH), graph.weight(3 * WIDTH), op.Cast(graph.mask, to=ir.DataType.INT32)]
        hidden, present = graph.contrib("Attention", inputs, 2, num_heads=HEADS, unidirectional=1)
        return graph, {"hidden": hidden, "present": present}, {"present": 3}
    parts = [op.MatMul(x, graph.weight(WIDTH, WIDTH, scale=WIDTH**-0.5)) for _ in range(3)]
    names = ("hidden", "present_key", "present_value")
    if op_type == "MultiHeadAttention":
        padding = op.Cast(graph.mask, to=ir.DataType.INT32)
        values = graph.contrib(op_type, [*parts, graph.weight(3 * WIDTH), padding], 3, num_heads=HEADS)
    else:
        batch, length = (op.Shape(graph.mask, start=number, end=number + 1) for number in (0, 1))
        square = op.Concat(batch, graph.ints([1]), length, length, axis=0)
        keep = op.Expand(op.Unsqueeze(graph.keep, graph.ints([1, 2])), square)
        heads = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
        if op_type == "onnx 4-D":
            parts, heads = [graph.heads(part) for part in parts], {}
        values = op.op_multi_out("Attention", [*parts, keep], heads, num_outputs=3)
        if op_type == "onnx 4-D":
            merged = op.Reshape(op.Transpose(values[0], perm=[0, 2, 1, 3]), graph.ints([0, 0, WIDTH]))
            values = [merged, *values[1:]]
    return graph, dict(zip(names, values, strict=True)), {"present_key": 2, "present_value": 2}


@pytest.mark.parametrize("op_type", ["MultiHeadAttention", "Attention-1", "onnx 3-D", "onnx 4-D"])
def test_presents_of_fused_ops_are_served(op_type: str) -> None:
    graph, outputs, slots = _fused(op_type, 23 if op_type.startswith("onnx") else 20)
    pair = rewritten(graph.model(outputs), features=("pack",))
    assert pair.ops.count("RaggedAttention") == 2
    assert not {"Attention", "MultiHeadAttention"} & set(pair.ops)
    _check(pair, embeddings(), {}, slots)


def test_images_that_are_joined_are_no_cache() -> None:
    graph = Attended()
    image = graph.input("image", ["batch", 3, "height", "width"], ir.DataType.FLOAT)
    both = graph.op.Concat(image, image, axis=1)
    with pytest.raises(InputError, match="no input of the graph is a cache"):
        rewritten(graph.model({"result": graph.y, "both": both}), prefill=True)


@pytest.mark.parametrize("contrib", [False, True])
def test_a_bias_with_four_axes_is_no_cache(contrib: bool) -> None:
    """Masks and biases are inputs of fused attention, too, and stay."""
    graph = Cached()
    graph.opset = 20 if contrib else 24
    bias = graph.input("bias", ["batch", HEADS, "seq", "past + seq"], ir.DataType.FLOAT)
    rows = [graph.op.MatMul(graph.x, graph.weight(WIDTH, WIDTH, scale=0.5)) for _ in range(3)]
    if contrib:
        outputs = graph.contrib("MultiHeadAttention", [*rows, None, None, bias, *graph.past], 3, num_heads=HEADS)
    else:
        sizes = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
        outputs = graph.op.op_multi_out("Attention", [*rows, bias, *graph.past], sizes, num_outputs=3)
    names = ("hidden", "present.key", "present.value")
    pair = rewritten(graph.model(dict(zip(names, outputs, strict=True))), prefill=True, allow_partial=True)
    assert [value.name for value in pair.model.graph.inputs] == ["inputs_embeds", "attention_mask", "bias"]
    mask = np.ones((2, 5), np.int64)
    empty = np.zeros((2, HEADS, 0, HEAD_SIZE), np.float32)
    given = {"bias": np.random.default_rng(1).normal(size=(2, HEADS, 5, 5)).astype(np.float32)}
    feed = embeddings(mask) | given
    want = run(plain_session(pair.original), feed | {"past.key": empty, "past.value": empty})
    got = run(ort_session(pair.model, native=False), feed)
    for name, values in want.items():
        assert_close(got[name], values, FP32, name)
