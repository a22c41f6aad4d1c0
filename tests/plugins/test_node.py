from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import pytest

from raggedrt.errors import RaggedRTError
from raggedrt.plugins.contract.abi import ABI_VERSION, Feature
from raggedrt.plugins.node import AttributeValue, make_node, required_features

pytestmark = pytest.mark.none


def value(
    name: str, dtype: ir.DataType | None = ir.DataType.FLOAT, shape: Sequence[int | str] | None = None
) -> ir.Value:
    return ir.val(name, dtype=dtype, shape=shape)


def attention_inputs(width: int = 32, kv_width: int = 32) -> dict[str, ir.Value | None]:
    cu_seqlens, carrier = value("cu", ir.DataType.INT32, ["batch + 1"]), value("carrier", ir.DataType.INT64, ["seq"])
    return {
        "query": value("q", shape=["tokens", width]),
        "key": value("k", shape=["tokens", kv_width]),
        "value": value("v", shape=["tokens", kv_width]),
        "cu_seqlens_q": cu_seqlens,
        "cu_seqlens_k": cu_seqlens,
        "max_seqlen_q": carrier,
        "max_seqlen_k": carrier,
    }


def features(node: ir.Node) -> Feature:
    return Feature(node.attributes["features"].as_int())


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "attributes", "expected"),
    [
        ("RaggedAttention", set(), {"output"}, {"num_heads": 4}, Feature(0)),
        ("RaggedAttention", set(), {"output"}, {"num_heads": 4, "kv_num_heads": 4}, Feature(0)),
        ("RaggedAttention", set(), {"output"}, {"num_heads": 4, "kv_num_heads": 2}, Feature.GROUPED_QUERY),
        ("RaggedAttention", set(), {"output", "lse"}, {"num_heads": 4}, Feature.LSE),
        ("RaggedAttention", {"positions_k"}, {"output"}, {"num_heads": 4}, Feature.POSITIONS),
        ("RaggedAttention", set(), {"output"}, {"num_heads": 4, "causal": 1}, Feature.CAUSAL),
        ("RaggedAttention", set(), {"output"}, {"num_heads": 4, "causal": 0, "scale": 0.5}, Feature(0)),
        ("RaggedAttention", set(), {"output"}, {"num_heads": 4, "window_left": 0}, Feature.WINDOW),
        ("RaggedAttention", set(), {"output"}, {"num_heads": 4, "window_right": -1}, Feature(0)),
        ("RaggedAttention", set(), {"output"}, {"num_heads": 4, "global_tokens": [0]}, Feature.GLOBAL_TOKENS),
        ("RaggedAttention", set(), {"output"}, {"num_heads": 4, "dilation": 2}, Feature.DILATION),
        ("RaggedAttention", set(), {"output"}, {"num_heads": 4, "softcap": 30.0}, Feature.SOFTCAP),
        ("RaggedAttention", {"tile_ptr"}, {"output"}, {"num_heads": 4, "block_size": 64}, Feature.BLOCK_MASK),
        ("RaggedAttention", {"bias", "head_sink"}, {"output"}, {"num_heads": 4}, Feature.BIAS | Feature.SINK),
        ("RaggedAttention", {"distance_bias"}, {"output"}, {"num_heads": 4}, Feature.DISTANCE_BIAS),
        ("RaggedAttention", {"rel_query"}, {"output"}, {"num_heads": 4}, Feature.DISENTANGLED),
        ("RaggedAttention", {"alibi_slopes"}, {"output"}, {"num_heads": 4}, Feature.ALIBI),
        ("PackingPlan", {"attention_mask"}, set(), {"keep_slots": []}, Feature(0)),
        (
            "PackingPlan",
            {"attention_mask"},
            set(),
            {"keep_slots": [0], "capacity": 8},
            Feature.KEEP_SLOTS | Feature.CAPACITY,
        ),
        ("PackingPlan", {"attention_mask", "keep_mask"}, set(), {}, Feature.KEEP_MASK),
        ("RaggedAttention", {"work_list"}, {"output"}, {"num_heads": 4}, Feature.WORK_LIST),
        ("AttentionPlan", {"positions_k"}, {"work_list"}, {"causal": 1}, Feature.POSITIONS | Feature.CAUSAL),
        ("MergeAttentionStates", {"lse1", "lse2"}, {"output", "lse"}, {}, Feature(0)),
    ],
)
def test_required_features(
    op: str, inputs: set[str], outputs: set[str], attributes: dict[str, AttributeValue], expected: Feature
) -> None:
    assert required_features(op, inputs, outputs, attributes) == expected
    assert required_features(op, inputs, outputs, attributes, extra=Feature.CROSS_LENGTHS) == (
        expected | Feature.CROSS_LENGTHS
    )


def test_absent_inputs_are_dropped_at_the_end_and_empty_inside() -> None:
    positions = value("p", ir.DataType.INT32, ["tokens"])
    node = make_node(
        "RaggedAttention", {**attention_inputs(), "positions_k": positions, "bias": None}, {"num_heads": 4}
    )
    assert len(node.inputs) == 9
    assert node.inputs[7] is None
    assert node.inputs[8] is positions


