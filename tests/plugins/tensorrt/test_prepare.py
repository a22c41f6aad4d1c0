"""The graph that TensorRT is handed: standard ops alone, the same values, one plan from lengths."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_runs import Rewritten, assert_same_ragged, rewritten
from raggedrt.errors import InputError
from raggedrt.plugins.contract.op_definition import DOMAIN
from raggedrt.plugins.tensorrt.lengths_plan import plan_from_lengths
from raggedrt.plugins.tensorrt.prepare import prepare
from raggedrt.plugins.tensorrt.shared_dims import share_dims

pytestmark = pytest.mark.ort_cpu

SPECS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "two heads": ({"head": "two"}, ("pooled",)),
    "masked mean": ({"head": "masked_mean"}, ("pooled",)),
    "causal": ({"mask": "causal_padding"}, ()),
    "window": ({"mask": "window"}, ()),
    "band": ({"mask": "band"}, ()),
    "grouped query, rotary": ({"kv_heads": 1, "attention": "sdpa", "rope": True, "positions": "none"}, ()),
    "positions from ids": ({"positions": "cumsum"}, ()),
    "disentangled": ({"attention": "disentangled"}, ()),
    "opset 17": ({"opset": 17, "head": "two"}, ("pooled",)),
    "opset 24": ({"opset": 24, "head": "two"}, ("pooled",)),
    "float16": ({"dtype": ir.DataType.FLOAT16}, ()),
}


def prepared(spec: EncoderSpec) -> Rewritten:
    pair = rewritten(build_encoder(spec), target="tensorrt-rtx", io="ragged")
    prepare(pair.model, "the model")
    return pair


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("lengths", [(5, 1, 7, 0, 3), (1,), (4, 4), (0, 0, 6)], ids=str)
def test_values_stay_and_no_op_of_ours_does(name: str, lengths: tuple[int, ...]) -> None:
    changes, per_sequence = SPECS[name]
    spec = EncoderSpec(**changes)
    pair = prepared(spec)
    assert {node.domain for node in pair.model.graph.all_nodes()} <= {"", "ai.onnx"}
    assert not pair.model.functions
    assert "NonZero" not in pair.ops
    assert "If" not in pair.ops
    onnx.checker.check_model(ir.to_proto(pair.model))
    assert_same_ragged(pair, spec, per_sequence=per_sequence, lengths=lengths)


@pytest.mark.parametrize(
    ("changes", "casts"),
    [({}, 0), ({"dtype": ir.DataType.FLOAT16, "head_size": 64}, 2), ({"dtype": ir.DataType.FLOAT16}, 4)],
    ids=["float32", "float16", "a scale that 16 bits do not hold"],
)
def test_what_attention_derives_from_lengths_is_derived_once(changes: dict[str, Any], casts: int) -> None:
    """What another layer adds: three gathers into padded slots and one back, and no shape, mask or index."""
    first, second = (Counter(prepared(EncoderSpec(**{**changes, "layers": layers})).ops) for layers in (1, 2))
    added = second - first
    assert first["ScatterElements"] == second["ScatterElements"] == 1
    assert (added["Gather"], added["Softmax"], added["Transpose"], added["Where"]) == (4, 1, 1, 1)
    assert added["Cast"] == casts
    for op in ("Shape", "Concat", "Slice", "Range", "Expand", "Unsqueeze", "ConstantOfShape", "Not", "Less"):
        assert added[op] == 0, op


def _plan_model(opset: int = 20, *, attributes: str = "", of_mask: bool = False) -> ir.Model:
    mask = "mask" if of_mask else "valid"
    extra = ", int64[B,S] mask" if of_mask else ""
    return ir.from_proto(
        onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : {opset}, "{DOMAIN}" : 1]>
plan (int64[tokens] input_ids, int32[bp] cu_seqlens, float[sequence] max_seqlen{extra})
  => (int32[T1] index, int32[T2] cu, int32[T3] position, int32[T4] key_position) {{
  zero = Constant <value = int64[1] {{0}}> ()
  one = Constant <value = int64[1] {{1}}> ()
  far = Constant <value = int64[1] {{2147483647}}> ()
  last = Constant <value = int64[1] {{-1}}> ()
  start = Constant <value = int64 {{0}}> ()
  step = Constant <value = int64 {{1}}> ()
  offsets = Cast <to = 7> (cu_seqlens)
  begins = Slice (offsets, zero, last, zero)
  ends = Slice (offsets, one, far, zero)
  lengths = Sub (ends, begins)
  column = Unsqueeze (lengths, one)
  longest = Shape (max_seqlen)
  width = Squeeze (longest)
  slots = Range (start, width, step)
  valid = Less (slots, column)
  index, cu, position, key_position = {DOMAIN}.PackingPlan <abi = 1, features = 0{attributes}> ({mask})
}}""")
    )


@pytest.mark.parametrize("lengths", [(3, 1, 4), (1,), (0, 2, 0), (5, 5)], ids=str)
@pytest.mark.parametrize("longer", [0, 3])
def test_the_plan_from_lengths_is_the_plan_of_the_mask(lengths: tuple[int, ...], longer: int) -> None:
    """Also where `max_seqlen` is longer than any sequence."""
    model = _plan_model()
    prepare(model, "the model")
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    width = max(lengths) + longer
    names = ("index", "cu", "position", "key_position")
    cu = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    feeds = {"input_ids": np.zeros(sum(lengths), np.int64), "cu_seqlens": cu, "max_seqlen": np.zeros(width, np.float32)}
    known = {value.name for value in session.get_inputs()}
    found = dict(zip(names, session.run(names, {n: a for n, a in feeds.items() if n in known}), strict=True))
    row, position = np.nonzero(np.arange(width) < np.array(lengths)[:, None])
    want = {"index": row * width + position, "cu": cu, "position": position, "key_position": position}
    for name, values in want.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize(
    "changes",
    [{"of_mask": True}, {"attributes": ", keep_slots = [0]"}, {"attributes": ", capacity = 8"}],
    ids=["mask of the caller", "kept slots", "capacity"],
)
def test_other_plans_are_left_alone(changes: dict[str, Any]) -> None:
    """Slot 0, for example, is kept in an empty row too, and lengths alone would not say that."""
    assert plan_from_lengths(_plan_model(**changes)) == 0


def test_a_node_without_a_body_is_refused() -> None:
    model = _plan_model(of_mask=True)
    with pytest.raises(InputError, match=r"PackingPlan.*no function body"):
        prepare(model, "in.onnx")


def test_dimensions_are_read_from_the_inputs_that_have_them() -> None:
    model = ir.from_proto(
        onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
g (float[N,4] x, float[M] y) => (int64[1] a, int64[1] b, int64[1] c, int64[2] d)
  <float[N,4] twice, int64[1] p, int64[1] q, int64[1] r> {
  p = Shape <start = 0, end = 1> (x)
  twice = Add (x, x)
  q = Shape <start = 0, end = 1> (twice)
  r = Shape <start = 1> (twice)
  a = Identity (p)
  b = Identity (q)
  c = Identity (r)
  d = Shape (twice)
}""")
    )
    assert share_dims(model.graph) == 3
    shapes = [node for node in model.graph if node.op_type == "Shape"]
    assert [node.inputs[0].name for node in shapes if node.inputs[0] is not None] == ["x", "twice"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    values = session.run(None, {"x": np.zeros((3, 4), np.float32), "y": np.zeros(2, np.float32)})
    assert [value.tolist() for value in values] == [[3], [3], [4], [3, 4]]
