"""A case for every row of the transfer rules: packed it gives the original's values; along the tokens it is refused."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from helpers.attended import WIDTH, Attended, embeddings, rewritten_tail
from helpers.encoder_runs import FP32, MASK, plain_session, run
from helpers.tolerances import assert_close
from raggedrt.errors import FeatureError
from raggedrt.graph_passes.axes.rules import RULES
from raggedrt.plugins.runtime.ort import ort_session

pytestmark = pytest.mark.ort_cpu

Build = Callable[[Attended], ir.Value]
VALID = MASK != 0
CONTRIB = "com.microsoft"
_FLOAT = ir.DataType.FLOAT


def _inside(g: Attended) -> ir.Value:
    """Attended values within (-0.9, 0.9)."""
    return g.op.Mul(g.op.Tanh(g.y), g.number(0.9))


def _above_one(g: Attended) -> ir.Value:
    return g.op.Add(g.op.Mul(g.y, g.y), g.number(1.5))


def _truth(g: Attended) -> ir.Value:
    return g.op.Greater(g.y, g.number(0.1))


def _integers(g: Attended, dtype: ir.DataType = ir.DataType.INT32) -> ir.Value:
    return g.op.Cast(g.op.Mul(_above_one(g), g.number(3.0)), to=dtype)


def _as_float(g: Attended, value: ir.Value) -> ir.Value:
    return g.op.Cast(value, to=_FLOAT)


def _unary(op_type: str, domain: Callable[[Attended], ir.Value] = lambda g: g.y, **attributes: object) -> Build:
    return lambda g: g.op.op(op_type, [domain(g)], attributes)  # type: ignore[arg-type]


def _test(op_type: str) -> Build:
    """A comparison with a row of numbers."""
    return lambda g: _as_float(g, g.op.op(op_type, [g.y, g.weight(WIDTH)]))


def _variadic(op_type: str) -> Build:
    """Tokens, a row of numbers and a number per slot of the input."""
    return lambda g: g.op.op(op_type, [g.y, g.weight(WIDTH), g.op.ReduceSum(g.x, g.ints([2]))])


def _logic(op_type: str) -> Build:
    other: Build = lambda g: g.op.Less(g.x, g.number(0.3))  # noqa: E731
    return lambda g: _as_float(g, g.op.op(op_type, [_truth(g), other(g)]))


def _bits(op_type: str) -> Build:
    return lambda g: _as_float(g, g.op.op(op_type, [_integers(g), g.constant([5], np.int32)]))


def _shift(g: Attended) -> ir.Value:
    shifted = g.op.BitShift(_integers(g, ir.DataType.UINT32), g.constant(2, np.uint32), direction="LEFT")
    return _as_float(g, shifted)


def _reduction(op_type: str, **attributes: object) -> Build:
    return lambda g: g.op.op(op_type, [_above_one(g), g.ints([-1])], attributes)  # type: ignore[arg-type]


def _contrib(op_type: str, *extra: tuple[int, ...]) -> Build:
    return lambda g: g.contrib(op_type, [g.y, *(g.weight(*shape) for shape in extra)])[0]


def _split(g: Attended) -> ir.Value:
    first, second = g.op.op_multi_out("Split", [g.y, g.ints([4, 12])], {"axis": 2}, num_outputs=2)
    return g.op.Concat(second, first, axis=-1)


def _reshaped(g: Attended) -> ir.Value:
    return g.op.Reshape(g.op.Relu(g.op.Reshape(g.y, g.ints([0, 0, 4, 4]))), g.ints([0, 0, -1]))


def _flattened(g: Attended) -> ir.Value:
    """[B*S, 16] and back by the shape of the ids."""
    shape = g.op.Concat(g.op.Shape(g.x, start=0, end=2), g.ints([WIDTH]), axis=0)
    return g.op.Reshape(g.op.Relu(g.op.Flatten(g.y, axis=2)), shape)


def _gemm(g: Attended) -> ir.Value:
    rows = g.op.Reshape(g.y, g.ints([-1, WIDTH]))
    product = g.op.Gemm(rows, g.weight(4, WIDTH), g.weight(4), transB=1, alpha=0.5, beta=2.0)
    return g.op.Reshape(product, g.op.Concat(g.op.Shape(g.x, start=0, end=2), g.ints([4]), axis=0))


def _fused_gemm(g: Attended) -> ir.Value:
    rows = g.op.Reshape(g.y, g.ints([-1, WIDTH]))
    product = g.contrib("FusedGemm", [rows, g.weight(WIDTH, 4), g.weight(4)], activation="Tanh")[0]
    return g.op.Reshape(product, g.op.Concat(g.op.Shape(g.x, start=0, end=2), g.ints([4]), axis=0))


def _rounded(g: Attended, domain: str = "", *, per_feature: bool = False) -> ir.Value:
    """To eight bits and back, with one scale or one per feature."""
    shape = (WIDTH,) if per_feature else ()
    scale = g.constant(np.full(shape, 0.05), np.float32)
    zero = g.constant(np.full(shape, 3), np.int8)
    attributes = {"axis": 2} if per_feature else {}
    coarse = g.op.op("QuantizeLinear", [g.y, scale, zero], attributes, domain=domain)
    return g.op.op("DequantizeLinear", [coarse, scale, zero], attributes, domain=domain)


def _integer_product(g: Attended) -> ir.Value:
    coarse = g.op.QuantizeLinear(g.y, g.number(0.05), g.constant(128, np.uint8))
    weight = g.constant(np.arange(WIDTH * 4).reshape(WIDTH, 4) % 7 - 3, np.int8)
    return g.op.Cast(g.op.MatMulInteger(coarse, weight, g.constant(128, np.uint8)), to=ir.DataType.FLOAT)


def _four_bits(g: Attended) -> ir.Value:
    packed = g.constant(np.arange(6 * 8).reshape(6, 1, 8) * 5 % 256, np.uint8)
    scales = g.constant(np.linspace(0.01, 0.1, 6), np.float32)
    return g.contrib("MatMulNBits", [g.y, packed, scales], K=WIDTH, N=6, bits=4, block_size=16)[0]


def _expanded(g: Attended) -> ir.Value:
    """A row of numbers repeated for every slot."""
    return g.op.Add(g.y, g.op.Expand(g.weight(1, 1, WIDTH), g.op.Shape(g.x)))


def _positions(g: Attended) -> ir.Value:
    length = g.op.Squeeze(g.op.Shape(g.x, start=1, end=2))
    slots = g.op.Range(g.ints(0), length, g.ints(1))
    return g.op.Add(g.y, g.op.Gather(g.weight(32, WIDTH), slots))


def _embedding(g: Attended) -> ir.Value:
    """Token-wise look-up of a table by rounded values."""
    picked = g.op.ArgMax(g.y, axis=2, keepdims=0)
    return g.op.Gather(g.weight(WIDTH, 5), picked)


def _elements(g: Attended) -> ir.Value:
    """Look-up along the features by each token's own index."""
    return g.op.GatherElements(g.y, g.op.ArgMax(g.y, axis=2, keepdims=1), axis=2)


