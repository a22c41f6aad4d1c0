"""A tiny BERT in every form the front door takes, made once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

import raggedrt
from raggedrt.cli import main


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory with tokenizer: two layers, 4 heads, 100 token ids, 80 positions."""
    from raggedrt.models.factories import save_tiny_directory

    return save_tiny_directory(tmp_path_factory.mktemp("source") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The padded bundle, converted by the command line."""
    output = tmp_path_factory.mktemp("bundles") / "padded"
    assert main(["convert", str(tiny_source), "-o", str(output), "-q"]) == 0
    return output


@pytest.fixture(scope="session")
def tiny_onnx(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain export."""
    output = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    assert raggedrt.export(tiny_source, output).passed
    return output


@pytest.fixture(scope="session")
def ragged_bundle(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with packed inputs and outputs, converted from the ONNX file."""
    output = tmp_path_factory.mktemp("bundles") / "ragged"
    raggedrt.convert(tiny_onnx, output, io="ragged")
    return output
