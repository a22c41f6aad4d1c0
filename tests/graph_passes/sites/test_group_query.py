"""`com.microsoft.GroupQueryAttention` on whole prompts, as ONNX Runtime's model builder and fusions write it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from helpers.encoder_runs import FP16, FP32, LENGTHS, MASK, Rewritten, plain_session, rewritten, run
from helpers.graph_writer import GraphWriter
from helpers.tolerances import Tolerance, assert_close
from raggedrt.errors import FeatureError
from raggedrt.plugins.runtime.ort import ort_session

pytestmark = pytest.mark.ort_cpu

HEADS, KV_HEADS, HEAD_SIZE, WORDS, SLOTS, LAYERS = 4, 2, 16, 20, 12, 2
WIDTH = HEADS * HEAD_SIZE
INT32 = ir.DataType.INT32
SCHEMA = """query key value past_key past_value seqlens_k total_sequence_length cos_cache sin_cache position_ids
attention_bias head_sink"""


class Decoder(GraphWriter):
    """input_ids and attention_mask [B, S]; layers of GroupQueryAttention with residuals, key lengths from the mask."""

    def __init__(
        self,
        *,
        past: int | str | None = None,
        counted: bool = True,
        dtype: ir.DataType = ir.DataType.FLOAT,
        **attributes: Any,
    ) -> None:
        super().__init__(20, dtype)
        self.attributes = {"num_heads": HEADS, "kv_num_heads": KV_HEADS, **attributes}
        ids, self.mask = (self.input(name, ["batch", "seq"]) for name in ("input_ids", "attention_mask"))
        self.past, self.presents = past, dict[str, ir.Value]()
        op, one = self.op, self.ints([1])
        length = op.Gather(op.Shape(self.mask), self.ints(1))
        tokens = self.reduce("ReduceSum", self.mask, [1], keepdims=True)
        if not counted:
            tokens = op.Expand(length, op.Shape(tokens))
        self.seqlens, self.total = (op.Cast(value, to=INT32) for value in (op.Sub(tokens, one), length))
        self.ids = ids
        self.x = op.Gather(self.weight(WORDS, WIDTH), ids)

    def tables(self, half: int = HEAD_SIZE // 2) -> dict[str, ir.Value]:
        """Rotary tables."""
        angles = np.arange(SLOTS)[:, None] / 30.0 ** (np.arange(half) / half)
        pairs = {"cos_cache": np.cos(angles), "sin_cache": np.sin(angles)}
        return {name: self.constant(table, self.numpy_type) for name, table in pairs.items()}

    def layer(self, number: int, *, packed: bool = False, rotated: bool = False, **further: ir.Value | None) -> None:
        """One layer; `further` are inputs of the op by their names in its schema; `rotated`: before it, by tokens."""
        op, kv_width = self.op, KV_HEADS * HEAD_SIZE
        widths = [WIDTH + 2 * kv_width] if packed else [WIDTH, kv_width, kv_width]
        rows = [op.MatMul(self.x, self.weight(WIDTH, width, scale=WIDTH**-0.5)) for width in widths]
        if rotated:
            places = self.op.Max(op.Sub(op.CumSum(self.mask, one := self.ints(1)), one), self.ints(0))
            tables = list(self.tables().values())
            rows[:2] = [self.contrib("RotaryEmbedding", [part, places, *tables])[0] for part in rows[:2]]
        named = dict(zip(("query", "key", "value"), rows, strict=False)) | further
        named |= {"seqlens_k": self.seqlens, "total_sequence_length": self.total}
        if self.past is not None:
            for name in ("key", "value"):
                dims = ["batch", KV_HEADS, self.past, HEAD_SIZE]
                named[f"past_{name}"] = self.input(f"past_{name}_{number}", dims, ir.DataType.FLOAT)
        inputs = [named.get(name) for name in SCHEMA.split()]
        output, key, value = self.contrib("GroupQueryAttention", inputs, 3, **self.attributes)
        self.presents |= {f"present_key_{number}": key, f"present_value_{number}": value}
        self.x = op.Add(self.x, op.MatMul(output, self.weight(WIDTH, WIDTH, scale=WIDTH**-0.5)))

    def closed(self, *, presents: bool = False) -> ir.Model:
        """The model."""
        return self.model({"hidden": self.x} | (self.presents if presents else {}))


def _feed(mask: Any = MASK) -> dict[str, Any]:
    return {"input_ids": np.random.default_rng(0).integers(0, WORDS, mask.shape), "attention_mask": mask}


def _check_padded(pair: Rewritten, *, native: bool = False, past: bool = False, tolerance: Tolerance = FP32) -> None:
    """Against the op's own kernel; it refuses rows without a token, which give zeros here."""
    filled = MASK.any(axis=1)
    feed = _feed()
    rows = {name: values[filled] for name, values in feed.items()}
    if past:
        empty = np.zeros((int(filled.sum()), KV_HEADS, 0, HEAD_SIZE), np.float32)
        rows |= {f"past_{name}_{number}": empty for name in ("key", "value") for number in range(LAYERS)}
    want, got = run(plain_session(pair.original), rows), run(ort_session(pair.model, native=native), feed | rows)
    again = run(ort_session(pair.model, native=native), feed) if not past else {}
    valid = MASK[filled] != 0
    for name, values in want.items():
        slots_first = (lambda x: x) if values.ndim == 3 else (lambda x: np.swapaxes(x, 1, 2))
        assert got[name].shape == values.shape
        assert_close(slots_first(got[name])[valid], slots_first(values)[valid], tolerance, name)
        if again:
            assert_close(slots_first(again[name])[filled][valid], slots_first(values)[valid], tolerance, name)
            assert not slots_first(again[name])[MASK == 0].any()


