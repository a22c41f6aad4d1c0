"""A toy encoder as a bundle, padded and ragged: embeddings, one attention, a masked mean; and its numpy reference."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from raggedrt.plugins.bodies import attach_function_bodies
from raggedrt.plugins.bundle.manifest import InputRecord, ManifestDraft, SourceRecord, TensorRecord
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.bundle.writer import Content, write_bundle
from raggedrt.plugins.contract.io_roles import Role

Array = npt.NDArray[Any]
VOCABULARY, WIDTH, POSITION_LIMIT, PAD_ID = 20, 8, 16, 1

_PADDED = """<ir_version: 10, opset_import: ["" : 20, "raggedrt" : 1]>
toy (int64[B,S] input_ids, int64[B,S] attention_mask, int64[B,S] token_type_ids)
  => (float[B,S,8] hidden, float[B,8] pooled) <float[T,8] x, float[T,8] packed> {
  index, cu, position, key_position = raggedrt.PackingPlan <abi = 1, features = 0> (attention_mask)
  ids = raggedrt.PackTokens <abi = 1, features = 0> (input_ids, index)
  types = raggedrt.PackTokens <abi = 1, features = 0> (token_type_ids, index)
  BLOCK
  zero = Constant <value_int = 0> ()
  carrier = Gather (attention_mask, zero)
  mixed = raggedrt.RaggedAttention <num_heads = 1, abi = 1, features = 0> (x, x, x, cu, cu, carrier, carrier)
  packed = Add (x, mixed)
  hidden = raggedrt.UnpackTokens <abi = 1, features = 0> (packed, index, attention_mask)
  axis = Constant <value_ints = [1]> ()
  sums = ReduceSum <keepdims = 0> (hidden, axis)
  weights = Cast <to = 1> (attention_mask)
  counts = ReduceSum (weights, axis)
  pooled = Div (sums, counts)
}"""
_RAGGED = """<ir_version: 10, opset_import: ["" : 20, "raggedrt" : 1]>
toy (int64[T] input_ids, int64[T] token_type_ids, int32[B1] cu_seqlens, float[M] max_seqlen)
  => (float[T,8] hidden, float[B,8] pooled) <float[T,8] x> {
  zero = Constant <value = int32 {0}> ()
  one = Constant <value = int32 {1}> ()
  first = Constant <value_ints = [0]> ()
  second = Constant <value_ints = [1]> ()
  last = Constant <value_ints = [-1]> ()
  far = Constant <value_ints = [1000000]> ()
  starts = Slice (cu_seqlens, first, last)
  ends = Slice (cu_seqlens, second, far)
  shape = Shape (input_ids)
  scalar = Squeeze (shape)
  count = Cast <to = 6> (scalar)
  tokens = Range (zero, count, one)
  column = Unsqueeze (tokens, second)
  begun = GreaterOrEqual (column, starts)
  unfinished = Less (column, ends)
  member = And (begun, unfinished)
  weights = Cast <to = 1> (member)
  number = Cast <to = 6> (member)
  products = Mul (number, starts)
  offset = ReduceSum <keepdims = 0> (products, second)
  position = Sub (tokens, offset)
  ids = Identity (input_ids)
  types = Identity (token_type_ids)
  BLOCK
  mixed = raggedrt.RaggedAttention <num_heads = 1, abi = 1, features = 0>
    (x, x, x, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
  hidden = Add (x, mixed)
  by_sequence = Transpose (weights)
  sums = MatMul (by_sequence, hidden)
  counts = ReduceSum (by_sequence, second)
  pooled = Div (sums, counts)
}"""
_BLOCK = """word = Gather (words, ids)
  kind = Gather (kinds, types)
  place = Gather (places, position)
  typed = Add (word, kind)
  x = Add (typed, place)"""


def tables() -> dict[str, Array]:
    """The toy's weights."""
    rng = np.random.default_rng(7)
    sizes = {"words": VOCABULARY, "kinds": 2, "places": POSITION_LIMIT}
    return {name: rng.standard_normal((rows, WIDTH)).astype(np.float32) for name, rows in sizes.items()}


def toy_model(io: str, *, bodies: bool = True) -> onnx.ModelProto:
    """The toy encoder as ONNX, weights inside."""
    text = (_PADDED if io == "padded" else _RAGGED).replace("BLOCK", _BLOCK)
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in tables().items())
    model = ir.from_proto(proto)
    if bodies:
        attach_function_bodies(model)
    return ir.to_proto(model)


def toy_draft(io: str, **changes: Any) -> ManifestDraft:
    """What the manifest says of the toy."""
    padded = io == "padded"
    tokens: tuple[int | str, ...] = ("batch", "sequence") if padded else ("tokens",)
    inputs = [
        InputRecord(name="input_ids", role=Role.PER_TOKEN, dtype="int64", shape=tokens, pad_value=PAD_ID),
        InputRecord(name="token_type_ids", role=Role.PER_TOKEN, dtype="int64", shape=tokens, default=0),
    ]
    if padded:
        mask = InputRecord(name="attention_mask", role=Role.ATTENTION_MASK, dtype="int64", shape=tokens, default=1)
        inputs.append(mask)
    else:
        inputs.append(InputRecord(name="cu_seqlens", role=Role.CU_SEQLENS, dtype="int32", shape=("batch+1",)))
        inputs.append(InputRecord(name="max_seqlen", role=Role.MAX_SEQLEN, dtype="float32", shape=("longest",)))
    outputs = (
        TensorRecord(name="hidden", role=Role.PER_TOKEN, dtype="float32", shape=(*tokens, WIDTH)),
        TensorRecord(name="pooled", role=Role.PER_SEQUENCE, dtype="float32", shape=("batch", WIDTH)),
    )
    facts: dict[str, Any] = {
        "toolchain_version": "0",
        "target": "ort-cpu",
        "io": io,
        "inputs": tuple(inputs),
        "outputs": outputs,
        "source": SourceRecord(kind="onnx", description="toy"),
        "position_limit": POSITION_LIMIT,
    }
    return ManifestDraft(**{**facts, **changes})


def toy_bundle(folder: pathlib.Path, io: str = "padded", **changes: Any) -> Bundle:
    """Write the toy's bundle; it has a report, a tokenizer and external weights."""
    changes.setdefault("tokenizer", "tokenizer")

    def save(place: pathlib.Path) -> None:
        ir.save(ir.from_proto(toy_model(io)), place, external_data="model.onnx.data", size_threshold_bytes=256)

    contents: dict[str, Content] = {
        "model.onnx": save,
        "report.json": json.dumps({"passes": []}).encode(),
        "tokenizer/vocabulary.txt": b"[PAD]\n",
    }
    return write_bundle(folder, toy_draft(io, **changes), contents)


def reference(ids: Array, types: Array, slots: Array) -> tuple[Array, Array]:
    """Hidden states [n, 8] and pooled [8] of one sequence whose tokens stand at `slots` [n]."""
    weights = {name: table.astype(np.float64) for name, table in tables().items()}
    x = weights["words"][ids] + weights["kinds"][types] + weights["places"][slots]
    if not len(ids):
        return np.zeros((0, WIDTH), np.float32), np.zeros(WIDTH, np.float32)
    scores = np.exp(x @ x.T / np.sqrt(WIDTH))
    hidden = x + scores @ x / scores.sum(axis=1, keepdims=True)
    return hidden.astype(np.float32), hidden.mean(axis=0).astype(np.float32)
