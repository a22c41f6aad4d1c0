"""Models with sparse attention of their own, from transformers to packed tokens: the values stay transformers'."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers.sparse_models import feeds, outputs, paddings, tiny  # noqa: E402
from helpers.tolerances import Tolerance, assert_close  # noqa: E402
from raggedrt.errors import FeatureError  # noqa: E402
from raggedrt.export.torch_to_onnx import export_model  # noqa: E402
from raggedrt.graph_passes.pipeline import RewriteConfig, rewrite  # noqa: E402
from raggedrt.models.resolve import resolve  # noqa: E402
from raggedrt.plugins.contract.abi import Feature  # noqa: E402
from raggedrt.plugins.contract.capability import CAPABILITIES  # noqa: E402
from raggedrt.plugins.runtime.ort import ort_session  # noqa: E402

pytestmark = pytest.mark.ort_cpu
CLOSE = Tolerance(2e-5, 2e-4)
BIG_BIRD = "BigBird's blocks of 8"
# Name: model type, task, attention implementation, opset, what a layer's mask says, length of the rows.
CASES: dict[str, tuple[str, str | None, str | None, int, str, int]] = {
    "modernbert eager": ("modernbert", None, "eager", 18, "-8 <= query - key <= 8", 40),
    "modernbert sdpa": ("modernbert", None, "sdpa", 24, "-8 <= query - key <= 8", 40),
    "mistral eager": ("mistral", None, "eager", 24, "query - key <= 6", 40),
    "mistral sdpa": ("mistral", None, "sdpa", 20, "query - key <= 6", 40),
    "longformer": ("longformer", None, None, 20, "-4 <= query - key <= 4", 45),
    "longformer global": ("longformer", "text-classification", None, 20, "is a global token (0)", 45),
    "bigbird dense": ("big_bird", None, None, 20, BIG_BIRD, 60),
    "bigbird": ("big_bird", None, None, 20, BIG_BIRD, 101),
}


@pytest.fixture(scope="module")
def exported() -> dict[str, onnx.ModelProto]:
    """Each model is exported once."""
    return {}


def _export(case: str, known: dict[str, onnx.ModelProto]) -> tuple[Any, ir.Model]:
    model_type, task, implementation, opset, _, _ = CASES[case]
    key = str(CASES[case][:4])
    model: Any = tiny(model_type, task)  # a new one each time: one short row makes transformers' BigBird dense for good
    if key not in known:
        if implementation is not None:
            model.set_attn_implementation(implementation)
        resolved = resolve(model)
        assert resolved.model is not None
        known[key] = ir.to_proto(export_model(resolved.model, opset=opset).model)
    return model, ir.from_proto(known[key])


def _rows(case: str, padded: bool) -> dict[str, torch.Tensor]:
    length = CASES[case][5]
    mask = paddings(length)
    if not padded:
        mask[1:] = 0
        mask[1, : length // 2], mask[2, :1], mask[3, : length - 1] = 1, 1, 1
    return feeds(mask, 1 if CASES[case][0] == "longformer" else 0)


def _feed(model: ir.Model, given: dict[str, Any]) -> dict[str, Any]:
    fill = {"token_type_ids": np.zeros_like(given["input_ids"])}
    return {str(value.name): {**fill, **given}[str(value.name)] for value in model.graph.inputs}


@pytest.mark.parametrize("native", [False, True], ids=["bodies", "native"])
@pytest.mark.parametrize("case", CASES)
def test_padded(case: str, native: bool, op_library: pathlib.Path, exported: dict[str, onnx.ModelProto]) -> None:
    original, model = _export(case, exported)
    report = rewrite(model, RewriteConfig(features=("pack",)))
    assert {entry.op for entry in report.attention} == {"RaggedAttention"}
    assert any(CASES[case][4] in str(entry.mask) for entry in report.attention)
    assert not [node for node in model.graph if node.domain == "raggedrt.torch"]
    assert not [key for key in model.functions if key[0] == "raggedrt.torch"]
    rows = _rows(case, padded=True)
    found = ort_session(model, native=native).run(
        None, _feed(model, {name: tensor.numpy() for name, tensor in rows.items()})
    )
    valid = rows["attention_mask"].numpy() != 0
    expected = outputs(original, rows)[: len(found)]
    for got, want in zip(found, expected, strict=True):
        assert_close(got * valid[..., None] if got.ndim == 3 else got, want, CLOSE)


@pytest.mark.parametrize("case", ["modernbert sdpa", "mistral sdpa", "longformer", "longformer global", "bigbird"])
def test_ragged(case: str, exported: dict[str, onnx.ModelProto]) -> None:
    """BigBird's blocks are then those of the longest row of the call, which is what transformers pads to."""
    original, model = _export(case, exported)
    accept = case.startswith("bigbird")
    rewrite(model, RewriteConfig(features=("pack",), io="ragged", accept_approximation=accept))
    rows = _rows(case, padded=False)
    valid = rows["attention_mask"].numpy() != 0
    lengths = valid.sum(axis=1)
    ids = rows["input_ids"].numpy()[valid]
    ragged = {
        "input_ids": ids,
        "token_type_ids": np.zeros_like(ids),
        "cu_seqlens": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        "max_seqlen": np.zeros(int(lengths.max()), np.float32),
    }
    found = ort_session(model, native=False).run(None, {str(v.name): ragged[str(v.name)] for v in model.graph.inputs})
    for got, want in zip(found, outputs(original, rows), strict=False):
        assert_close(got, want[valid] if want.ndim == 3 else want, CLOSE)


def test_a_mask_that_depends_on_the_padded_length_is_no_ragged_one(
    exported: dict[str, onnx.ModelProto],
) -> None:
    _, model = _export("bigbird", exported)
    with pytest.raises(FeatureError, match=r"depends on the length of the padded row .*--accept-approximation"):
        rewrite(model, RewriteConfig(io="ragged"))


def test_what_is_refused_still_runs(exported: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch) -> None:
    original, model = _export("bigbird", exported)
    limited = dataclasses.replace(
        CAPABILITIES["ort-cpu"], features=CAPABILITIES["ort-cpu"].features & ~Feature.BLOCK_MASK
    )
    monkeypatch.setitem(CAPABILITIES, "ort-cpu", limited)
    report = rewrite(model, RewriteConfig(allow_partial=True))
    assert {entry.op for entry in report.attention} == {None}
    assert any("lacks BLOCK_MASK" in refusal.reason for record in report.passes for refusal in record.refused)
    rows = _rows("bigbird", padded=True)
    feed = _feed(model, {name: tensor.numpy() for name, tensor in rows.items()})
    valid = rows["attention_mask"].numpy()[..., None]
    assert_close(
        ort_session(model, native=False).run(None, feed)[0] * valid.astype(np.float32),
        outputs(original, rows)[0],
        CLOSE,
    )