def _check_ragged(pair: Rewritten) -> None:
    ids = np.random.default_rng(1).integers(0, WORDS, sum(LENGTHS))
    ends = np.cumsum(LENGTHS)
    ragged = {
        "input_ids": ids,
        "cu_seqlens": np.concatenate([[0], ends]).astype(np.int32),
        "max_seqlen": np.zeros(max(LENGTHS), np.float32),
    }
    got, plain = run(ort_session(pair.model, native=False), ragged), plain_session(pair.original)
    for end, length in zip(ends, LENGTHS, strict=True):
        if not length:
            continue
        part = slice(end - length, end)
        want = run(plain, {"input_ids": ids[None, part], "attention_mask": np.ones((1, length), np.int64)})
        for name, values in want.items():
            tokens = values[0] if values.ndim == 3 else np.swapaxes(values[0], 0, 1)
            assert_close(got[name][part], tokens, FP32, name)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "rotary": {"do_rotary": 1},
    "rotary interleaved": {"do_rotary": 1, "rotary_interleaved": 1},
    "window": {"local_window_size": 3},
    "window of one": {"local_window_size": 1},
    "softcap": {"softcap": 2.0, "scale": 0.4},
    "smooth softmax": {"smooth_softmax": 1},
    "bidirectional": {"causal": 0},
}


@pytest.mark.parametrize("packed", [False, True], ids=["separate", "packed"])
@pytest.mark.parametrize("case", CASES)
def test_prompts_equal_the_op(case: str, packed: bool) -> None:
    graph = Decoder(**CASES[case])
    for number in range(LAYERS):
        graph.layer(number, packed=packed, **(graph.tables() if "rotary" in case else {}))
    pair = rewritten(graph.closed(presents=True), features=("pack",))
    assert pair.ops.count("RaggedAttention") == LAYERS
    assert "GroupQueryAttention" not in pair.ops
    _check_padded(pair)


@pytest.mark.parametrize("case", ["rotary", "window", "smooth softmax"])
def test_ragged_prompts_equal_each_alone(case: str) -> None:
    graph = Decoder(**CASES[case])
    for number in range(LAYERS):
        graph.layer(number, packed=case == "window", **(graph.tables() if "rotary" in case else {}))
    _check_ragged(rewritten(graph.closed(presents=True), features=("pack",), io="ragged"))


def test_biases_sinks_and_narrow_tables() -> None:
    graph = Decoder(do_rotary=1)
    slots = graph.op.Shape(graph.mask, start=1, end=2)
    one = graph.op.Range(graph.ints(0), graph.op.Squeeze(slots), graph.ints(1))
    ahead = graph.op.Sub(graph.op.Unsqueeze(one, graph.ints([0])), graph.op.Unsqueeze(one, graph.ints([1])))
    slopes = graph.constant([[[0.5]], [[0.25]], [[0.1]], [[0.05]]], np.float32)
    bias = graph.op.Unsqueeze(graph.op.Mul(graph.op.Cast(ahead, to=ir.DataType.FLOAT), slopes), graph.ints([0]))
    graph.layer(0, attention_bias=bias, **graph.tables())
    graph.layer(1, head_sink=graph.weight(HEADS), **graph.tables(8))
    pair = rewritten(graph.closed(presents=True), features=("pack",))
    assert pair.ops.count("RaggedAttention") == LAYERS
    _check_padded(pair)


@pytest.mark.usefixtures("op_library")
def test_on_the_native_library() -> None:
    graph = Decoder(do_rotary=1, local_window_size=3)
    for number in range(LAYERS):
        graph.layer(number, **graph.tables())
    _check_padded(rewritten(graph.closed(presents=True), features=("pack",)), native=True)


def test_a_present_that_alone_is_an_output() -> None:
    graph = Decoder()
    graph.layer(0)
    graph.layer(1)
    pair = rewritten(graph.model(dict(graph.presents)), features=("pack",))
    assert pair.ops.count("RaggedAttention") == 1  # nothing reads what the last layer attends to
    _check_padded(pair)


def test_a_cache_that_is_empty_whenever_it_is_given() -> None:
    graph = Decoder(past=0)
    for number in range(LAYERS):
        graph.layer(number)
    pair = rewritten(graph.closed(presents=True), features=("pack",))
    assert "past_key_0" in [value.name for value in pair.model.graph.inputs]
    assert pair.ops.count("RaggedAttention") == LAYERS
    _check_padded(pair, past=True)


