"""`run`: outputs to an .npz file; every kind of bad input is exit 2 with its reason."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raggedrt
from raggedrt.cli import main

pytestmark = pytest.mark.ort_cpu

IDS = np.array([[5, 6, 7, 8], [9, 10, 0, 0]])
MASK = (IDS > 0).astype(np.int64)


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return save(tmp_path / "in.npz", input_ids=IDS, attention_mask=MASK)


def test_outputs_are_written_by_name(tiny_bundle: Path, good: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.npz"
    assert main(["run", str(tiny_bundle), "--inputs", str(good), "-o", str(output), "-q"]) == 0
    with np.load(output, allow_pickle=False) as arrays:
        assert arrays["last_hidden_state"].shape == (2, 4, 32)
        assert not arrays["last_hidden_state"][1, 2:].any()
        assert arrays["pooler_output"].shape == (2, 32)
    assert main(["run", str(tiny_bundle), "--inputs", str(good), "-o", str(output), "-q"]) == 2
    assert main(["run", str(tiny_bundle), "--inputs", str(good), "-o", str(good), "--force", "-q"]) == 2


def test_text_is_tokenised_by_the_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    text, output = tmp_path / "texts.txt", tmp_path / "out.npz"
    text.write_text("abc\n\na longer text, with 12 digits\n" + "x " * 500 + "\n")
    assert main(["run", str(tiny_bundle), "--text", str(text), "-o", str(output), "-q"]) == 0
    with np.load(output) as arrays:
        assert arrays["last_hidden_state"].shape == (3, 80, 32)  # cut at the position limit
        assert arrays["attention_mask"].sum(axis=1).tolist() == [5, 26, 80]


def test_ragged_bundles_give_the_same_values(
    tiny_bundle: Path, ragged_bundle: Path, good: Path, tmp_path: Path
) -> None:
    feeds = {
        "input_ids": IDS[MASK > 0],
        "token_type_ids": np.zeros(6, np.int64),
        "cu_seqlens": np.array([0, 4, 6], np.int32),
        "max_seqlen": np.zeros(4, np.float32),
    }
    packed = raggedrt.run(ragged_bundle, inputs=save(tmp_path / "packed.npz", **feeds))
    padded = raggedrt.run(tiny_bundle, inputs=good)
    difference = np.abs(packed["last_hidden_state"] - padded["last_hidden_state"][MASK > 0]).max()
    assert packed["last_hidden_state"].shape == (6, 32)
    assert difference < 1e-5


def test_a_row_without_valid_tokens_gives_zeros(tiny_bundle: Path) -> None:
    mask = MASK.copy()
    mask[1] = 0
    outputs = raggedrt.run(tiny_bundle, inputs={"input_ids": IDS, "attention_mask": mask})
    assert not outputs["last_hidden_state"][1].any()
    assert not outputs["pooler_output"][1].any()
    assert np.isfinite(outputs["last_hidden_state"]).all()


def test_a_batch_of_zero_gives_empty_outputs(tiny_bundle: Path) -> None:
    empty = np.zeros((0, 4), np.int64)
    outputs = raggedrt.run(tiny_bundle, inputs={"input_ids": empty, "attention_mask": empty})
    assert outputs["last_hidden_state"].shape == (0, 4, 32)
    assert outputs["pooler_output"].shape == (0, 32)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"ids": IDS, "attention_mask": MASK}, "'ids'"),
        ({"attention_mask": MASK}, "'input_ids' is missing"),
        ({"input_ids": IDS.astype(np.float32), "attention_mask": MASK}, "float32"),
        ({"input_ids": IDS[0], "attention_mask": MASK}, "shape [4]"),
        ({"input_ids": IDS, "attention_mask": MASK[:1]}, "attention_mask"),
        ({"input_ids": np.ones((1, 81), np.int64), "attention_mask": np.ones((1, 81), np.int64)}, "80 positions"),
        ({"input_ids": np.array([[5, None]], object), "attention_mask": MASK}, "Object arrays"),
    ],
)
def test_bad_inputs_are_exit_2(
    arrays: dict[str, Any], expected: str, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = save(tmp_path / "in.npz", **arrays)
    assert main(["run", str(tiny_bundle), "--inputs", str(inputs), "-o", str(tmp_path / "out.npz"), "-q"]) == 2
    assert expected in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.npz"]


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04broken"])
def test_what_is_no_npz_file_is_exit_2(content: bytes, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in.npz").write_bytes(content)
    assert main(["run", str(tiny_bundle), "--inputs", str(tmp_path / "in.npz"), "-o", str(tmp_path / "o"), "-q"]) == 2


def test_one_array_without_names_is_exit_2(tiny_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", IDS)
    assert main(["run", str(tiny_bundle), "--inputs", str(tmp_path / "in.npy"), "-o", str(tmp_path / "o"), "-q"]) == 2


@pytest.mark.parametrize("given", [[], ["--inputs", "a.npz", "--text", "b.txt"], ["--text", "no-such.txt"]])
def test_what_to_run_is_given_once(given: list[str], tiny_bundle: Path, tmp_path: Path) -> None:
    assert main(["run", str(tiny_bundle), *given, "-o", str(tmp_path / "out.npz"), "-q"]) == 2


def test_texts_need_a_tokenizer(ragged_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.txt").write_text("text\n")
    assert main(["run", str(ragged_bundle), "--text", str(tmp_path / "t.txt"), "-o", str(tmp_path / "o"), "-q"]) == 2
    assert "--inputs" in capsys.readouterr().err


def test_a_changed_bundle_is_exit_2(tiny_bundle: Path, good: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    data = bytearray((bundle / "model.onnx.data").read_bytes())
    data[1000] ^= 1
    (bundle / "model.onnx.data").write_bytes(data)
    assert main(["run", str(bundle), "--inputs", str(good), "-o", str(tmp_path / "out.npz"), "-q"]) == 2
    assert not (tmp_path / "out.npz").exists()
