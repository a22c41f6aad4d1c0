"""Run an encoder graph and its rewritten form on batches with every kind of padding and compare them."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime

from helpers.encoder_graphs import PAD, VOCABULARY, EncoderSpec
from helpers.tolerances import Tolerance, assert_close
from raggedrt.graph_passes.pipeline import RewriteConfig, rewrite
from raggedrt.graph_passes.report import RewriteReport
from raggedrt.plugins.contract.io_roles import Role
from raggedrt.plugins.runtime.ort import ort_session

Array = npt.NDArray[Any]
Feed = dict[str, Array]
LENGTH = 7
PADDINGS = {
    "right": [1, 1, 1, 1, 1, 0, 0],
    "left": [0, 0, 1, 1, 1, 1, 1],
    "holes": [1, 0, 1, 1, 0, 1, 0],
    "full": [1, 1, 1, 1, 1, 1, 1],
    "one token": [0, 0, 0, 1, 0, 0, 0],
    "empty": [0, 0, 0, 0, 0, 0, 0],
}
MASK = np.array(list(PADDINGS.values()))
LENGTHS = (5, 1, 7, 0, 3)
"""Of the ragged batch."""
FP32 = Tolerance(2e-5, 2e-4)
FP16 = Tolerance(1e-2, 1e-2)


def tolerance_of(dtype: np.dtype[Any]) -> Tolerance:
    """For hidden states of two layers."""
    return FP16 if dtype == np.float16 else FP32


@dataclasses.dataclass
class Rewritten:
    """A model before and after."""

    original: onnx.ModelProto
    model: ir.Model
    report: RewriteReport

    @property
    def ops(self) -> list[str]:
        """Op types of the rewritten main graph."""
        return [node.op_type for node in self.model.graph]


def rewritten(model: ir.Model, **config: Any) -> Rewritten:
    """Rewrite a model; the original is kept."""
    original = copy.deepcopy(ir.to_proto(model))
    report = rewrite(model, RewriteConfig(**config))
    return Rewritten(original, model, report)


def plain_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session without our op library, warnings off."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def run(session: onnxruntime.InferenceSession, feed: Feed) -> Feed:
    """Outputs by name; inputs that the session does not have are left out."""
    known = {value.name for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    given = {name: array for name, array in feed.items() if name in known}
    return dict(zip(names, session.run(names, given), strict=True))


def padded_feed(spec: EncoderSpec, mask: Array = MASK, seed: int = 0) -> Feed:
    """Ids (noise at padded slots, unless the graph counts ids), the mask, and increasing positions of tokens."""
    random = np.random.default_rng(seed)
    ids = random.integers(PAD + 1, VOCABULARY, mask.shape)
    if spec.positions == "cumsum":
        ids = np.where(mask != 0, ids, PAD)
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    return {
        spec.names[0]: ids,
        spec.names[1]: mask.astype(spec.mask_type.numpy()),
        "position_ids": positions.astype(np.int64),
    }


def assert_same_padded(
    pair: Rewritten, feed: Feed, mask: Array = MASK, *, per_sequence: tuple[str, ...] = (), native: bool = False
) -> None:
    """Equal at valid places, zero at padded slots of per-token outputs; empty rows have no per-sequence value."""
    expected = run(plain_session(pair.original), feed)
    actual = run(ort_session(pair.model, native=native), feed)
    assert list(actual) == list(expected)
    valid = mask != 0
    for name, want in expected.items():
        got, tolerance = actual[name], tolerance_of(want.dtype)
        assert np.isfinite(got).all(), name
        assert got.shape == want.shape
        if name in per_sequence:
            rows = valid.any(axis=1)
            assert_close(got[rows], want[rows], tolerance, name)
        else:
            assert_close(got[valid], want[valid], tolerance, name)
            assert not got[~valid].any(), f"{name} is not zero at padded slots"


def assert_same_ragged(
    pair: Rewritten,
    spec: EncoderSpec,
    *,
    per_sequence: tuple[str, ...] = (),
    lengths: tuple[int, ...] = LENGTHS,
    native: bool = False,
) -> None:
    """A ragged batch gives what the original gives for each sequence alone; empty sequences give no rows."""
    plain = plain_session(pair.original)
    feeds = [padded_feed(spec, np.ones((1, n), dtype=np.int64), seed=n) for n in lengths]
    expected = [run(plain, feed) if n else {} for n, feed in zip(lengths, feeds, strict=True)]
    names = [role.name for role in pair.report.inputs if role.role is Role.PER_TOKEN]
    ragged: Feed = {name: np.concatenate([feed[name][0] for feed in feeds]) for name in names}
    ragged["cu_seqlens"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ragged["max_seqlen"] = np.zeros(max(lengths, default=0), dtype=np.float32)
    actual = run(ort_session(pair.model, native=native), ragged)
    for name, got in actual.items():
        assert np.isfinite(got).all(), name
        parts = [(row, outputs[name]) for row, outputs in enumerate(expected) if outputs]
        tolerance = tolerance_of(got.dtype)
        if name in per_sequence:
            assert len(got) == len(lengths)
            assert_close(got[[row for row, _ in parts]], np.concatenate([p for _, p in parts]), tolerance, name)
        else:
            assert_close(got, np.concatenate([part[0] for _, part in parts]), tolerance, name)
