"""An ONNX file as a function from padded arrays to outputs."""

from __future__ import annotations

import pathlib
import typing

from raggedrt.export.numerics import Arrays, Runner
from raggedrt.export.widen import wide_feeds, wide_file
from raggedrt.plugins.runtime.ort import Providers, ort_session
from raggedrt.plugins.runtime.ort_errors import RUN_ERRORS, translated

if typing.TYPE_CHECKING:
    import onnxruntime


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
    return FileRunner(path, threads, providers)


class FileRunner:
    """A session over a file; `release` gives its memory back until the next call."""

    def __init__(self, path: pathlib.Path, threads: int | None, providers: Providers | None) -> None:
        self._path, self._threads, self._providers = path, threads, providers
        self._wide = False
        self._session: onnxruntime.InferenceSession | None = self._open()
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    def __call__(self, feeds: Arrays) -> Arrays:
        """Run it; inputs that it does not have are ignored."""
        session = self._session = self._session or self._open()
        with translated(f"{self._path} failed", RUN_ERRORS, ""):
            given = {name: feeds[name] for name in self._inputs}
            values = session.run(self._outputs, wide_feeds(given) if self._wide else given)
        return dict(zip(self._outputs, values, strict=True))

    def release(self) -> None:
        """Drop the session, which holds a copy of the weights, where it can be opened again."""
        if not self._wide:  # that file is gone
            self._session = None

    def _open(self) -> onnxruntime.InferenceSession:
        if self._providers is not None:
            return ort_session(self._path, threads=self._threads, providers=self._providers)
        with wide_file(self._path) as (runnable, self._wide):
            return ort_session(runnable, threads=self._threads)
