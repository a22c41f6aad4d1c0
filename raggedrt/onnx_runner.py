"""An ONNX file as a function from padded arrays to outputs."""

from __future__ import annotations

import pathlib

from raggedrt.export.numerics import Arrays, Runner
from raggedrt.plugins.runtime.ort import ort_session
from raggedrt.plugins.runtime.ort_errors import RUN_ERRORS, translated


def onnx_file_runner(path: pathlib.Path, threads: int | None = None) -> Runner:
    """Run the ONNX file at `path` on ONNX Runtime's CPU provider; it takes what it needs and ignores the rest.

    Raises:
        InputError: ONNX Runtime refuses the file.
        TargetError: ONNX Runtime is not installed.
    """
    session = ort_session(path, threads=threads)
    inputs = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]

    def run(feeds: Arrays) -> Arrays:
        with translated(f"{path} failed", RUN_ERRORS, ""):
            values = session.run(outputs, {name: feeds[name] for name in inputs})
        return dict(zip(outputs, values, strict=True))

    return run