def test_guard_and_given_attributes_are_written_defaults_are_not() -> None:
    node = make_node("RaggedAttention", attention_inputs(), {"num_heads": 4, "scale": 1, "causal": True, "dilation": 1})
    assert set(node.attributes) == {"num_heads", "scale", "causal", "abi", "features"}
    assert node.attributes["abi"].as_int() == ABI_VERSION
    assert node.attributes["scale"].as_float() == 1.0
    assert node.attributes["causal"].as_int() == 1
    assert features(node) == Feature.CAUSAL


def test_attention_outputs_have_types_shapes_and_names() -> None:
    inputs = attention_inputs(kv_width=16) | {"value": value("v", shape=["tokens", 48])}
    node = make_node("RaggedAttention", inputs, {"num_heads": 4, "kv_num_heads": 2}, outputs=["lse"], name="attn")
    output, lse = node.outputs
    assert (output.name, output.dtype, output.shape) == ("attn_output", ir.DataType.FLOAT, ir.Shape(["tokens", 96]))
    assert (lse.name, lse.dtype, lse.shape) == ("attn_lse", ir.DataType.FLOAT, ir.Shape([4, "tokens"]))
    assert features(node) == Feature.GROUPED_QUERY | Feature.LSE | Feature.VALUE_HEAD_SIZE


def test_other_key_lengths_are_seen() -> None:
    inputs = attention_inputs() | {"cu_seqlens_k": value("cu_k", ir.DataType.INT32, ["batch + 1"])}
    assert features(make_node("RaggedAttention", inputs, {"num_heads": 4})) == Feature.CROSS_LENGTHS


def test_packing_shapes() -> None:
    mask = value("mask", ir.DataType.INT64, ["batch", "seq"])
    plan = make_node("PackingPlan", {"attention_mask": mask}, token_axis="source_tokens")
    assert [output.dtype for output in plan.outputs] == [ir.DataType.INT32] * 4
    assert [str(output.shape) for output in plan.outputs] == [
        "[source_tokens]", "[batch + 1]", "[source_tokens]", "[source_tokens]"
    ]  # fmt: skip
    x = value("x", ir.DataType.FLOAT16, ["batch", "seq", 8])
    packed = make_node("PackTokens", {"x": x, "token_index": plan.outputs[0]}).outputs[0]
    assert (packed.dtype, packed.shape) == (ir.DataType.FLOAT16, ir.Shape(["source_tokens", 8]))
    back = make_node("UnpackTokens", {"packed": packed, "token_index": plan.outputs[0], "like": mask}).outputs[0]
    assert (back.dtype, back.shape) == (ir.DataType.FLOAT16, x.shape)


def test_static_batch_and_unknown_shapes() -> None:
    plan = make_node("PackingPlan", {"attention_mask": value("mask", ir.DataType.BOOL, [3, 7])})
    assert plan.outputs[1].shape == ir.Shape([4])
    packed = make_node("PackTokens", {"x": value("x"), "token_index": plan.outputs[0]}).outputs[0]
    assert packed.shape is None


@pytest.mark.parametrize(
    ("op", "changes", "attributes", "message"),
    [
        ("Attention", {}, {}, "no op raggedrt::Attention; the ops are PackingPlan"),
        ("RaggedAttention", {"mask": value("m")}, {"num_heads": 4}, "no input 'mask'; it has alibi_slopes"),
        ("RaggedAttention", {"key": None}, {"num_heads": 4}, "needs the input 'key'"),
        ("RaggedAttention", {}, {"num_heads": 4, "is_causal": 1}, "no attribute 'is_causal'"),
        ("RaggedAttention", {}, {}, "needs the attribute 'num_heads'"),
        ("RaggedAttention", {}, {"num_heads": 4, "kv_num_heads": 3}, "4 heads and 3 key/value heads"),
        (
            "RaggedAttention",
            {"query": value("q", ir.DataType.DOUBLE)},
            {"num_heads": 4},
            "'query' is DOUBLE, expected FLOAT",
        ),
        (
            "RaggedAttention",
            {"key": value("k", ir.DataType.FLOAT16)},
            {"num_heads": 4},
            "'key' is FLOAT16, expected FLOAT;",
        ),
        (
            "RaggedAttention",
            {"positions_k": value("p", ir.DataType.INT64)},
            {"num_heads": 4},
            "is INT64, expected INT32",
        ),
    ],
)
def test_what_the_definition_does_not_have_is_refused(
    op: str, changes: dict[str, ir.Value | None], attributes: dict[str, int], message: str
) -> None:
    with pytest.raises(RaggedRTError, match=message):
        make_node(op, attention_inputs() | changes, attributes)


def test_unknown_output_is_refused() -> None:
    with pytest.raises(RaggedRTError, match="no output 'weights'; it has lse, output"):
        make_node("RaggedAttention", attention_inputs(), {"num_heads": 4}, outputs=["weights"])
