"""`--sparsity` and plans: accepted approximations are verified and measured, everything else is refused in words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import yaml

import raggedrt
from helpers.capabilities import require
from helpers.encoder_graphs import EncoderSpec, build_encoder
from helpers.tolerances import Tolerance, assert_close
from raggedrt.cli import main
from raggedrt.graph_passes.masks import MaskSpec
from raggedrt.graph_passes.masks.short_spec import parse_mask
from raggedrt.plugins.contract.abi import Feature

pytestmark = pytest.mark.ort_cpu
WINDOW = "window(3)"
CLOSE = Tolerance(1e-5, 1e-4)


@pytest.fixture(autouse=True)
def _able() -> None:
    require(Feature.WINDOW | Feature.GLOBAL_TOKENS | Feature.BLOCK_MASK)


def test_a_model_is_rewritten_and_the_report_says_how_far_it_moved(
    tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, report = tmp_path / "out.onnx", tmp_path / "report.json"
    arguments = ["rewrite", str(tiny_onnx), "-o", str(output), "--sparsity", WINDOW, "--report", str(report)]
    assert main([*arguments, "--accept-approximation"]) == 0
    text = capsys.readouterr().out
    assert "an approximation: window(left=3, right=3) of=own is imposed" in text
    document = json.loads(report.read_text())
    moved = {entry["output"]: entry for entry in document["approximation"]["outputs"]}
    assert set(moved) == {"last_hidden_state", "pooler_output"}
    for entry in moved.values():
        assert 0 < entry["mean_abs"] <= entry["max_abs"]
        assert -1 <= entry["least_cosine"] <= entry["cosine"] < 1
    assert [site["sparsity"] for site in document["attention"]] == ["window(left=3, right=3) of=own"] * 2


def test_the_distance_is_that_of_the_outputs(tiny_onnx: Path) -> None:
    model, report = raggedrt.rewrite(tiny_onnx, sparsity=WINDOW, accept_approximation=True, opt_shapes="input_ids:1x32")
    assert report.approximation is not None
    assert report.approximation["longest"] == 72  # the longest of the usual cases; the sample has 32 tokens
    ids = np.random.default_rng(0).integers(3, 90, (2, 40))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    before = raggedrt.ort_session(tiny_onnx).run(["last_hidden_state"], feeds)[0]
    after = raggedrt.ort_session(model).run(["last_hidden_state"], feeds)[0]
    largest = max(entry["max_abs"] for entry in report.approximation["outputs"])
    assert 0.1 * largest < np.abs(before - after).max() < 10 * largest
    short = {name: array[:, :4] for name, array in feeds.items()}  # nothing is hidden from four tokens
    assert_close(
        raggedrt.ort_session(model).run(["last_hidden_state"], short)[0],
        raggedrt.ort_session(tiny_onnx).run(["last_hidden_state"], short)[0],
        CLOSE,
    )


def test_a_model_of_one_length(tmp_path: Path) -> None:
    spec = EncoderSpec(batch=2, sequence=12)
    onnx.save(ir.to_proto(build_encoder(spec)), tmp_path / "model.onnx")
    _, report = raggedrt.rewrite(tmp_path / "model.onnx", sparsity=WINDOW, accept_approximation=True)
    assert report.approximation is not None
    assert report.approximation["longest"] == 12
    assert report.attention[0].density_at == 12


def test_a_mask_that_hides_nothing_is_said_to_do_so(tiny_onnx: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, report = raggedrt.rewrite(tiny_onnx, sparsity="window(100)", accept_approximation=True)
    assert report.approximation is not None
    assert all(entry["max_abs"] < 1e-4 for entry in report.approximation["outputs"])
    assert "hide nothing in the samples" in caplog.text


def test_a_bundle_holds_its_masks_and_what_it_was_verified_against(
    tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "longformer(window=8, global=[0])"
    bundle = raggedrt.convert(tiny_onnx, tmp_path / "out", sparsity=text, accept_approximation=True)
    (mask,) = bundle.manifest.mask_specs
    imposed = parse_mask(text)
    assert MaskSpec.from_json(mask["spec"]) == MaskSpec(padding=True).conjoined(imposed)
    assert parse_mask(mask["imposed"]) == imposed
    assert bundle.report is not None
    assert "the original where they hide nothing (one token)" in bundle.report["verification"]["reference"]
    assert bundle.report["approximation"]["outputs"]
    assert main(["inspect", str(tmp_path / "out"), "-q"]) == 0
    capsys.readouterr()
    assert main(["compare", str(tiny_onnx), str(tmp_path / "out"), "-q"]) == 4
    assert f"an approximation: {mask['imposed']} is imposed" in capsys.readouterr().err


def test_ragged_bundles_take_it_too(tiny_onnx: Path, tmp_path: Path) -> None:
    padded = raggedrt.convert(tiny_onnx, tmp_path / "p", sparsity=WINDOW, accept_approximation=True)
    ragged = raggedrt.convert(tiny_onnx, tmp_path / "r", io="ragged", sparsity=WINDOW, accept_approximation=True)
    rows = [np.arange(5, 5 + n) for n in (20, 1, 7)]
    one, two = (raggedrt.Session(bundle.path).run({"input_ids": rows}) for bundle in (padded, ragged))
    for want, got in zip(one["last_hidden_state"], two["last_hidden_state"], strict=True):
        assert_close(got, want, CLOSE)


@pytest.mark.parametrize(
    ("sparsity", "code", "words"),
    [
        ("windo(4)", 2, "does not parse at character 1, its start: unknown mask 'windo'"),
        ("window(4", 2, "does not parse at character 9, after 'window(4'"),
        ("window(4) & & causal", 2, "character 13, after 'window(4) &'"),
        ("window(4) of=both", 2, "'both' where 'own' or 'padded' is expected"),
        ("longformer(window=3)", 2, "even"),
        ("bigbird(block=12)", 2, "multiple of 8"),
        ("segment", 2, "differs from sample to sample"),
        ("blocks(nowhere.npz)", 2, "cannot be read"),
        ("window(2) of=padded", 3, "a fixed slot is read"),
    ],
)
def test_what_cannot_be_imposed_is_one_paragraph(
    sparsity: str, code: int, words: str, tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["rewrite", str(tiny_onnx), "-o", str(tmp_path / "out.onnx"), "--sparsity", sparsity, "-q"]
    assert main([*arguments, "--accept-approximation"]) == code
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["rewrite", "convert"])
def test_an_approximation_must_be_accepted(
    verb: str, tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, str(tiny_onnx), "-o", str(tmp_path / "out"), "--sparsity", WINDOW, "-q"]) == 2
    assert "--accept-approximation" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


TILES = np.eye(10, dtype=bool)
LAYOUTS: dict[str, tuple[dict[str, object], int, str]] = {
    "no block size": ({"tiles": TILES}, 2, "expected 'block'"),
    "not square": ({"block": 8, "tiles": TILES[:5]}, 2, "shape [5, 10]"),
    "no tiles at all": ({"block": 8}, 2, "expected 'block'"),
    "size not a multiple of 8": ({"block": 10, "tiles": TILES}, 2, "multiple of 8"),
    "wrong length": ({"block": 8, "length": 100, "tiles": TILES}, 2, "row_ptr has 14 entries at length 100"),
    "out of range": ({"block": 8, "row_ptr": [0, 1, 2], "columns": [0, 2]}, 2, "columns are from 0 to 1"),
    "unsorted": ({"block": 8, "row_ptr": [0, 2, 3], "columns": [1, 0, 0]}, 2, "ascend"),
    "duplicate": ({"block": 8, "row_ptr": [0, 2, 3], "columns": [0, 0, 0]}, 2, "without duplicates"),
    "too short for the model": ({"block": 8, "tiles": TILES[:5, :5]}, 3, "made for 40 tokens"),
    "pickled": ({"block": np.array([8], dtype=object)}, 2, "cannot be read"),
    "fits": ({"block": 8, "tiles": TILES}, 0, ""),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_files(name: str, tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays, code, words = LAYOUTS[name]
    np.savez(tmp_path / "layout.npz", **{key: np.asarray(value) for key, value in arrays.items()})
    arguments = ["rewrite", str(tiny_onnx), "-o", str(tmp_path / "out.onnx"), "-q", "--accept-approximation"]
    assert main([*arguments, "--sparsity", f"blocks({tmp_path / 'layout.npz'})"]) == code
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert (tmp_path / "out.onnx").exists() == (code == 0)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ("documents", "it depends on input input_ids: documents packed into one row"),
        ("rounded", "300000 are too large to probe around"),
    ],
)
def test_masks_that_no_op_takes_are_said(
    mask: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(ir.to_proto(build_encoder(EncoderSpec(mask=mask))), tmp_path / "model.onnx")
    arguments = ["rewrite", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "out.onnx"), "--features", "pack", "-q"]
    assert main(arguments) == 3
    assert words in capsys.readouterr().err


@pytest.fixture
def plan(tiny_onnx: Path, tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    assert main(["rewrite", str(tiny_onnx), "--write-plan", str(path), "-q"]) == 0
    return path


def edited(plan: Path, **changes: object) -> Path:
    document = yaml.safe_load(plan.read_text())
    document["sites"][1].update(changes)
    plan.write_text(yaml.safe_dump(document, sort_keys=False))
    return plan


def test_a_plan_is_written_and_changes_nothing(plan: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(plan.read_text())
    assert [site["op"] for site in document["sites"]] == ["RaggedAttention"] * 2
    assert [(site["sparsity"], site["keep"]) for site in document["sites"]] == [(None, False)] * 2
    assert {path.name for path in tmp_path.iterdir()} == {"plan.yaml"}
    output = tmp_path / "out.onnx"
    assert main(["rewrite", str(tiny_onnx), "-o", str(output), "--plan", str(plan), "-q"]) == 0
    plain, _ = raggedrt.rewrite(tiny_onnx)
    assert [n.op_type for n in onnx.load(str(output)).graph.node] == [n.op_type for n in plain.graph.node]


def test_a_plan_imposes_site_by_site(plan: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    edited(plan, sparsity=WINDOW)
    output, again = tmp_path / "out.onnx", tmp_path / "again.yaml"
    arguments = ["rewrite", str(tiny_onnx), "-o", str(output), "--plan", str(plan), "-q"]
    assert main(arguments) == 2
    assert main([*arguments, "--write-plan", str(again), "--accept-approximation"]) == 0
    written = yaml.safe_load(again.read_text())
    assert [site["sparsity"] for site in written["sites"]] == [None, "window(left=3, right=3) of=own"]
    _, report = raggedrt.rewrite(tiny_onnx, plan=again, accept_approximation=True)
    assert [entry.sparsity for entry in report.attention] == [None, "window(left=3, right=3) of=own"]


def test_a_plan_of_the_exported_model_serves_its_source(plan: Path, tiny_source: Path, tmp_path: Path) -> None:
    edited(plan, sparsity=WINDOW)
    bundle = raggedrt.convert(tiny_source, tmp_path / "out", plan=plan, accept_approximation=True)
    assert bundle.report is not None
    assert [site["sparsity"] for site in bundle.report["attention"]] == [None, "window(left=3, right=3) of=own"]


def test_a_kept_site_is_left_alone(plan: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    edited(plan, keep=True)
    arguments = ["rewrite", str(tiny_onnx), "-o", str(tmp_path / "out.onnx"), "--plan", str(plan), "-q"]
    assert main([*arguments, "--features", "pack"]) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"node": "nowhere"}, "no attention site 'nowhere'"),
        ({"sparse": "causal"}, "unknown key 'sparse'"),
        ({"sparsity": "windo(3)"}, "does not parse at character 1"),
        ({"sparsity": 3}, "sparsity is null or a mask"),
        ({"sparsity": ["causal"]}, "sparsity is null or a mask"),
        ({"keep": "maybe"}, "keep is true or false"),
        ({"keep": True, "sparsity": WINDOW}, "cannot have a sparsity and be kept"),
        ({"node": None}, "needs 'node'"),
    ],
)
def test_faults_of_a_plan_have_a_line(
    change: dict[str, object],
    words: str,
    plan: Path,
    tiny_onnx: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edited(plan, **change)
    arguments = ["rewrite", str(tiny_onnx), "-o", str(tmp_path / "out.onnx"), "--plan", str(plan), "-q"]
    assert main([*arguments, "--accept-approximation"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert re.search(r"plan\.yaml, line (1\d|2\d): ", error)  # the second site is there
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: expected the keys version, sites"),
        ("version: 2\nsites: []\n", "expected 'version: 1'"),
        ("version: 1\nsites: 4\n", "line 2: expected a list"),
        ("version: 1\nsites: [\n", "no valid YAML"),
        ("version: 1\nsites:\n- node: a\n- node: a\n", "line 4: the site 'a' is listed twice"),
        ("version: 1\nversion: 1\nsites: []\n", "line 2: the key 'version' is given twice"),
        ("version: 1\nsites:\n- !!python/object/apply:os.system [ls]\n", "line 3: expected the keys"),
    ],
)
def test_files_that_are_no_plan(
    text: str, words: str, tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    arguments = ["rewrite", str(tiny_onnx), "-o", str(tmp_path / "out.onnx"), "--plan", str(tmp_path / "plan.yaml")]
    assert main([*arguments, "-q"]) == 2
    assert words in capsys.readouterr().err


def test_a_plan_and_a_sparsity_exclude_each_other(plan: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    arguments = ["rewrite", str(tiny_onnx), "-o", str(tmp_path / "out.onnx"), "--plan", str(plan)]
    assert main([*arguments, "--sparsity", WINDOW, "--accept-approximation", "-q"]) == 2
    assert main(["rewrite", str(tiny_onnx), "-q"]) == 2