def test_a_cache_is_refused_with_what_to_do() -> None:
    graph = Decoder(past="past")
    graph.layer(0)
    with pytest.raises(FeatureError, match=r"past_key_0.*--prefill.*use_cache=False"):
        rewritten(graph.closed(), features=("pack",))


def test_lengths_that_are_not_those_of_the_mask_hide_no_padding() -> None:
    graph = Decoder(counted=False)
    graph.layer(0)
    with pytest.raises(FeatureError, match="does not hide padded keys"):
        rewritten(graph.closed(), features=("pack",))


def test_position_ids_beside_rotary_tables_are_refused() -> None:
    graph = Decoder(do_rotary=1)
    graph.layer(0, position_ids=graph.op.CumSum(graph.mask, graph.ints(1)), **graph.tables())
    with pytest.raises(FeatureError, match="position_ids, of which it rotates a prompt by the very first"):
        rewritten(graph.closed(), features=("pack",))


def test_lowered_by_itself_where_nothing_is_packed() -> None:
    graph = Decoder(do_rotary=1)
    for number in range(LAYERS):
        graph.layer(number, **graph.tables())
    pair = rewritten(graph.closed(presents=True), features=("sparse",))
    assert "GroupQueryAttention" not in pair.ops
    filled = MASK.any(axis=1)
    feed = {name: values[filled] for name, values in _feed().items()}
    want, got = run(plain_session(pair.original), feed), run(ort_session(pair.model, native=False), feed)
    valid = MASK[filled] != 0
    for name, values in want.items():
        order = (0, 1, 2) if values.ndim == 3 else (0, 2, 1, 3)
        assert_close(got[name].transpose(order)[valid], values.transpose(order)[valid], FP32, name)


@pytest.mark.parametrize("causal", [0, 1])
def test_padding_in_the_bias_beside_lengths_of_whole_rows(causal: int) -> None:
    graph = Decoder(counted=False, causal=causal)
    keep = graph.op.Cast(graph.op.Unsqueeze(graph.mask, graph.ints([1, 2])), to=ir.DataType.BOOL)
    length = graph.op.Shape(graph.mask, start=1, end=2)
    square = graph.op.Concat(graph.op.Shape(graph.mask, start=0, end=1), graph.ints([1]), length, length, axis=0)
    bias = graph.op.Where(graph.op.Expand(keep, square), graph.number(0.0), graph.number(-3e38))
    for number in range(LAYERS):
        graph.layer(number, attention_bias=bias)
    pair = rewritten(graph.closed(), features=("pack",))
    plan = next(node for node in pair.model.graph if node.op_type == "PackingPlan")
    assert plan.inputs[0] is not None
    assert plan.inputs[0].name == "attention_mask"  # nothing but tokens is packed
    _check_padded(pair)


def test_rotated_before_it_by_a_row_s_own_tokens() -> None:
    graph = Decoder()
    for number in range(LAYERS):
        graph.layer(number, rotated=True)
    pair = rewritten(graph.closed(presents=True), features=("pack",))
    assert pair.ops.count("RaggedAttention") == LAYERS
    assert "RotaryEmbedding" not in pair.ops
    _check_padded(pair)


@pytest.mark.usefixtures("op_library")
@pytest.mark.parametrize("native", [False, True])
def test_half_precision(native: bool) -> None:
    graph = Decoder(dtype=ir.DataType.FLOAT16, do_rotary=1, smooth_softmax=1)
    for number in range(LAYERS):
        graph.layer(number, **graph.tables())
    pair = rewritten(graph.closed(presents=True), features=("pack",))
    _check_padded(pair, native=native, tolerance=FP16)


@pytest.mark.parametrize("options", [{"softcap": 2.0}, {"smooth_softmax": 1}, {"sink": True}])
def test_windows_whose_left_padded_rows_are_left_to_chance_want_ragged_rows(options: dict[str, Any]) -> None:
    attributes = {name: value for name, value in options.items() if name != "sink"}
    sink = "sink" in options

    def build() -> ir.Model:
        graph = Decoder(local_window_size=3, **attributes)
        for number in range(LAYERS):
            graph.layer(number, head_sink=graph.weight(HEADS) if sink else None)
        return graph.closed(presents=True)

    for features in ("pack", "sparse"):
        with pytest.raises(FeatureError, match=r"to chance; use --io ragged"):
            rewritten(build(), features=(features,))
    _check_ragged(rewritten(build(), features=("pack",), io="ragged"))


def test_smooth_softmax_is_off_by_the_schema_s_default() -> None:
    graph = Decoder(smooth_softmax=-1)
    graph.layer(0)
    pair = rewritten(graph.closed(), features=("pack",))
    assert pair.ops.count("RaggedAttention") == 1
    _check_padded(pair)


@pytest.mark.parametrize(
    ("options", "reason"), [({"local_window_size": 0}, "without any key"), ({"softcap": -1.0}, "negative softcap")]
)
def test_attributes_without_a_meaning_are_refused(options: dict[str, Any], reason: str) -> None:
    graph = Decoder(**options)
    graph.layer(0)
    with pytest.raises(FeatureError, match=reason):
        rewritten(graph.closed(), features=("pack",))
