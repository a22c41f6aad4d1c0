"""One parametrised builder of tiny transformer graphs, spelled as exporters spell them, with seeded random weights."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common

from helpers.graph_writer import GraphWriter

VOCABULARY, POSITIONS = 20, 16
PAD = 1
"""Token id of padding, where a graph reads it (positions counted from ids)."""


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """Which graph to build.

    Attributes:
        attention: a key of `encoder_attention.SPELLINGS`.
        mask: padding, causal_padding, none or window (keys at most two slots back),
            band (one slot to either side), globals (a band and slot 0), dilated (even distances), given (padding and
            the input visible, bool [B, 1, S, S]), documents (keys with the query's token id), rounded (a window that is
            too large to probe, spelled with Round).
        head: a key of `encoder_heads.HEADS`.
        positions: none, table (a constant cut to the length), buffer (position ids cut, then looked up), cumsum
            (RoBERTa: counted from ids that are not padding), range, input (position_ids).
        layout: reshape (targets with 0), activation (targets from their Shape), flat (GPT-2: [-1, H] and Gemm).
        slot: the slot that the head `slot` reads.
        batch: dimension of the inputs; `sequence`: likewise. Integers make a static graph.
    """

    attention: str = "eager_mul"
    mask: str = "padding"
    head: str = "hidden"
    positions: str = "buffer"
    layout: str = "reshape"
    opset: int = 20
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    head_size: int = 8
    fused_qkv: bool = False
    rope: bool = False
    dtype: ir.DataType = ir.DataType.FLOAT
    slot: int = 0
    batch: int | str = "batch"
    sequence: int | str = "seq"
    names: tuple[str, str] = ("input_ids", "attention_mask")
    mask_type: ir.DataType = ir.DataType.INT64
    seed: int = 0

    @property
    def hidden(self) -> int:
        """Hidden size."""
        return self.heads * self.head_size


class Encoder(GraphWriter):
    """A graph under construction.

    Attributes:
        ids: int64 [B, S]; `mask`: [B, S].
        keep: which keys each query sees, bool [B|1, 1, S|1, S]; None where the mask is none.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__(spec.opset, spec.dtype, spec.seed)
        self.spec = spec
        dims = [spec.batch, spec.sequence]
        self.ids = self.input(spec.names[0], dims)
        self.mask = self.input(spec.names[1], dims, spec.mask_type)
        self.keep = self._keep()
        self.weights: list[ir.Value] = []
        self._widths: dict[ir.Value, int] = {}

    def size(self, axis: int) -> ir.Value:
        """Size of an axis of the ids, int64 [1]."""
        return self.op.Shape(self.ids, start=axis, end=axis + 1)

    def slots(self) -> ir.Value:
        """Slot numbers, int64 [S]."""
        return self.op.Range(self.ints(0), self.op.Squeeze(self.size(1)), self.ints(1))

    def _keep(self) -> ir.Value | None:
        kind = self.spec.mask
        if kind == "none":
            return None
        valid = self.op.Cast(self.mask, to=ir.DataType.BOOL)
        keep = self.op.Unsqueeze(valid, self.ints([1, 2]))
        if kind == "padding":
            return keep
        if kind == "given":
            dims = [self.spec.batch, 1, self.spec.sequence, self.spec.sequence]
            return self.op.And(self.input("visible", dims, ir.DataType.BOOL), keep)
        if kind == "documents":
            rows, columns = (self.op.Unsqueeze(self.ids, self.ints(axes)) for axes in ([1, 3], [1, 2]))
            return self.op.And(self.op.Equal(rows, columns), keep)
        query = self.op.Unsqueeze(self.slots(), self.ints([0, 1, 3]))
        key = self.op.Unsqueeze(self.slots(), self.ints([0, 1, 2]))
        if kind == "rounded":
            distance = self.op.Cast(self.op.Abs(self.op.Sub(query, key)), to=ir.DataType.FLOAT)
            reach = self.constant(300_000.0, np.float32)
            return self.op.And(self.op.LessOrEqual(self.op.Round(distance), reach), keep)
        if kind == "dilated":
            odd = self.op.Mod(self.op.Sub(query, key), self.ints(2))
            return self.op.And(self.op.Equal(odd, self.ints(0)), keep)
        if kind in ("band", "globals"):
            near = self.op.LessOrEqual(self.op.Abs(self.op.Sub(query, key)), self.ints(1))
            for slot in (query, key) if kind == "globals" else ():
                near = self.op.Or(near, self.op.Equal(slot, self.ints(0)))
            return self.op.And(near, keep)
        earlier = self.op.LessOrEqual(key, query)
        if kind == "window":
            earlier = self.op.And(earlier, self.op.Greater(key, self.op.Sub(query, self.ints(3))))
        return self.op.And(earlier, keep)

    def square_keep(self) -> ir.Value | None:
        """`keep` as [B, 1, S, S]: ONNX Runtime's Attention does not broadcast the queries."""
        if self.keep is None:
            return None
        shape = self.op.Concat(self.size(0), self.ints([1]), self.size(1), self.size(1), axis=0)
        return self.op.Expand(self.keep, shape)

    def additive(self) -> ir.Value | None:
        """The mask as numbers to add to scores: zero or the lowest of the element type."""
        if self.keep is None:
            return None
        lowest = float(ml_dtypes.finfo(self.numpy_type).min)
        return self.op.Where(self.keep, self.number(0.0), self.number(lowest))

    def linear(self, x: ir.Value, width: int, *, bias: bool = True) -> ir.Value:
        """A projection of the last axis."""
        inner = self._widths[x]
        weight = self.weight(inner, width, scale=inner**-0.5)
        if self.spec.layout == "flat":
            rows = self.op.Reshape(x, self.ints([-1, inner]))
            product = self.op.Gemm(rows, weight, self.weight(width, scale=0.1))
            shape = self.op.Concat(self.op.Shape(x, start=0, end=2), self.ints([width]), axis=0)
            return self.sized(self.op.Reshape(product, shape), width)
        product = self.op.MatMul(x, weight)
        return self.sized(self.op.Add(product, self.weight(width, scale=0.1)) if bias else product, width)

    def sized(self, value: ir.Value, width: int) -> ir.Value:
        """Note the width of the last axis, which `linear` reads."""
        self._widths[value] = width
        return value

    def split_heads(self, x: ir.Value, heads: int) -> ir.Value:
        """[B, S, N*H] to [B, N, S, H]."""
        target: ir.Value = self.ints([0, 0, heads, self.spec.head_size])
        if self.spec.layout != "reshape":
            parts = [self.op.Shape(x, start=0, end=1), self.op.Shape(x, start=1, end=2)]
            target = self.op.Concat(*parts, self.ints([-1, self.spec.head_size]), axis=0)
        return self.op.Transpose(self.op.Reshape(x, target), perm=[0, 2, 1, 3])

    def merge_heads(self, x: ir.Value) -> ir.Value:
        """[B, N, S, H] to [B, S, N*H]."""
        rows = self.op.Transpose(x, perm=[0, 2, 1, 3])
        target: ir.Value = self.ints([0, 0, self.spec.hidden])
        if self.spec.layout != "reshape":
            target = self.op.Concat(self.op.Shape(rows, start=0, end=2), self.ints([-1]), axis=0)
        return self.sized(self.op.Reshape(rows, target), self.spec.hidden)

    def normalize(self, x: ir.Value) -> ir.Value:
        """LayerNormalization of the last axis."""
        width = self.spec.hidden
        gamma, beta = self.weight(width, scale=0.1, offset=1.0), self.weight(width, scale=0.1)
        return self.sized(self.op.LayerNormalization(x, gamma, beta, axis=-1, epsilon=1e-5), width)

    def gelu(self, x: ir.Value) -> ir.Value:
        """Erf GELU as torch decomposes it."""
        inner = self.op.Add(self.op.Erf(self.op.Div(x, self.number(2**0.5))), self.number(1.0))
        return self.op.Mul(self.number(0.5), self.op.Mul(x, inner))

    def embed(self) -> ir.Value:
        """Token and position embeddings, [B, S, hidden]."""
        width, op = self.spec.hidden, self.op
        words = op.Gather(self.weight(VOCABULARY, width), self.ids)
        kind = self.spec.positions
        if kind == "none":
            return self.sized(words, width)
        table = self.weight(POSITIONS + 2, width)
        if kind == "table":
            cut = op.Slice(table, self.ints([0]), self.size(1), self.ints([0]))
            return self.sized(op.Add(words, cut), width)
        return self.sized(op.Add(words, op.Gather(table, self._position_ids())), width)

    def _position_ids(self) -> ir.Value:
        op, kind = self.op, self.spec.positions
        if kind == "buffer":
            numbers = self.ints(np.arange(POSITIONS)[None])
            return op.Slice(numbers, self.ints([0]), self.size(1), self.ints([1]))
        if kind == "range":
            return op.Unsqueeze(self.slots(), self.ints([0]))
        if kind == "input":
            return self.input("position_ids", [self.spec.batch, self.spec.sequence])
        if kind != "cumsum":
            raise ValueError(f"unknown positions {kind}")
        real = op.Cast(op.Not(op.Equal(self.ids, self.ints(PAD))), to=ir.DataType.INT64)
        counted = op.Mul(op.CumSum(real, self.ints(1)), real)
        return op.Add(counted, self.ints(PAD))


def build_encoder(spec: EncoderSpec) -> ir.Model:
    """The graph of a spec, shapes inferred."""
    from helpers.encoder_attention import SPELLINGS
    from helpers.encoder_heads import HEADS

    graph = Encoder(spec)
    x = graph.normalize(graph.embed())
    for _ in range(spec.layers):
        attended = graph.linear(SPELLINGS[spec.attention](graph, x), spec.hidden)
        x = graph.normalize(graph.op.Add(attended, x))
        inner = graph.sized(graph.gelu(graph.linear(x, 2 * spec.hidden)), 2 * spec.hidden)
        x = graph.normalize(graph.op.Add(graph.linear(inner, spec.hidden), x))
    outputs = HEADS[spec.head](graph, x)
    model = graph.model(outputs)
    onnx_ir.passes.common.ShapeInferencePass()(model)
    return model
