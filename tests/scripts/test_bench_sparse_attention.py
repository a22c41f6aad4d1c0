"""The sparse benchmark gives every contender the same mask and counts what is computed."""

from __future__ import annotations

import runpy
from typing import Any

import numpy as np
import pytest

from helpers.project import ROOT

pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.ort_cpu

LENGTH = 768


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return runpy.run_path(str(ROOT / "scripts" / "bench_sparse_attention.py"), run_name="bench_sparse_attention")


def test_pairs_and_rules_are_the_same_mask(bench: dict[str, Any]) -> None:
    query, key = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)[None, :]
    for mask in bench["MASKS"]:
        expected = bench["mask_rows"](mask, LENGTH, 0, LENGTH)
        pairs = mask.pairs or bench["_by_block"](mask, LENGTH)
        np.testing.assert_array_equal(pairs(query, key).numpy(), expected, mask.name)


def test_what_is_computed_covers_what_is_kept(bench: dict[str, Any]) -> None:
    for mask in bench["MASKS"]:
        kept, visited = bench["pairs_of"](mask, LENGTH)
        assert kept == bench["mask_rows"](mask, LENGTH, 0, LENGTH).mean()
        assert kept <= visited <= 1
    causal, visited = bench["pairs_of"](bench["MASKS"][0], LENGTH)
    assert causal == (LENGTH + 1) / (2 * LENGTH)
    assert visited < causal + 16 / LENGTH


def test_each_row_of_bigbird_has_three_blocks_of_its_own(bench: dict[str, Any]) -> None:
    listed = bench["random_blocks"](LENGTH)[0]
    for row, blocks in enumerate(listed[1:-1].tolist(), 1):
        assert len({*blocks, row - 1, row, row + 1}) == 6
        assert min(blocks) > 0
        assert max(blocks) < len(listed) - 1
