"""BlockMask at run time, and the attention that reads its tiles, in one graph and against padded attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.mask_strategies import BLOCK_SIZES, CLAUSES
from helpers.tolerances import ATTENTION, assert_close
from raggedrt.errors import InputError, RaggedRTError
from raggedrt.plugins.bodies import attach_function_bodies
from raggedrt.plugins.contract.abi import Feature
from raggedrt.plugins.contract.mask_rules import UNBOUNDED, Clauses, Rule, causal, columns, encode, rows, window
from raggedrt.plugins.layout.build import from_mask
from raggedrt.plugins.layout.from_rules import from_rules
from raggedrt.plugins.layout.tile_layout import TENSORS
from raggedrt.plugins.node import make_node
from raggedrt.plugins.ops.case import padding_mask

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort_cpu

Array = npt.NDArray[Any]
HEADS, KV_HEADS, HEAD_SIZE = 4, 2, 4
HEAD_GROUP = np.array([1, 0, 0, 1], np.int32)
BIGBIRD: Clauses = [
    [window(1, 1, unit=8), *(make(*end, unit=8) for make in (rows, columns) for end in ((0, 1), (-1, UNBOUNDED)))]
]
MASKS: dict[str, Clauses] = {
    "bigbird": BIGBIRD,
    "longformer": [[window(6, 6), rows(0, 1), columns(0, 1)]],
    "dilated_causal": [[window(12, -1, dilation=3)], [causal()]],
}


def session(nodes: Sequence[ir.Node], inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], opset: int) -> Any:
    graph = ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": opset}, name="tested")
    model = ir.Model(graph, ir_version=10)
    attach_function_bodies(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def builder(clauses: Clauses, block_size: int, opset: int = 20, *, blocks: bool = False) -> Any:
    """A session: max_seqlen [S] (and blocks) to the tile tensors."""
    inputs = {"max_seqlen": ir.val("max_seqlen", dtype=ir.DataType.INT64, shape=["seq"])}
    if blocks:
        inputs["blocks"] = ir.val("blocks", dtype=ir.DataType.INT32, shape=["groups", "rows", "listed"])
    node = make_node("BlockMask", inputs, {"block_size": block_size, "rules": encode(clauses)}, name="mask")
    return session([node], list(inputs.values()), node.outputs, opset)


def assert_tiles(built: Sequence[Array], expected: Any) -> None:
    for name, tensor in zip(TENSORS, built, strict=True):
        np.testing.assert_array_equal(tensor, getattr(expected, name), name)
        assert tensor.dtype == np.int32


@settings(derandomize=True, max_examples=30, deadline=None)
@given(CLAUSES, BLOCK_SIZES, st.integers(0, 60), st.integers(0, 2**32 - 1), st.booleans())
def test_body_builds_what_numpy_builds(clauses: list[list[Rule]], size: int, length: int, seed: int, b: bool) -> None:
    built = builder(clauses, size, blocks=b)
    for rows_listed in (3, 9):
        feed = {"max_seqlen": np.zeros(length, np.int64)}
        listed = np.random.default_rng(seed).integers(-2, 8, (2, rows_listed, 2)).astype(np.int32)
        expected = from_rules(clauses, length, size, blocks=listed if b else None)
        assert_tiles(built.run(None, feed | ({"blocks": listed} if b else {})), expected)


@pytest.mark.parametrize("opset", [17, 20, 24])
def test_one_session_serves_every_length(opset: int) -> None:
    built = builder(BIGBIRD, 16, opset)
    for length in (0, 1, 16, 33, 200):
        assert_tiles(built.run(None, {"max_seqlen": np.zeros(length, np.int64)}), from_rules(BIGBIRD, length, 16))


def sparse_attention(clauses: Clauses, block_size: int, opset: int, *, groups: bool) -> Any:
    """A session: mask [B, S], query, key and value [B, S, …] to padded attention through packed tokens and tiles."""
    mask = ir.val("mask", dtype=ir.DataType.INT64, shape=["batch", "seq"])
    row = ir.val("row", dtype=ir.DataType.INT64, shape=["seq"])
    widths = {"query": HEADS * HEAD_SIZE, "key": KV_HEADS * HEAD_SIZE, "value": KV_HEADS * HEAD_SIZE}
    padded = {n: ir.val(n, dtype=ir.DataType.FLOAT, shape=["batch", "seq", w]) for n, w in widths.items()}
    blocks = ir.val("blocks", dtype=ir.DataType.INT32, shape=[2, "rows", "listed"])
    head_group = ir.val("head_group", dtype=ir.DataType.INT32, shape=[HEADS])
    plan = make_node("PackingPlan", {"attention_mask": mask}, {"keep_slots": [0]}, name="plan")
    index, cu_seqlens, position, key_position = plan.outputs
    packs = [make_node("PackTokens", {"x": x, "token_index": index}, name=f"pack_{n}") for n, x in padded.items()]
    tiles = make_node(
        "BlockMask",
        {"max_seqlen": row, "blocks": blocks if groups else None},
        {"block_size": block_size, "rules": encode(clauses)},
        name="tiles",
    )
    inputs = dict(zip(padded, (pack.outputs[0] for pack in packs), strict=True))
    inputs |= {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens, "max_seqlen_q": row, "max_seqlen_k": row}
    inputs |= {"positions_q": position, "positions_k": key_position, **dict(zip(TENSORS, tiles.outputs, strict=True))}
    attributes = {"num_heads": HEADS, "kv_num_heads": KV_HEADS, "block_size": block_size}
    if groups:
        inputs["head_group"] = head_group
    attention = make_node("RaggedAttention", inputs, attributes, name="attention")
    unpacked = {"packed": attention.outputs[0], "token_index": index, "like": mask, "key_position": key_position}
    unpack = make_node("UnpackTokens", unpacked, name="unpack")
    given = [mask, row, *padded.values(), *([blocks, head_group] if groups else [])]
    return session([plan, *packs, tiles, attention, unpack], given, unpack.outputs, opset)


def padded_attention(mask: Array, visible: Array, query: Array, key: Array, value: Array) -> Array:
    """The same on padded tensors, with zeros at padded slots; visible is bool [N, S, S]."""
    batch, width, _ = query.shape
    heads = [
        x.reshape(batch, width, -1, HEAD_SIZE).transpose(0, 2, 1, 3).astype(np.float64) for x in (query, key, value)
    ]
    key_heads, value_heads = (x.repeat(HEADS // KV_HEADS, axis=1) for x in heads[1:])
    scores = heads[0] @ key_heads.transpose(0, 1, 3, 2) / np.sqrt(HEAD_SIZE)  # [B, N, S, S]
    weights = np.where((mask != 0)[:, None, None, :] & visible, np.exp(scores), 0)
    total = weights.sum(-1, keepdims=True)
    mixed = np.where(total > 0, weights / np.where(total > 0, total, 1), 0) @ value_heads
    output: Array = mixed.transpose(0, 2, 1, 3).reshape(query.shape) * (mask != 0)[:, :, None]
    return output.astype(np.float32)


@pytest.mark.parametrize("opset", [17, 18, 20, 23, 24])
@pytest.mark.parametrize("groups", [False, True], ids=["shared", "head_groups"])
@pytest.mark.parametrize("name", MASKS)
def test_packed_attention_over_tiles_is_masked_padded_attention(name: str, groups: bool, opset: int) -> None:
    run = sparse_attention(MASKS[name], 8, opset, groups=groups)
    rng = np.random.default_rng(5)
    for kind, width in (("full", 24), ("right", 43), ("left", 43), ("holes", 37), ("empty_row", 20), ("no_token", 9)):
        mask = padding_mask(rng, kind, batch=3, width=width)
        shapes = {"query": HEADS, "key": KV_HEADS, "value": KV_HEADS}
        x = {n: rng.standard_normal((3, width, h * HEAD_SIZE)).astype(np.float32) for n, h in shapes.items()}
        feed = {"mask": mask, "row": np.zeros(width, np.int64), **x}
        listed = rng.integers(-1, 6, (2, 4, 1)).astype(np.int32) if groups else None
        if listed is not None:
            feed |= {"blocks": listed, "head_group": HEAD_GROUP}
        visible = from_rules(MASKS[name], width, 8, blocks=listed).to_dense()[0]
        visible = visible[HEAD_GROUP] if groups else visible
        (output,) = run.run(None, feed)
        assert_close(output, padded_attention(mask, visible, **x), ATTENTION[output.dtype], f"{kind} {width}")


def test_tiles_of_the_data_set_the_feature_bit() -> None:
    node = make_node("BlockMask", {"max_seqlen": ir.val("m", dtype=ir.DataType.FLOAT, shape=[100])}, {"block_size": 16})
    assert node.attributes["features"].as_int() == int(Feature.BLOCK_MASK)
    shapes = [output.shape and output.shape.dims for output in node.outputs]
    assert shapes[0] == (1, 1, 8)
    assert shapes[3] is not None
    assert shapes[3][1] == 8


def test_positions_past_the_tiles_are_hidden() -> None:
    """A list made for 16 positions, read by a sequence of 20."""
    layout = from_mask(np.ones((16, 16), np.bool_), 8)
    names = ("query", "key", "value")
    x = {n: ir.val(n, dtype=ir.DataType.FLOAT, shape=["t", 4]) for n in names}
    lengths = {n: ir.val(n, dtype=ir.DataType.INT32, shape=[2]) for n in ("cu_seqlens_q",)}
    carrier = ir.val("carrier", dtype=ir.DataType.FLOAT, shape=["m"])
    tiles = {n: ir.val(n, dtype=ir.DataType.INT32, shape=list(a.shape)) for n, a in layout.tensors().items()}
    shared = {"cu_seqlens_q": lengths["cu_seqlens_q"], "cu_seqlens_k": lengths["cu_seqlens_q"]}
    shared |= {"max_seqlen_q": carrier, "max_seqlen_k": carrier}
    node = make_node("RaggedAttention", {**x, **shared, **tiles}, {"num_heads": 1, "block_size": 8}, name="attention")
    run = session([node], [*x.values(), *lengths.values(), carrier, *tiles.values()], node.outputs, 20)
    arrays = {n: np.random.default_rng(1).standard_normal((20, 4)).astype(np.float32) for n in names}
    feed = {**arrays, "cu_seqlens_q": np.array([0, 20], np.int32), "carrier": np.zeros(20, np.float32)}
    (output,) = run.run(None, feed | layout.tensors())
    weights = np.exp(arrays["query"][:16] @ arrays["key"][:16].T / 2)
    expected = weights / weights.sum(1, keepdims=True) @ arrays["value"][:16]
    assert_close(output[:16], expected, ATTENTION[output.dtype])
    assert not output[16:].any()


def test_impossible_nodes_are_refused() -> None:
    carrier = ir.val("m", dtype=ir.DataType.FLOAT, shape=["s"])
    with pytest.raises(RaggedRTError, match="BlockMask has block_size 0"):
        make_node("BlockMask", {"max_seqlen": carrier}, {"block_size": 0})
    node = make_node("BlockMask", {"max_seqlen": carrier}, {"block_size": 12}, name="mask")
    with pytest.raises(InputError, match="block size 12; expected a multiple of 8"):
        session([node], [carrier], node.outputs, 20)
