"""The BigBird benchmark counts the pairs its prediction rests on, and refuses lengths at which BigBird is dense."""

from __future__ import annotations

import runpy
import sys
from typing import Any

import pytest

from helpers.project import ROOT

pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")
pytestmark = pytest.mark.ort_cpu


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "bench_bigbird.py"), run_name="bench_bigbird")


def test_lengths_fill_the_rows_by_a_fifth_at_least(bench: dict[str, Any]) -> None:
    setup = bench["Setup"](4096, 8, 12, 2)
    assert setup.lengths[-1] == 4096
    assert setup.lengths.min() >= 0.2 * 4096 - 1
    assert setup.mask.sum() == setup.lengths.sum()
    assert not setup.feed()["input_ids"][setup.mask == 0].any()


def test_kept_pairs_are_counted_among_valid_tokens(bench: dict[str, Any]) -> None:
    from raggedrt.graph_passes.masks.bigbird import BigBird
    from raggedrt.graph_passes.masks.spec import MaskSpec

    setup = bench["Setup"](900, 3, 1, 1)
    spec = MaskSpec(padding=True, pattern=BigBird(64, random=0))
    visible = spec.visible(setup.mask) & (setup.mask[:, :, None] != 0)
    kept, covered = bench["kept_share"](spec, setup)
    assert kept == pytest.approx(visible.sum() / (setup.lengths**2).sum())
    assert kept <= covered
    assert covered < 1


def test_short_rows_are_refused(bench: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_bigbird.py", "--length", "704"])
    with pytest.raises(SystemExit) as stopped:
        bench["main"]()
    assert stopped.value.code == 2
