"""Runs an engine on its GPU, behind the two calls that a session makes of ONNX Runtime."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raggedrt.errors import RaggedRTError, TargetError
from raggedrt.plugins.bundle.manifest import EngineRecord
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.tensorrt.engine_file import require_runnable
from raggedrt.plugins.tensorrt.flavour import FLAVOURS, Flavour
from raggedrt.plugins.tensorrt.profiles import require_profile

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of the engine, as ONNX Runtime's sessions describe theirs."""

    name: str


class EngineRunner:
    """An engine with its execution context; one call at a time.

    Args:
        engine: what the manifest says of it.
        path: the engine's file, which is code: the caller has to trust it.
        inputs, outputs: names.

    Raises:
        TargetError: this machine cannot run it.
    """

    def __init__(self, engine: EngineRecord, path: pathlib.Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        where = str(path)
        require_runnable(engine, where)
        _choose_product(FLAVOURS[engine.target])
        from polygraphy.backend.trt import EngineFromBytes, TrtRunner

        self._where = where
        self._engine = engine
        self._inputs, self._outputs = (tuple(Tensor(name) for name in names) for names in (inputs, outputs))
        self._lock = threading.Lock()
        self._profile = 0
        self._runner = TrtRunner(EngineFromBytes(path.read_bytes()))
        try:
            self._runner.activate()
        except Exception as error:
            raise TargetError(f"{where}: {engine.builder} cannot load it here ({error}); build it again") from error

    def get_inputs(self) -> tuple[Tensor, ...]:
        """What the engine takes."""
        return self._inputs

    def get_outputs(self) -> tuple[Tensor, ...]:
        """What the engine gives."""
        return self._outputs

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Run once, with the first profile that admits these shapes.

        Raises:
            InputError: no profile does; the message lists them.
            RaggedRTError: the engine failed.
        """
        shapes = {name: array.shape for name, array in feeds.items()}
        profile = require_profile(self._engine.profiles, shapes, self._where)
        arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        with self._lock:
            try:
                if profile != self._profile:
                    self._runner.set_profile(profile)
                    self._profile = profile
                outputs = self._runner.infer(arrays)
            except Exception as error:
                raise RaggedRTError(f"{self._where}: the engine failed ({error})") from error
            return [np.array(outputs[name]) for name in names]  # the runner reuses its buffers


def open_engine(bundle: Bundle, *, trusted: bool) -> EngineRunner:
    """The engine of a bundle, ready to run.

    Raises:
        TargetError: this machine cannot run it, or nobody vouches for it.
    """
    engine = bundle.manifest.engines[0]
    require_runnable(engine, str(bundle.path / engine.file))
    if not trusted:
        raise TargetError(
            f"{bundle.path / engine.file} is code for the GPU, which is loaded only from a bundle that you trust; pass "
            "--trust-bundle (trust_bundle=True)"
        )
    names = [[record.name for record in records] for records in (bundle.manifest.inputs, bundle.manifest.outputs)]
    return EngineRunner(engine, bundle.path / engine.file, names[0], names[1])


def _choose_product(flavour: Flavour) -> None:
    """Polygraphy reads once, when it is imported, which product to use."""
    if any(os.environ.get(name) != value for name, value in flavour.environment.items()):
        if "polygraphy" in sys.modules:
            wanted = " ".join(f"{name}={value}" for name, value in flavour.environment.items())
            raise TargetError(
                f"Polygraphy was imported for another TensorRT; set {wanted} before this process starts to run engines "
                f"of {flavour.product}"
            )
        os.environ.update(flavour.environment)