def _routed(g: Attended) -> ir.Value:
    """Each token's two largest features marked on zeros of the whole batch: how experts are chosen."""
    rows = g.op.Reshape(g.y, g.ints([-1, WIDTH]))
    chosen = g.op.op_multi_out("TopK", [rows, g.ints([2])], {"axis": 1}, num_outputs=2)[1]
    marks = g.op.ConstantOfShape(g.op.Shape(chosen), value=ir.tensor(np.ones(1, np.float32)))
    routing = g.op.ScatterElements(g.op.Expand(g.number(0.0), g.op.Shape(rows)), chosen, marks, axis=1)
    return g.op.Reshape(g.op.Mul(rows, routing), g.op.Shape(g.y))


def _table_by_tuple(g: Attended) -> ir.Value:
    """A table row per token, by an index of one element."""
    return g.op.GatherND(g.weight(WIDTH, 5), g.op.ArgMax(g.y, axis=2, keepdims=1))


def _skip(op_type: str, parameters: int) -> Build:
    def build(g: Attended) -> ir.Value:
        vectors = [g.weight(WIDTH) for _ in range(parameters)]
        return g.contrib(op_type, [g.y, g.x, *vectors], epsilon=1e-5)[0]

    return build


def _attended_again(g: Attended) -> ir.Value:
    """ONNX Attention on heads; it is a site, so its row only says what its axes are."""
    shape = g.op.Concat(g.op.Shape(g.x, start=0, end=1), g.ints([1]), *[g.op.Shape(g.x, start=1, end=2)] * 2, axis=0)
    keep = g.op.Expand(g.op.Unsqueeze(g.keep, g.ints([1, 2])), shape)
    heads = g.heads(g.y)
    return g.op.Transpose(g.op.Attention(heads, heads, heads, keep), perm=[0, 2, 1, 3])


