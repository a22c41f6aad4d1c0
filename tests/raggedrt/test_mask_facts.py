"""What `inspect` says of masks: tiles, FLOPs, advice and drawings."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import raggedrt
from helpers.capabilities import grant
from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.encoder_runs import rewritten
from raggedrt.cli import main
from raggedrt.graph_passes.masks import MaskSpec
from raggedrt.graph_passes.masks.short_spec import parse_mask
from raggedrt.sparse_facts import EMPTY, FULL, PARTIAL, mask_facts, tile_classes

pytestmark = pytest.mark.ort_cpu


def report_of(text: str | None, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    grant(monkeypatch)
    sparsity = None if text is None else parse_mask(text)
    return rewritten(build_encoder(EncoderSpec()), sparsity=sparsity, accept_approximation=True).report.to_json()


@pytest.mark.parametrize("text", ["window(5)", "causal", "bigbird(block=8, window=1, random=1)", "strided(3)", "all"])
@pytest.mark.parametrize("length", [7, 64, 90])
def test_tile_classes_are_those_of_the_mask(text: str, length: int) -> None:
    spec, size = parse_mask(text), 16
    visible = spec.visible(np.ones((1, length)))[0]
    classes = tile_classes(spec, length, size)
    for row in range(len(classes)):
        for column in range(len(classes)):
            tile = visible[row * size : (row + 1) * size, column * size : (column + 1) * size]
            want = FULL if tile.all() else PARTIAL if tile.any() else EMPTY
            assert classes[row, column] == want, (row, column)


def test_one_entry_per_distinct_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    (facts,) = mask_facts(report_of("window(64)", monkeypatch), 1024)
    assert len(facts["sites"]) == 2
    assert facts["density"] == pytest.approx((129 * 1024 - 64 * 65) / 1024**2)
    assert facts["tiles"] == {"size": 64, "empty": 210, "partial": 30, "full": 16, "visited": 46 / 256}
    assert facts["flops"]["dense"] == 2 * 1024**2 * 4 * (8 + 8)
    assert facts["flops"]["kept"] == pytest.approx(facts["density"] * facts["flops"]["dense"])
    assert facts["advice"] is None
    assert MaskSpec.from_json(facts["spec"]) == MaskSpec(padding=True).conjoined(parse_mask("window(64)"))


@pytest.mark.parametrize(
    ("text", "length", "words"),
    [
        (None, 512, "keeps every pair"),
        ("window(2)", 64, "fit into one tile of 64"),
        ("window(300)", 512, "pays where that is below 85%"),
        ("window(2) | global([0])", 128, "hold 100% of the pairs"),
    ],
)
def test_where_sparsity_does_not_pay(
    text: str | None, length: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (facts,) = mask_facts(report_of(text, monkeypatch), length)
    assert words in facts["advice"]


def test_masks_are_drawn(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="needs pip install 'raggedrt[draw]'")
    grant(monkeypatch)
    folder = tmp_path / "deep" / "masks"
    assert main(["inspect", str(tiny_onnx), "--draw", str(folder), "--length", "200"]) == 0
    assert "GFLOPs per layer" in capsys.readouterr().out
    (path,) = folder.iterdir()
    with image_module.open(path) as image:
        assert image.format == "PNG"
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert (8, 81, 156) in colours  # full tiles
    assert (158, 202, 225) not in colours


def test_drawing_without_pillow_names_the_extra(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["inspect", str(tiny_onnx), "--draw", str(tmp_path / "masks")]) == 5
    assert "raggedrt[draw]" in capsys.readouterr().err


def test_json_has_the_same_facts(tiny_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_onnx), "--json", "--length", "300", "-q"]) == 0
    (mask,) = json.loads(capsys.readouterr().out)["masks"]
    assert mask == raggedrt.inspect(tiny_onnx, length=300)["masks"][0]
    assert (mask["length"], mask["tiles"]["full"]) == (300, 25)


@pytest.mark.parametrize("length", ["0", "70000"])
def test_lengths_out_of_range(length: str, tiny_onnx: Path) -> None:
    assert main(["inspect", str(tiny_onnx), "--length", length]) == 2


def test_a_file_is_no_folder_for_drawings(tiny_onnx: Path) -> None:
    assert main(["inspect", str(tiny_onnx), "--draw", str(tiny_onnx)]) == 2
