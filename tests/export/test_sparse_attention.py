"""The exported op: one node, and a function body that computes what PyTorch computes."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from raggedrt.export.sparse_attention import DOMAIN, OP  # noqa: E402
from raggedrt.export.torch_to_onnx import export_model  # noqa: E402
from raggedrt.export.verify import verify_export  # noqa: E402
from raggedrt.models.contract import ModelSource  # noqa: E402
from raggedrt.torch_ops import sparse_attention  # noqa: E402

pytestmark = pytest.mark.ort_cpu
PATTERNS: dict[str, dict[str, Any]] = {
    "causal window": {"window": (3, -1), "causal": True},
    "dilated globals": {"window": (6, 4), "dilation": 2, "global_tokens": [0, 7]},
    "blocks": {"block_size": 4, "dense_up_to": 18, "global_blocks": 3},
}


class Layers(torch.nn.Module):
    """Attention by every pattern, as a user's own module has it."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 32)
        self.key_heads = torch.nn.Linear(32, 16)
        self.masked = masked

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(input_ids)
        mask = attention_mask if self.masked else None
        if not self.masked:
            hidden = hidden * attention_mask[..., None]
        for pattern in PATTERNS.values():
            query = hidden.unflatten(-1, (4, 8)).transpose(1, 2)
            key = self.key_heads(hidden).unflatten(-1, (2, 8)).transpose(1, 2)
            hidden = hidden + sparse_attention(query, key, key, mask, scale=0.5, **pattern).transpose(1, 2).flatten(2)
        return hidden


def _source(masked: bool) -> ModelSource:
    torch.manual_seed(0)
    examples = {"input_ids": torch.randint(0, 50, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.int64)}
    axes = {name: {0: "batch", 1: "sequence"} for name in examples}
    return ModelSource(Layers(masked).eval(), examples, axes, ("output",))


@pytest.mark.parametrize(("masked", "opset"), [(True, 18), (False, 24)])
def test_the_body_computes_what_the_op_computes(masked: bool, opset: int) -> None:
    source = _source(masked)
    exported = export_model(source, opset=opset)
    nodes = [node for node in exported.model.graph if node.domain == DOMAIN]
    assert [node.op_type for node in nodes] == [OP] * len(PATTERNS)
    assert all(node.op_identifier() in exported.model.functions for node in nodes)
    result = verify_export(source, exported.model)
    assert max(error.max_abs for error in result.outputs) < 1e-5


def test_equal_nodes_share_a_body() -> None:
    from raggedrt.models.factories import tiny_big_bird
    from raggedrt.models.resolve import resolve

    resolved = resolve(tiny_big_bird())
    assert resolved.model is not None
    model = export_model(resolved.model).model
    assert sum(node.op_type == OP for node in model.graph) == 2
    assert len([key for key in model.functions if key[0] == DOMAIN]) == 1


def test_rows_that_are_long_enough_to_be_sparse_are_verified() -> None:
    from raggedrt.models.factories import tiny_big_bird
    from raggedrt.models.resolve import resolve

    resolved = resolve(tiny_big_bird())
    assert resolved.model is not None
    assert resolved.model.long_length == 83  # dense up to 72
    limits = {"position_limit": resolved.position_limit, "pad_token_id": resolved.pad_token_id}
    result = verify_export(resolved.model, export_model(resolved.model).model, **limits)  # type: ignore[arg-type]
    assert "long rows, left padding" in result.cases
