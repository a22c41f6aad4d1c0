"""The transfer rules: one row per op says how axes pass through it and how the op runs on packed tokens.

An op without a row ends the analysis there: its outputs are not understood, and packing stops with that reason.
"""

from __future__ import annotations

import typing

import onnx_ir as ir

from raggedrt.graph_passes.axes.convolution import Conv
from raggedrt.graph_passes.axes.elementwise import Elementwise
from raggedrt.graph_passes.axes.fused import FusedAttention, Rotary, StandardAttention
from raggedrt.graph_passes.axes.lookup import (
    ConstantOfShape,
    Expand,
    Gather,
    GatherElements,
    GatherND,
    Range,
    ScatterElements,
    Tile,
)
from raggedrt.graph_passes.axes.products import Gemm, MatMul
from raggedrt.graph_passes.axes.quantized import BlockQuantizedProduct, DynamicQuantize, Quantize, QuantizedProduct
from raggedrt.graph_passes.axes.views import Flatten, Reshape, Squeeze, Transpose, Unsqueeze
from raggedrt.graph_passes.axes.within import AlongAxis, Concat, Normalization, Reduction, Slice, Split, TopK

if typing.TYPE_CHECKING:
    from raggedrt.graph_passes.axes.rule import Rule

_ELEMENTWISE = """Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast
CastLike Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity
IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu
Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"""
_REDUCTIONS = """ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare"""
_CONTRIB = "com.microsoft"

RULES: dict[tuple[str, str], Rule] = {
    **{("", op_type): Elementwise() for op_type in _ELEMENTWISE.split()},
    **{("", op_type): Reduction() for op_type in _REDUCTIONS.split()},
    **{("", op_type): Reduction(single_axis=True) for op_type in ("ArgMax", "ArgMin")},
    **{("", op_type): AlongAxis(default=-1) for op_type in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")},
    **{("", op_type): Normalization() for op_type in ("LayerNormalization", "RMSNormalization")},
    ("", "Attention"): StandardAttention(),
    ("", "Concat"): Concat(),
    ("", "ConstantOfShape"): ConstantOfShape(),
    ("", "Conv"): Conv(),
    ("", "CumSum"): AlongAxis(axis_input=1),
    ("", "Dropout"): Elementwise(),
    ("", "Expand"): Expand(),
    ("", "Flatten"): Flatten(),
    ("", "Gather"): Gather(),
    ("", "GatherElements"): GatherElements(),
    ("", "GatherND"): GatherND(),
    ("", "Gemm"): Gemm(),
    ("", "MatMul"): MatMul(),
    **{(domain, op): Quantize() for domain in ("", _CONTRIB) for op in ("QuantizeLinear", "DequantizeLinear")},
    ("", "DynamicQuantizeLinear"): DynamicQuantize(),
    ("", "MatMulInteger"): QuantizedProduct(),
    (_CONTRIB, "DynamicQuantizeMatMul"): QuantizedProduct(dynamic=True),
    (_CONTRIB, "MatMulNBits"): BlockQuantizedProduct(),
    ("", "Range"): Range(),
    ("", "Reshape"): Reshape(),
    ("", "ScatterElements"): ScatterElements(),
    ("", "Slice"): Slice(),
    ("", "SimplifiedLayerNormalization"): Normalization(),
    ("", "Split"): Split(),
    ("", "Squeeze"): Squeeze(),
    ("", "Tile"): Tile(),
    ("", "TopK"): TopK(),
    ("", "Transpose"): Transpose(),
    ("", "Unsqueeze"): Unsqueeze(),
    **{(_CONTRIB, op_type): Elementwise() for op_type in ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")},
    (_CONTRIB, "FusedGemm"): Gemm(),
    (_CONTRIB, "Attention"): FusedAttention(),
    (_CONTRIB, "MultiHeadAttention"): FusedAttention(),
    (_CONTRIB, "GroupQueryAttention"): FusedAttention(),
    **{(domain, "RotaryEmbedding"): Rotary() for domain in ("", _CONTRIB)},
    ("raggedrt.torch", "SparseAttention"): StandardAttention(),
    (_CONTRIB, "SkipLayerNormalization"): Normalization(skip=True),
    (_CONTRIB, "SkipSimplifiedLayerNormalization"): Normalization(skip=True),
}


def rule_for(node: ir.Node) -> Rule | None:
    """The row for a node's op, or None."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return RULES.get((domain, node.op_type))
