from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from raggedrt.errors import InputError  # noqa: E402
from raggedrt.models.sentence_transformers import load_head, read_modules  # noqa: E402
from raggedrt.models.task_modules import POOLING_MODES  # noqa: E402

pytestmark = pytest.mark.ort_cpu
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 0]])
REFERENCES = {
    "cls": lambda rows: rows[0],
    "lasttoken": lambda rows: rows[-1],
    "max": lambda rows: rows.max(0),
    "mean": lambda rows: rows.mean(0),
    "mean_sqrt_len_tokens": lambda rows: rows.sum(0) / np.sqrt(len(rows)),
}


@pytest.mark.parametrize("mode", sorted(POOLING_MODES))
def test_pooling_reads_valid_tokens_only(mode: str) -> None:
    hidden = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
    got = POOLING_MODES[mode](torch.from_numpy(hidden), torch.from_numpy(MASK)).numpy()
    want = [REFERENCES[mode](hidden[row][MASK[row].astype(bool)]) for row in range(4)]
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def write_modules(folder: Path, *names: str, pooling: dict[str, object] | None = None) -> Path:
    rows = [{"type": f"sentence_transformers.models.{name}", "path": f"{i}_{name}"} for i, name in enumerate(names)]
    (folder / "modules.json").write_text(json.dumps(rows))
    for row in rows:
        (folder / row["path"]).mkdir()
    if len(names) > 1:
        (folder / f"1_{names[1]}" / "config.json").write_text(json.dumps(pooling or {}))
    return folder


def test_dense_and_normalize(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    write_modules(tmp_path, "Transformer", "Pooling", "Dense", "Normalize")
    weight, bias = torch.randn(3, 4), torch.randn(3)
    config = {
        "in_features": 4,
        "out_features": 3,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    (tmp_path / "2_Dense" / "config.json").write_text(json.dumps(config))
    save_file({"linear.weight": weight, "linear.bias": bias}, tmp_path / "2_Dense" / "model.safetensors")
    source = read_modules(tmp_path)
    assert source is not None
    _, head = load_head(source)
    x = torch.randn(2, 4)
    with torch.no_grad():
        torch.testing.assert_close(head(x), torch.nn.functional.normalize(torch.tanh(x @ weight.T + bias)))
    (tmp_path / "2_Dense" / "config.json").write_text(json.dumps({**config, "activation_function": "own.code.Thing"}))
    with pytest.raises(InputError, match=r"not one of torch\.nn's"):
        load_head(source)


@pytest.mark.parametrize(
    ("names", "pooling", "says"),
    [
        (("Transformer",), None, "expected a Pooling module"),
        (("Transformer", "LSTM"), None, "expected a Pooling module"),
        (("Transformer", "Pooling"), {"pooling_mode": "weightedmean"}, "pooling mode 'weightedmean'"),
        (("Transformer", "Pooling", "LSTM"), None, "the module LSTM cannot be exported"),
    ],
)
def test_modules_that_cannot_be_exported(
    tmp_path: Path, names: tuple[str, ...], pooling: dict[str, object] | None, says: str
) -> None:
    source = read_modules(write_modules(tmp_path, *names, pooling=pooling))
    assert source is not None
    with pytest.raises(InputError, match=says):
        load_head(source)
