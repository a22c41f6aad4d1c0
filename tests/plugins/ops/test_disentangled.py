"""The disentangled terms express DeBERTa's attention as transformers computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.tolerances import ATTENTION, assert_close
from raggedrt.plugins.ops.case import padding_mask
from raggedrt.plugins.ops.packing_plan.reference import reference as packing_plan
from raggedrt.plugins.ops.ragged_attention.reference import reference as ragged_attention

torch = pytest.importorskip("torch")
deberta = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")
pytestmark = pytest.mark.ort_cpu

HEADS, HEAD_SIZE, LENGTH = 2, 8, 40


def module(terms: list[str], buckets: int) -> Any:
    config = deberta.DebertaV2Config(
        hidden_size=HEADS * HEAD_SIZE, num_attention_heads=HEADS, relative_attention=True, pos_att_type=terms,
        position_buckets=buckets, max_relative_positions=32, share_att_key=True,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(2)
    return deberta.DisentangledSelfAttention(config).eval()


def by_head(layer: Any, x: Any) -> Any:
    """[T, N, H] of a projection of x [T, N*H]."""
    return layer(x).unflatten(-1, (HEADS, HEAD_SIZE))


@pytest.mark.parametrize("kind", ["left", "holes"])
@pytest.mark.parametrize(("terms", "buckets"), [(["c2p", "p2c"], 8), (["c2p"], -1), (["p2c"], 8)])
def test_ragged_attention_is_deberta(terms: list[str], buckets: int, kind: str) -> None:
    attention = module(terms, buckets)
    mask = padding_mask(np.random.default_rng(3), kind, batch=2, width=LENGTH)
    hidden = torch.randn(2, LENGTH, HEADS * HEAD_SIZE)
    span = attention.pos_ebd_size
    embeddings = torch.randn(2 * span, HEADS * HEAD_SIZE)
    outer = torch.from_numpy(mask)[:, None, :, None] * torch.from_numpy(mask)[:, None, None, :]
    with torch.no_grad():
        expected, _ = attention(hidden, outer, rel_embeddings=embeddings)
        plan = packing_plan({"attention_mask": mask}, {})
        tokens = hidden.flatten(0, 1)[torch.from_numpy(plan["token_index"]).long()]
        query, key = by_head(attention.query_proj, tokens), by_head(attention.key_proj, tokens)
        position_query, position_key = (by_head(p, embeddings) for p in (attention.query_proj, attention.key_proj))
        scale = (HEAD_SIZE * (1 + len(terms))) ** -0.5
        relative = {
            "rel_query": torch.einsum("tnh,rnh->tnr", query, position_key) * scale if "c2p" in terms else None,
            "rel_key": torch.einsum("tnh,rnh->tnr", key, position_query) * scale if "p2c" in terms else None,
        }
        value = attention.value_proj(tokens)
        whole = torch.empty(LENGTH, 1)
        steps = deberta.build_relative_position(whole, whole, buckets, 32)[0].long()
    # key - query from -(LENGTH - 1) on; transformers has query - key
    table = torch.stack([steps[max(-d, 0), max(d, 0)] for d in range(1 - LENGTH, LENGTH)])
    inputs = {
        "query": query.flatten(1).numpy(),
        "key": key.flatten(1).numpy(),
        "value": value.numpy(),
        "rel_bucket": (table + span).clamp(0, 2 * span - 1).numpy().astype(np.int32),
        "positions_q": plan["position"],
        "positions_k": plan["key_position"],
        **{f"cu_seqlens_{side}": plan["cu_seqlens"] for side in "qk"},
        **{f"max_seqlen_{side}": np.zeros(LENGTH, np.float32) for side in "qk"},
        **{name: term.numpy() for name, term in relative.items() if term is not None},
    }
    output = ragged_attention(inputs, {"num_heads": HEADS, "scale": scale}, compute=np.float64)["output"]
    assert_close(output, expected.flatten(0, 1).numpy()[plan["token_index"]], ATTENTION[output.dtype])
