"""Plan, pack, attention and unpack in one graph compute padded attention, whatever the padding side."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from helpers.tolerances import ATTENTION, assert_close
from raggedrt.plugins.bodies import attach_function_bodies
from raggedrt.plugins.node import make_node
from raggedrt.plugins.ops.case import padding_mask

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort_cpu

Array = npt.NDArray[Any]
HEADS, HEAD_SIZE = 2, 4
WIDTH = HEADS * HEAD_SIZE


def packed_attention(causal: bool, **plan_attributes: Any) -> Any:
    """A session: mask [B, S] and x [B, S, W] to self-attention of x, as padded tensors."""
    mask = ir.val("mask", dtype=ir.DataType.INT64, shape=["batch", "seq"])
    row = ir.val("row", dtype=ir.DataType.INT64, shape=["seq"])
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=["batch", "seq", WIDTH])
    plan = make_node("PackingPlan", {"attention_mask": mask}, plan_attributes, name="plan")
    index, cu_seqlens, position, key_position = plan.outputs
    pack = make_node("PackTokens", {"x": x, "token_index": index}, name="pack")
    lengths = {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens, "max_seqlen_q": row, "max_seqlen_k": row}
    tensors = dict.fromkeys(("query", "key", "value"), pack.outputs[0])
    places = {"positions_q": position, "positions_k": key_position}
    attributes = {"num_heads": HEADS, "causal": int(causal)}
    attention = make_node("RaggedAttention", tensors | lengths | places, attributes, name="attention")
    unpacked = {"packed": attention.outputs[0], "token_index": index, "like": mask, "key_position": key_position}
    unpack = make_node("UnpackTokens", unpacked, name="unpack")
    nodes = [plan, pack, attention, unpack]
    graph = ir.Graph([mask, row, x], unpack.outputs, nodes=nodes, opset_imports={"": 20}, name="packed")
    model = ir.Model(graph, ir_version=10)
    attach_function_bodies(model)
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])


def run(session: Any, mask: Array, x: Array) -> Array:
    (output,) = session.run(None, {"mask": mask, "row": np.zeros(mask.shape[1], np.int64), "x": x})
    return np.asarray(output)


def padded_attention(mask: Array, x: Array, causal: bool) -> Array:
    """The same on padded tensors, with zeros at padded slots."""
    batch, width, _ = x.shape
    heads = x.astype(np.float64).reshape(batch, width, HEADS, HEAD_SIZE).transpose(0, 2, 1, 3)  # [B, N, S, H]
    scores = heads @ heads.transpose(0, 1, 3, 2) / np.sqrt(HEAD_SIZE)  # [B, N, S, S]
    visible = (mask != 0)[:, None, None, :] & (np.tri(width, dtype=bool) if causal else True)
    weights = np.where(visible, np.exp(scores), 0)
    total = weights.sum(-1, keepdims=True)
    mixed = np.where(total > 0, weights / np.where(total > 0, total, 1), 0) @ heads
    output: Array = mixed.transpose(0, 2, 1, 3).reshape(x.shape) * (mask != 0)[:, :, None]
    return output.astype(np.float32)


@pytest.mark.parametrize("plan_attributes", [{}, {"keep_slots": [0]}, {"capacity": 16, "keep_slots": [-1]}], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_composition_is_padded_attention(causal: bool, plan_attributes: dict[str, Any]) -> None:
    session = packed_attention(causal, **plan_attributes)
    rng = np.random.default_rng(3)
    for kind in ("full", "right", "left", "holes", "length_1", "empty_row", "no_token"):
        mask = padding_mask(rng, kind)
        x = rng.standard_normal((*mask.shape, WIDTH)).astype(np.float32)
        assert_close(run(session, mask, x), padded_attention(mask, x, causal), ATTENTION[x.dtype], kind)


def test_a_nan_stays_in_its_sequence() -> None:
    session = packed_attention(causal=False, keep_slots=[0])
    rng = np.random.default_rng(4)
    mask = padding_mask(rng, "empty_row")
    x = rng.standard_normal((*mask.shape, WIDTH)).astype(np.float32)
    clean = run(session, mask, x)
    x[1, 0] = np.nan
    output = run(session, mask, x)
    assert np.isnan(output[1]).any()
    np.testing.assert_array_equal(np.delete(output, 1, axis=0), np.delete(clean, 1, axis=0))