def _multi_head(g: Attended) -> ir.Value:
    padding = g.op.Cast(g.mask, to=ir.DataType.INT32)
    return g.contrib("MultiHeadAttention", [g.y, g.y, g.y, None, padding], num_heads=2)[0]


def _contrib_attention(g: Attended) -> ir.Value:
    padding = g.op.Cast(g.mask, to=ir.DataType.INT32)
    inputs = [g.y, g.weight(WIDTH, 3 * WIDTH, scale=0.25), g.weight(3 * WIDTH), padding]
    return g.contrib("Attention", inputs, num_heads=2)[0]


_PLAIN = """Abs Asinh Atan Ceil Celu Cos Elu Erf Exp Floor HardSigmoid HardSwish Identity LeakyRelu Mish Neg Relu Round
Selu Sigmoid Sign Sin Softplus Softsign Tan Tanh ThresholdedRelu Cosh Sinh Gelu"""
CASES: dict[tuple[str, str], Build] = {
    **{("", op): _unary(op) for op in _PLAIN.split()},
    **{("", op): _unary(op, _inside) for op in ("Acos", "Asin", "Atanh")},
    **{("", op): _unary(op, _above_one) for op in ("Acosh", "Log", "Reciprocal", "Sqrt")},
    **{("", op): _test(op) for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    **{("", op): _variadic(op) for op in ("Max", "Mean", "Min", "Sum")},
    **{("", op): _logic(op) for op in ("And", "Or", "Xor")},
    **{("", op): _bits(op) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")},
    **{("", op): _reduction(op) for op in ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax")},
    **{("", op): _reduction(op) for op in ("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare")},
    **{("", op): _unary(op, axis=-1) for op in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")},
    **{
        ("", op): (lambda g, op=op: _as_float(g, g.op.op(op, [g.y], {"axis": 2, "keepdims": 0})))
        for op in ("ArgMax", "ArgMin")
    },
    ("", "Add"): lambda g: g.op.Add(g.weight(WIDTH), g.y),
    ("", "BitShift"): _shift,
    ("", "BitwiseNot"): lambda g: _as_float(g, g.op.BitwiseNot(_integers(g))),
    ("", "Cast"): lambda g: _as_float(g, _integers(g)),
    ("", "CastLike"): lambda g: g.op.CastLike(_integers(g), g.x),
    ("", "Clip"): lambda g: g.op.Clip(g.y, g.number(-0.2), g.number(0.2)),
    ("", "Concat"): lambda g: g.op.Concat(g.y, g.x, axis=2),
    ("", "CumSum"): lambda g: g.op.CumSum(g.y, g.ints(2), exclusive=1),
    ("", "Div"): lambda g: g.op.Div(g.weight(WIDTH), _above_one(g)),
    ("", "Dropout"): lambda g: g.op.Dropout(g.y),
    ("", "Expand"): _expanded,
    ("", "Flatten"): _flattened,
    ("", "Gather"): _embedding,
    ("", "GatherElements"): _elements,
    ("", "GatherND"): _table_by_tuple,
    ("", "Gemm"): _gemm,
    ("", "IsInf"): lambda g: _as_float(g, g.op.IsInf(g.op.Div(g.number(1.0), g.op.Relu(g.y)))),
    ("", "IsNaN"): lambda g: _as_float(g, g.op.IsNaN(g.op.Sqrt(g.y))),
    ("", "LayerNormalization"): lambda g: g.op.LayerNormalization(g.y, g.weight(WIDTH), g.weight(WIDTH), axis=2),
    ("", "MatMul"): lambda g: g.op.MatMul(g.y, g.weight(WIDTH, 5)),
    ("", "Mod"): lambda g: _as_float(g, g.op.Mod(_integers(g), g.constant([3], np.int32))),
    ("", "Mul"): lambda g: g.op.Mul(g.y, g.x),
    ("", "Not"): lambda g: _as_float(g, g.op.Not(_truth(g))),
    ("", "PRelu"): lambda g: g.op.PRelu(g.y, g.weight(WIDTH)),
    ("", "Pow"): lambda g: g.op.Pow(_above_one(g), g.number(1.5)),
    ("", "QuantizeLinear"): lambda g: _rounded(g, per_feature=True),
    ("", "DequantizeLinear"): _rounded,
    (CONTRIB, "QuantizeLinear"): lambda g: _rounded(g, CONTRIB),
    (CONTRIB, "DequantizeLinear"): lambda g: _rounded(g, CONTRIB, per_feature=True),
    ("", "MatMulInteger"): _integer_product,
    (CONTRIB, "MatMulNBits"): _four_bits,
    ("", "Range"): _positions,
    ("", "Reshape"): _reshaped,
    ("", "ScatterElements"): _routed,
    ("", "SimplifiedLayerNormalization"): lambda g: g.op.SimplifiedLayerNormalization(g.y, g.weight(WIDTH), axis=-1),
    ("", "Slice"): lambda g: g.op.Slice(g.y, g.ints([12]), g.ints([2]), g.ints([-1]), g.ints([-3])),
    ("", "Split"): _split,
    ("", "Squeeze"): lambda g: g.op.Squeeze(g.op.Slice(g.y, g.ints([3]), g.ints([4]), g.ints([2])), g.ints([-1])),
    ("", "Sub"): lambda g: g.op.Sub(g.x, g.y),
    ("", "Tile"): lambda g: g.op.Tile(g.op.Unsqueeze(g.y, g.ints([2])), g.ints([1, 1, 3, 2])),
    ("", "TopK"): lambda g: g.op.op_multi_out("TopK", [g.y, g.ints([3])], {"axis": 2}, num_outputs=2)[0],
    ("", "Transpose"): lambda g: g.op.Transpose(g.op.Relu(g.heads(g.y)), perm=[0, 2, 1, 3]),
    ("", "Unsqueeze"): lambda g: g.op.Unsqueeze(g.y, g.ints([2])),
    ("", "Where"): lambda g: g.op.Where(_truth(g), g.y, g.weight(WIDTH)),
    ("", "RMSNormalization"): lambda g: g.op.RMSNormalization(g.y, g.weight(WIDTH), axis=-1),
    ("", "Swish"): lambda g: g.op.Swish(g.y, alpha=1.5),
    ("", "Attention"): _attended_again,
    (CONTRIB, "Attention"): _contrib_attention,
    (CONTRIB, "BiasGelu"): _contrib("BiasGelu", (WIDTH,)),
    (CONTRIB, "FastGelu"): _contrib("FastGelu", (WIDTH,)),
    (CONTRIB, "FusedGemm"): _fused_gemm,
    (CONTRIB, "Gelu"): _contrib("Gelu"),
    (CONTRIB, "MultiHeadAttention"): _multi_head,
    (CONTRIB, "QuickGelu"): _contrib("QuickGelu"),
    (CONTRIB, "SkipLayerNormalization"): _skip("SkipLayerNormalization", 3),
    (CONTRIB, "SkipSimplifiedLayerNormalization"): _skip("SkipSimplifiedLayerNormalization", 1),
}
OPSETS = {("", "RMSNormalization"): 23, ("", "Attention"): 23, ("", "Swish"): 24}
"""Where 20 does not have the op."""
ELSEWHERE = {
    ("raggedrt.torch", "SparseAttention"): "test_sparse_models.py",
    (CONTRIB, "GroupQueryAttention"): "sites/test_group_query.py",
}
"""Rows of sites with tests of their own in tests/graph_passes."""
ONLY_REFUSED = {
    **{(domain, "RotaryEmbedding"): "it is spelled out before: test_rotary.py" for domain in ("", CONTRIB)},
    ("", "Conv"): "it needs zeros at padded slots: tests/graph_passes/packing/test_layouts.py",
    ("", "ConstantOfShape"): "it has no tokens: likewise",
    ("", "DynamicQuantizeLinear"): "its scale is that of the whole batch",
    (CONTRIB, "DynamicQuantizeMatMul"): "its scale is that of the whole batch",
}
"""Rows that only keep the analysis going, with the reason."""
ALONG_TOKENS: dict[tuple[str, str], tuple[Build, str]] = {
    **{
        ("", op): (lambda g, op=op: g.op.op(op, [g.y], {"axis": 1}), f"{op} works along the token axis")
        for op in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")
    },
    **{
        key: (lambda g, op=key[1]: g.op.op(op, [g.y, g.ints([1])], {"keepdims": 1}), f"{key[1]} reads padded slots")
        for key in RULES
        if key[1].startswith("Reduce")
    },
    **{
        ("", op): (lambda g, op=op: g.op.op(op, [g.y], {"axis": 1}), f"{op} reads padded slots")
        for op in ("ArgMax", "ArgMin")
    },
    ("", "Concat"): (lambda g: g.op.Concat(g.y, g.x, axis=1), "Concat"),
    ("", "CumSum"): (lambda g: g.op.CumSum(g.y, g.ints(1)), "CumSum works along the token axis"),
    ("", "Gather"): (lambda g: g.op.Gather(g.y, g.ints([0, 2]), axis=1), "Gather reads padded slots"),
    ("", "GatherElements"): (
        lambda g: g.op.GatherElements(g.y, g.op.ArgMax(g.y, axis=2, keepdims=1), axis=1), "GatherElements"),
    ("", "ScatterElements"): (
        lambda g: g.op.ScatterElements(g.y, g.op.ArgMax(g.y, axis=2, keepdims=1), g.op.Relu(
            g.op.Slice(g.y, g.ints([0]), g.ints([1]), g.ints([2]))), axis=1), "ScatterElements"),
    ("", "GatherND"): (
        lambda g: g.op.GatherND(g.y, g.op.ArgMax(g.y, axis=2, keepdims=1), batch_dims=1), "GatherND takes tokens"),
    ("", "Gemm"): (
        lambda g: g.op.Gemm(g.op.Reshape(g.y, g.ints([-1, WIDTH])), g.op.Reshape(g.x, g.ints([-1, WIDTH])), transA=1),
        "Gemm"),
    ("", "LayerNormalization"): (
        lambda g: g.op.LayerNormalization(g.op.Transpose(g.y, perm=[0, 2, 1]), g.weight(1), axis=2),
        "LayerNormalization works along the token axis"),
    ("", "MatMul"): (
        lambda g: g.op.MatMul(g.y, g.op.Transpose(g.x, perm=[0, 2, 1])), "MatMul multiplies tokens by tokens"),
    ("", "Slice"): (lambda g: g.op.Slice(g.y, g.ints([1]), g.ints([3]), g.ints([1])), "Slice reads padded slots"),
    ("", "Split"): (
        lambda g: g.op.op_multi_out("Split", [g.y], {"axis": 1, "num_outputs": 2}, num_outputs=2)[0], "Split"),
    ("", "DynamicQuantizeLinear"): (
        lambda g: g.op.op_multi_out("DynamicQuantizeLinear", [g.y], num_outputs=3)[0], "scale from the whole batch"),
    (CONTRIB, "DynamicQuantizeMatMul"): (
        lambda g: g.contrib("DynamicQuantizeMatMul", [
            g.y, g.constant(np.ones((WIDTH, 4)), np.int8), g.number(0.1)])[0], "scale from the whole batch"),
    ("", "QuantizeLinear"): (
        lambda g: g.op.QuantizeLinear(g.y, g.op.Clip(g.reduce("ReduceMax", g.y, [2], keepdims=False), g.number(1.0)),
            axis=1), "is computed"),
    ("", "Flatten"): (lambda g: g.op.Flatten(g.y, axis=1), "cannot be laid out"),
    ("", "Reshape"): (lambda g: g.op.Reshape(g.y, g.ints([0, -1, 4])), "cannot be laid out"),
}  # fmt: skip


@pytest.mark.parametrize("key", list(CASES), ids=lambda key: ".".join(filter(None, key)))
def test_the_row_packs_to_the_same_values(key: tuple[str, str]) -> None:
    pair = rewritten_tail(CASES[key], OPSETS.get(key, 20))
    assert {"RaggedAttention", "UnpackTokens"} <= set(pair.ops)
    feed = embeddings()
    want, got = run(plain_session(pair.original), feed), run(ort_session(pair.model, native=False), feed)
    assert np.isfinite(want["result"][VALID]).all()
    assert_close(got["result"][VALID], want["result"][VALID], FP32)
    assert not got["result"][~VALID].any()


@pytest.mark.parametrize("key", list(ALONG_TOKENS), ids=lambda key: ".".join(filter(None, key)))
def test_along_the_tokens_it_is_refused(key: tuple[str, str]) -> None:
    build, reason = ALONG_TOKENS[key]
    with pytest.raises(FeatureError, match=reason):
        rewritten_tail(build)


def test_every_row_has_a_case() -> None:
    assert set(RULES) == set(CASES) | set(ONLY_REFUSED) | set(ELSEWHERE)
    tests = pathlib.Path(__file__).parents[1]
    assert all((tests / name).is_file() for name in ELSEWHERE.values())
    assert set(ALONG_TOKENS) <= set(RULES)
