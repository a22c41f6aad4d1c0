"""Whole graphs, every spelling and head: rewritten and original give the same values under every kind of padding."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from helpers.encoder_attention import SPELLINGS
from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_heads import HEADS
from helpers.encoder_runs import (
    assert_same_padded,
    assert_same_ragged,
    padded_feed,
    plain_session,
    rewritten,
    run,
)
from helpers.tolerances import EXACT, assert_close
from raggedrt.errors import FeatureError
from raggedrt.plugins.contract.io_roles import Role
from raggedrt.plugins.runtime.ort import ort_session

pytestmark = pytest.mark.ort_cpu

PER_SEQUENCE = ("pooled",)
FORMS = {
    "eager_mul": "MatMul-Softmax-MatMul",
    "eager_div": "MatMul-Softmax-MatMul",
    "eager_where": "MatMul-Softmax-MatMul",
    "eager_sink": "MatMul-Softmax-MatMul",
    "sdpa": "decomposed scaled_dot_product_attention",
    "bmm": "MatMul-Softmax-MatMul",
    "bmm_apart": "MatMul-Softmax-MatMul",
    "disentangled": "MatMul-Softmax-MatMul",
    "attention_4d": "onnx.Attention",
    "attention_4d_causal": "onnx.Attention",
    "attention_3d": "onnx.Attention",
    "mha": "com.microsoft.MultiHeadAttention",
    "mha_bias": "com.microsoft.MultiHeadAttention",
    "mha_attention_bias": "com.microsoft.MultiHeadAttention",
    "contrib_attention": "com.microsoft.Attention",
}
PADDING_ONLY = ("mha", "mha_bias", "contrib_attention")
"""Spellings whose mask is always the padding mask."""
VARIANTS: dict[str, dict[str, Any]] = {
    "fused qkv": {"fused_qkv": True},
    "grouped query, eager": {"kv_heads": 2},
    "grouped query, sdpa, rotary": {"kv_heads": 1, "attention": "sdpa", "rope": True, "positions": "none"},
    "grouped query, Attention-4d": {"kv_heads": 2, "attention": "attention_4d", "opset": 23},
    "grouped query, Attention-3d": {"kv_heads": 2, "attention": "attention_3d", "opset": 24},
    "no positions": {"positions": "none"},
    "position table": {"positions": "table"},
    "positions from ids": {"positions": "cumsum"},
    "positions from Range": {"positions": "range"},
    "position_ids": {"positions": "input"},
    "targets from activations": {"layout": "activation", "head": "two"},
    "flat Gemm": {"layout": "flat", "head": "two"},
    "flat Gemm, sdpa": {"layout": "flat", "attention": "sdpa"},
    "float16, eager": {"dtype": ir.DataType.FLOAT16},
    "float16, sdpa": {"dtype": ir.DataType.FLOAT16, "attention": "sdpa"},
    "other names": {"names": ("input_ids", "input_mask"), "head": "two"},
    "int32 mask": {"mask_type": ir.DataType.INT32, "head": "masked_mean"},
    "bool mask": {"mask_type": ir.DataType.BOOL, "head": "masked_mean"},
    "float mask": {"mask_type": ir.DataType.FLOAT, "head": "masked_mean"},
    **{f"opset {opset}": {"opset": opset, "head": "two"} for opset in (17, 18, 20, 23, 24)},
    "opset 17, mean": {"opset": 17, "head": "masked_mean"},
}
STATIC: dict[str, dict[str, Any]] = {
    "zeros": {},
    "activation": {"layout": "activation", "positions": "table", "head": "two"},
    "flat": {"layout": "flat", "head": "masked_mean_expand"},
    "sizes equal to others": {"heads": 6, "kv_heads": 6, "layout": "activation"},
}


def _opset(attention: str) -> int:
    return 23 if attention.startswith("attention") else 20


def _check(spec: EncoderSpec, io: str, *, native: bool = False) -> None:
    pair = rewritten(build_encoder(spec), features=("pack",), io=io)
    assert pair.ops.count("RaggedAttention") == spec.layers
    assert "Softmax" not in pair.ops
    assert [entry.form for entry in pair.report.attention] == [FORMS[spec.attention]] * spec.layers
    assert [role.role for role in pair.report.outputs] == [
        Role.PER_SEQUENCE if role.name in PER_SEQUENCE else Role.PER_TOKEN for role in pair.report.outputs
    ]
    if io == "padded":
        assert_same_padded(pair, padded_feed(spec), per_sequence=PER_SEQUENCE, native=native)
    else:
        assert_same_ragged(pair, spec, per_sequence=PER_SEQUENCE, native=native)


@pytest.mark.parametrize("io", ["padded", "ragged"])
@pytest.mark.parametrize("mask", ["padding", "causal_padding"])
@pytest.mark.parametrize("attention", list(SPELLINGS))
def test_every_spelling_is_packed(attention: str, mask: str, io: str) -> None:
    if mask != "padding" and attention in PADDING_ONLY:
        mask = "none"  # whatever the graph's mask is, this spelling takes the padding mask
    _check(EncoderSpec(attention, mask, opset=_opset(attention)), io)


@pytest.mark.parametrize("io", ["padded", "ragged"])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_variants_of_the_graph_are_packed(variant: str, io: str) -> None:
    _check(EncoderSpec(**VARIANTS[variant]), io)


@pytest.mark.parametrize("variant", list(STATIC))
def test_static_shapes_are_packed(variant: str) -> None:
    _check(EncoderSpec(batch=6, sequence=7, **STATIC[variant]), "padded")


READS = [
    ("token_logits", 0), ("question_answering", 0), ("cls_gather", 0), ("cls_slice", 0), ("slot", 1), ("slot", 3),
    ("slot", -1), ("slot", -2), ("slot_slice", 3), ("slot_slice", -1), ("two", 0), ("masked_mean", 0),
    ("masked_mean_expand", 0), ("masked_max", 0), ("last_by_length", 0), ("last_token", 0), ("last_by_ids", 0),
]  # fmt: skip


@pytest.mark.parametrize(("head", "slot"), READS)
def test_heads_read_the_same_slots_padded(head: str, slot: int) -> None:
    _check(EncoderSpec(head=head, slot=slot), "padded")


@pytest.mark.parametrize(("head", "slot"), [read for read in READS if read[1] in (0, -1)])
def test_heads_read_the_same_slots_ragged(head: str, slot: int) -> None:
    _check(EncoderSpec(head=head, slot=slot), "ragged")


@pytest.mark.parametrize(("head", "slot"), [
    ("slot", -1), ("masked_mean", 0), ("masked_max", 0), ("token_logits", 0), ("last_token", 0), ("last_by_ids", 0),
])  # fmt: skip
@pytest.mark.parametrize("mask", ["causal_padding", "window"])
def test_causal_heads_that_padding_cannot_reach(head: str, slot: int, mask: str) -> None:
    if mask == "window" and (head, slot) in (("slot", -1), ("last_by_ids", 0)):
        return  # ids are noise at padded slots, so the slot that is read may be beyond the window
    _check(EncoderSpec(head=head, slot=slot, mask=mask), "padded")


REFUSED = {
    "unmasked mean": ({"head": "mean"}, "padded", r"ReduceMean reads padded slots"),
    "unmasked mean, ragged": ({"head": "mean"}, "ragged", r"ReduceMean reads padded slots"),
    "softmax over tokens": ({"head": "token_softmax"}, "padded", r"Softmax works along the token axis"),
    "weights as output": ({"head": "weights", "layers": 1}, "padded", r"weights are used for something else"),
    "no mask": ({"mask": "none"}, "padded", r"does not hide padded keys"),
    "first slot of a decoder": ({"head": "two", "mask": "causal_padding"}, "padded", r"slot 0 is read; under a causal"),
    "run-time slot of a decoder": (
        {"head": "last_by_length", "mask": "causal_padding"}, "padded", r"chosen at run time, is read; where it is",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(REFUSED))
def test_refusals_name_the_reason_and_leave_the_graph_as_it_was(case: str) -> None:
    fields, io, reason = REFUSED[case]
    spec = EncoderSpec(**fields)  # type: ignore[arg-type]
    with pytest.raises(FeatureError, match=reason):
        rewritten(build_encoder(spec), features=("pack",), io=io)
    pair = rewritten(build_encoder(spec), features=("pack",), io=io, allow_partial=True)
    assert any(re.search(reason, refusal.reason) for refusal in pair.report.refusals)
    assert not any(node.domain == "raggedrt" for node in pair.model.graph)
    assert not any((name or "").startswith("ragged_") for name in pair.model.graph.initializers)
    assert [entry.op for entry in pair.report.attention] == [None] * spec.layers
    assert all(entry.reason for entry in pair.report.attention)
    feed = padded_feed(spec)
    before, after = run(plain_session(pair.original), feed), run(ort_session(pair.model, native=False), feed)
    for name, value in before.items():
        assert_close(after[name], value, EXACT, name)


def test_without_a_mask_ragged_sequences_are_each_alone() -> None:
    _check(EncoderSpec(mask="none", head="two"), "ragged")


def test_attention_weights_as_output_leave_that_layer_alone() -> None:
    spec = EncoderSpec(head="weights")
    pair = rewritten(build_encoder(spec), features=("pack",))
    assert [entry.op for entry in pair.report.attention if entry.op] == ["RaggedAttention"]
    feed = padded_feed(spec)
    before, after = run(plain_session(pair.original), feed), run(ort_session(pair.model, native=False), feed)
    assert_close(after["attentions"], before["attentions"], EXACT)


@pytest.mark.parametrize("io", ["padded", "ragged"])
@pytest.mark.parametrize(
    "fields",
    [{"head": "two"}, {"mask": "causal_padding", "kv_heads": 2}, {"mask": "window"}, {"attention": "eager_sink"}],
)
@pytest.mark.usefixtures("op_library")
def test_with_the_op_library(io: str, fields: dict[str, Any]) -> None:
    _check(EncoderSpec(**fields), io, native=True)


@pytest.mark.parametrize("lengths", [(0, 4), (4, 0), (1,), (16, 16), (0, 0)])
def test_ragged_batches_at_the_edges(lengths: tuple[int, ...]) -> None:
    spec = EncoderSpec(head="two")
    pair = rewritten(build_encoder(spec), features=("pack",), io="ragged")
    if any(lengths):
        assert_same_ragged(pair, spec, per_sequence=PER_SEQUENCE, lengths=lengths)
        return
    feed = {
        "input_ids": np.zeros(0, dtype=np.int64),
        "cu_seqlens": np.zeros(3, dtype=np.int32),
        "max_seqlen": np.zeros(0, dtype=np.float32),
    }
    outputs = run(ort_session(pair.model, native=False), feed)
    assert outputs["last_hidden_state"].shape == (0, 32)
    assert outputs["pooled"].shape == (2, 3)
    assert np.isfinite(outputs["pooled"]).all()


def test_every_head_has_a_case() -> None:
    tested = {head for head, _ in READS} | {"hidden", "weights"}
    tested |= {str(fields["head"]) for fields, _, _ in REFUSED.values() if "head" in fields}
    assert set(HEADS) == tested
    assert set(SPELLINGS) == set(FORMS)
