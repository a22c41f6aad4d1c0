"""A process that serves a bundle starts quickly: it imports what serving needs, and no more."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from helpers.toy_bundles import toy_bundle

pytestmark = pytest.mark.ort_cpu
NOT_FOR_SERVING = (
    "torch",
    "transformers",
    "onnxscript",
    "onnx_ir",
    "sympy",
    "typer",
    "yaml",
    "polygraphy",
    "tensorrt_rtx",
)
PROGRAM = """
import json, sys, time
import numpy, raggedrt
session = raggedrt.Session(sys.argv[1], native=False)
session.run({"input_ids": [numpy.array([3, 4, 5])]})
print(json.dumps({"seconds": time.process_time(), "modules": sorted(sys.modules)}))
"""
MOST_SECONDS = 2.0


def test_from_a_cold_start_to_the_first_inference(tmp_path: pathlib.Path) -> None:
    bundle = toy_bundle(tmp_path / "toy")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(bundle.path)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    facts = json.loads(done.stdout)
    assert not {module.partition(".")[0] for module in facts["modules"]} & set(NOT_FOR_SERVING)
    assert facts["seconds"] < MOST_SECONDS  # of processor time: other work on the machine does not count
