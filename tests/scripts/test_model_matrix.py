"""The model matrix: the document is what its results say, all families are in it, and a few cells hold here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.project import ROOT

pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")
pytestmark = pytest.mark.ort_cpu
RESULTS = ROOT / "docs" / "model-matrix.json"
QUICK = ("bert", "deberta-v2", "t5", "gpt2", "vit")


@pytest.fixture
def matrix(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module; it stands beside the modules that it imports."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import model_matrix

    return model_matrix


def test_the_document_is_generated_from_the_results(matrix: Any) -> None:
    assert (ROOT / "docs" / "model-matrix.md").read_text() == matrix.document(json.loads(RESULTS.read_text()))


def test_every_family_is_recorded_and_none_is_at_fault(matrix: Any) -> None:
    """Heads, and exports by PyTorch alone, may be left for a later run; an empty cell of the document says so."""
    families = json.loads(RESULTS.read_text())["families"]
    missing, faults = [], []
    for family in matrix.FAMILIES:
        cells = families.get(family.name, {})
        main = matrix.combinations(family, f"^{family.task}/.*/raggedrt$")
        missing += [f"{family.name} {item.key}" for item in main if item.key not in cells]
        faults += [
            f"{family.name} {key}: {part['reason']}"
            for key, cell in cells.items()
            for part in cell.values()
            if part["status"] == "FAULT"
        ]
    assert not missing, missing
    assert not faults, faults


def test_text_families_are_packed(matrix: Any) -> None:
    """At least nine in ten combinations of families with a padding mask, with padded inputs and outputs."""
    families = json.loads(RESULTS.read_text())["families"]
    cells = [
        cell["padded"]["status"]
        for family in matrix.FAMILIES
        if family.pixels is None
        for key, cell in families[family.name].items()
        if key.endswith("raggedrt") and cell["export"]["status"] != "absent"
        for _ in [cell.setdefault("padded", cell["export"])]
    ]
    assert cells.count("ok") >= 0.9 * len(cells), {status: cells.count(status) for status in set(cells)}


@pytest.mark.parametrize("key", QUICK)
def test_a_cell_of_the_matrix(key: str, matrix: Any, tmp_path: Path) -> None:
    """Without the op library: it may be missing here, and its own tests compare it with the bodies."""
    family = next(family for family in matrix.FAMILIES if family.key == key)
    (combination,) = [item for item in matrix.combinations(family, "/eager/20/raggedrt") if item.task == family.task]
    checks = sys.modules["matrix_checks"]
    cell = checks.check(combination, tmp_path, natives=(False,))
    assert cell["export"] == {"status": "ok"}
    if family.pixels is not None:
        assert cell["padded"]["status"] == "no padding", cell
        return
    assert cell["padded"]["status"] == cell["ragged"]["status"] == "ok", cell
    assert cell["padded"]["error"] < checks.TOLERANCE


def test_a_wrong_value_is_a_fault(matrix: Any) -> None:
    import numpy as np

    checks = sys.modules["matrix_checks"]
    with pytest.raises(AssertionError, match="wrong by"):
        checks._error(np.array([1.0, 2.0]), np.array([1.0, 2.1]), "x")
    with pytest.raises(AssertionError, match="wrong by"):
        checks._error(np.array([np.nan]), np.array([1.0]), "x")
