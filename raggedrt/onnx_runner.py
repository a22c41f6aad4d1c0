"""An ONNX file as a function from padded arrays to outputs."""

from __future__ import annotations

import pathlib

from raggedrt.export.numerics import Arrays, Runner
from raggedrt.export.widen import wide_feeds, wide_file
from raggedrt.plugins.runtime.ort import Providers, ort_session
from raggedrt.plugins.runtime.ort_errors import RUN_ERRORS, translated


def onnx_file_runner(path: pathlib.Path, threads: int | None = None, providers: Providers | None = None) -> Runner:
    """Run the ONNX file at `path`; it takes what it needs and ignores the rest.

    Args:
        path: the file.
        threads: threads of one operator, default all cores.
        providers: execution providers; None: the CPU's, which runs a bfloat16 model in float32.

    Raises:
        InputError: ONNX Runtime refuses the file.
        TargetError: ONNX Runtime or a provider is not installed.
    """
    if providers is None:
        with wide_file(path) as (runnable, wide):
            session = ort_session(runnable, threads=threads)
    else:
        session, wide = ort_session(path, threads=threads, providers=providers), False
    inputs = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]

    def run(feeds: Arrays) -> Arrays:
        with translated(f"{path} failed", RUN_ERRORS, ""):
            given = {name: feeds[name] for name in inputs}
            values = session.run(outputs, wide_feeds(given) if wide else given)
        return dict(zip(outputs, values, strict=True))

    return run
