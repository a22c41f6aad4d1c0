"""Exit codes and messages of the command line that need no model."""

from __future__ import annotations

import pytest

from raggedrt.cli import main

pytestmark = pytest.mark.none

VERBS = ("convert", "export", "rewrite", "inspect", "build", "run", "compare", "bench", "ship", "doctor", "list")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"raggedrt {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["tune", "frobnicate"])
def test_verbs_that_do_not_exist_are_a_usage_error(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb]) == 2
    assert verb in capsys.readouterr().err
    main(["--help"])
    assert verb not in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert"],
        ["convert", "x"],
        ["convert", "x", "-o", "y", "--no-such-option"],
        ["bench", "x", "--rounds", "0"],
        ["list", "nothing"],
        ["convert", "x", "-o", "y", "--target", "quantum"],
        ["convert", "x", "-o", "y", "--features", "pack,magic"],
        ["convert", "x", "-o", "y", "--io", "loose"],
        ["convert", "x", "-o", "y", "--opt-shapes", "input_ids=8"],
    ],
)
def test_wrong_usage_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_unknown_target_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewrite", "in.onnx", "-o", "out.onnx", "--target", "quantum"]) == 2
    error = capsys.readouterr().err
    assert all(name in error for name in ("ort-cpu", "ort-cuda", "ort-trt", "tensorrt", "tensorrt-rtx"))


def test_errors_are_one_paragraph_and_a_traceback_comes_with_v_only(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["rewrite", "no-such.onnx", "-o", "out.onnx"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "no-such.onnx" in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert main([*arguments, "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_version_names_toolchain_abi_and_library(capsys: pytest.CaptureFixture[str]) -> None:
    import raggedrt

    assert main(["--version"]) == 0
    text = capsys.readouterr().out
    assert raggedrt.__version__ in text
    assert "op ABI" in text
    assert "library" in text


@pytest.mark.parametrize(
    ("what", "expected"),
    [("ops", "RaggedAttention"), ("targets", "ort-cpu"), ("models", "BERT"), ("patterns", "MatMul")],
)
def test_list_prints_the_registry(what: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    assert expected in capsys.readouterr().out
