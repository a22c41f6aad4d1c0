"""Graphs as onnxruntime.transformers.optimizer leaves them: fused embeddings, and attention that takes key lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from helpers.encoder_runs import FP32, MASK, PADDINGS, Rewritten, plain_session, rewritten, run
from helpers.graph_writer import GraphWriter
from helpers.tolerances import EXACT, assert_close
from raggedrt.errors import FeatureError
from raggedrt.graph_passes.embed_layer_norm import take_embeddings_apart
from raggedrt.plugins.runtime.ort import ort_session

pytestmark = pytest.mark.ort_cpu

WIDTH, HEADS, WORDS, SLOTS = 16, 2, 20, 9
INT32 = ir.DataType.INT32
VALID = MASK != 0


class Optimized(GraphWriter):
    """input_ids, attention_mask [B, S], fused embeddings; `lengths` counts the ones of each row."""

    def __init__(self, opset: int = 17, *, segments: bool = True, positions: bool = False, mask: bool = True) -> None:
        super().__init__(opset)
        ids, self.mask = (self.input(name, ["batch", "seq"]) for name in ("input_ids", "attention_mask"))
        self.small = self.op.Cast(self.mask, to=INT32)
        given = self.op.Cast(ids, to=INT32)
        table = [self.weight(rows, WIDTH) for rows in (WORDS, SLOTS)]
        kinds = [self.op.Mod(given, self.constant(2, np.int32)), self.weight(2, WIDTH)] if segments else [None, None]
        inputs = [given, kinds[0], *table, kinds[1], self.weight(WIDTH, offset=1.0), self.weight(WIDTH)]
        inputs += [self.small if mask else None]
        inputs += [self.op.Mod(given, self.constant(SLOTS, np.int32))] if positions else []
        self.x, self.lengths, self.sum = self.contrib("EmbedLayerNormalization", inputs, 3, epsilon=1e-6)

    def attend(self, x: ir.Value, mask: ir.Value, op_type: str = "Attention", **attributes: object) -> ir.Value:
        """One layer of fused attention."""
        weight, bias = self.weight(WIDTH, 3 * WIDTH, scale=WIDTH**-0.5), self.weight(3 * WIDTH)
        if op_type == "Attention":
            return self.contrib("Attention", [x, weight, bias, mask], num_heads=HEADS, **attributes)[0]
        parts = [self.op.MatMul(x, self.weight(WIDTH, WIDTH, scale=WIDTH**-0.5)) for _ in range(3)]
        return self.contrib("MultiHeadAttention", [*parts, bias, mask], num_heads=HEADS, **attributes)[0]

    def normalized(self, x: ir.Value, skip: ir.Value) -> ir.Value:
        """SkipLayerNormalization."""
        inputs = [x, skip, self.weight(WIDTH, offset=1.0), self.weight(WIDTH), self.weight(WIDTH)]
        return self.contrib("SkipLayerNormalization", inputs)[0]

    def layer(self, x: ir.Value, mask: ir.Value, op_type: str = "Attention", **attributes: object) -> ir.Value:
        """Attention with its residual."""
        return self.normalized(self.attend(x, mask, op_type, **attributes), x)


def _feed(mask: Any = MASK) -> dict[str, Any]:
    return {"input_ids": np.random.default_rng(0).integers(0, WORDS, mask.shape), "attention_mask": mask}


def _check_padded(pair: Rewritten, *, native: bool = False) -> None:
    feed = _feed()
    want, got = run(plain_session(pair.original), feed), run(ort_session(pair.model, native=native), feed)
    for name, values in want.items():
        if values.shape[:2] == VALID.shape:
            assert_close(got[name][VALID], values[VALID], FP32, name)
            assert not got[name][~VALID].any()
        else:
            rows = VALID.any(axis=1)
            assert_close(got[name][rows], values[rows], FP32, name)


def _check_ragged(pair: Rewritten, lengths: tuple[int, ...] = (5, 1, 7, 0, 3)) -> None:
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    feed = _feed(mask.astype(np.int64))
    ragged = {
        "input_ids": feed["input_ids"][mask],
        "cu_seqlens": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        "max_seqlen": np.zeros(max(lengths), np.float32),
    }
    want, got = run(plain_session(pair.original), feed), run(ort_session(pair.model, native=False), ragged)
    assert_close(got["hidden"], want["hidden"][mask], FP32)


@pytest.mark.parametrize("options", [{}, {"segments": False}, {"positions": True}, {"mask": False}])
def test_embeddings_taken_apart_give_the_same_three_outputs(options: dict[str, bool]) -> None:
    graph = Optimized(**options)
    model = graph.model({"x": graph.x, "lengths": graph.lengths, "sum": graph.sum})
    before = ir.to_proto(model)
    assert take_embeddings_apart(model.graph) == 1
    assert not [node for node in model.graph if node.domain]
    want, got = (run(plain_session(proto), _feed()) for proto in (before, ir.to_proto(model)))
    assert_close(got["lengths"], want["lengths"], EXACT)
    for name in ("x", "sum"):
        assert_close(got[name], want[name], FP32, name)


@pytest.mark.parametrize("io", ["padded", "ragged"])
@pytest.mark.parametrize("op_type", ["Attention", "MultiHeadAttention"])
def test_key_lengths_hide_the_keys_behind_them_wherever_tokens_stand(op_type: str, io: str) -> None:
    graph = Optimized()
    hidden = graph.layer(graph.layer(graph.x, graph.lengths, op_type), graph.lengths, op_type)
    outputs = {"hidden": hidden}
    if io == "padded":
        outputs["pooled"] = graph.op.Gather(hidden, graph.ints(0), axis=1)
    pair = rewritten(graph.model(outputs), features=("pack",), io=io)
    assert pair.ops.count("RaggedAttention") == 2
    assert not {"Attention", "EmbedLayerNormalization"} & set(pair.ops)
    if io == "padded":
        _check_padded(pair)
    else:
        _check_ragged(pair)


@pytest.mark.usefixtures("op_library")
def test_key_lengths_on_the_native_library() -> None:
    graph = Optimized()
    hidden = graph.layer(graph.layer(graph.x, graph.lengths), graph.lengths)
    _check_padded(rewritten(graph.model({"hidden": hidden}), features=("pack",)), native=True)


def test_a_masked_mean_and_a_causal_op_beside_key_lengths() -> None:
    graph = Optimized()
    hidden = graph.layer(graph.x, graph.lengths, unidirectional=1)
    keep = graph.op.Cast(graph.op.Unsqueeze(graph.mask, graph.ints([-1])), to=ir.DataType.FLOAT)
    total = graph.reduce("ReduceSum", graph.op.Mul(hidden, keep), [1], keepdims=False)
    outputs = {"hidden": hidden, "total": total, "last": graph.op.Gather(hidden, graph.ints(-1), axis=1)}
    _check_padded(rewritten(graph.model(outputs), features=("pack",)))


def test_right_padded_rows_cost_no_slot_more() -> None:
    graph = Optimized()
    pair = rewritten(graph.model({"hidden": graph.layer(graph.x, graph.lengths)}), features=("pack",))
    plan = next(node for node in pair.model.graph if node.op_type == "PackingPlan")
    pair.model.graph.outputs.append(plan.outputs[0])
    rows = [number for number, name in enumerate(PADDINGS) if name in ("right", "full", "empty")]
    got = run(ort_session(pair.model, native=False), _feed(MASK[rows]))
    assert len(got[plan.outputs[0].name or ""]) == MASK[rows].sum()


def test_a_mask_by_place_in_one_layer_and_by_count_in_another_is_refused_but_for_ragged_inputs() -> None:
    def build() -> ir.Model:
        graph = Optimized()
        return graph.model({"hidden": graph.layer(graph.layer(graph.x, graph.lengths), graph.small)})

    with pytest.raises(FeatureError, match="another site's"):
        rewritten(build(), features=("pack",))
    _check_ragged(rewritten(build(), features=("pack",), io="ragged"))


def test_lengths_that_are_not_the_tokens_of_a_row_are_refused() -> None:
    graph = Optimized()
    fewer = graph.op.Sub(graph.lengths, graph.constant(1, np.int32))
    with pytest.raises(FeatureError, match="not the number of tokens in each row"):
        rewritten(graph.model({"hidden": graph.layer(graph.x, fewer)}), features=("pack",))
