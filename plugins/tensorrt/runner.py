"""Runs an engine on its GPU, behind the two calls that a session makes of ONNX Runtime."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import pathlib
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from raggedrt.errors import InputError, RaggedRTError, TargetError
from raggedrt.plugins.bundle.manifest import LIBRARY_FOLDER, EngineRecord
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.runtime.cuda_device import cuda_state
from raggedrt.plugins.tensorrt.device import Array, Device, choose_device
from raggedrt.plugins.tensorrt.engine_context import EngineContext, check_engine
from raggedrt.plugins.tensorrt.engine_file import require_runnable, runs_on
from raggedrt.plugins.tensorrt.engine_plugins import load_engine_plugins
from raggedrt.plugins.tensorrt.flavour import FLAVOURS
from raggedrt.plugins.tensorrt.profiles import require_profile
from raggedrt.plugins.tensorrt.runtime_cache import RuntimeCache, cache_path, with_runtime_cache


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of the engine, as ONNX Runtime's sessions describe theirs."""

    name: str


class EngineRunner:
    """An engine with its execution context. Thread-safe: calls wait for one another.

    Args:
        engine: what the manifest says of it.
        path: the engine's file, which is code: the caller has to trust it.
        inputs, outputs: names.
        digest: SHA-256 of the file, under which compiled kernels are kept; None: they are not.
        libraries: folders with the plugins and kernel packs that come with the engine, and are code like it.

    Raises:
        InputError: the engine is not what the manifest says.
        TargetError: this machine cannot run it, or plugins that it calls are missing.
    """

    def __init__(
        self,
        engine: EngineRecord,
        path: pathlib.Path,
        inputs: Sequence[str],
        outputs: Sequence[str],
        digest: str | None = None,
        libraries: Sequence[pathlib.Path] = (),
    ) -> None:
        where = str(path)
        require_runnable(engine, where)
        devices = cuda_state().devices
        serving = [device.capability for device in devices if runs_on(engine, device.capability)]
        found = choose_device(devices, serving or engine.compute_capabilities)
        if found is None:
            raise TargetError(f"{where} needs an NVIDIA GPU, and the driver finds none (raggedrt doctor says why)")
        kernels = None if digest is None else cache_path(digest, found.capability)
        trt: Any = importlib.import_module(FLAVOURS[engine.target].module)
        self._where, self._engine = where, engine
        self._inputs, self._outputs = (tuple(Tensor(name) for name in names) for names in (inputs, outputs))
        self._lock = threading.Lock()
        self._served: set[int] = set()
        self._log = make_logger(trt)
        if FLAVOURS[engine.target].plugins:
            trt.init_libnvinfer_plugins(self._log, "")
        load_engine_plugins(engine, libraries, found.capability, where)
        device = Device(found.ordinal)
        loading = self._explained(f"{engine.builder} cannot load it here", TargetError)
        with contextlib.ExitStack() as undo, loading, device.current():
            undo.callback(device.close)
            runtime = trt.Runtime(self._log)
            if engine.version_compatible:
                runtime.engine_host_code_allowed = True  # it brings its runtime along
            loaded = runtime.deserialize_cuda_engine(path.read_bytes())
            if loaded is None:
                raise RaggedRTError("it is refused; build it again")
            context, self._cache = with_runtime_cache(loaded, kernels)
            if context is None:
                raise RaggedRTError("there is no execution context; the GPU may lack memory")
            self._context = EngineContext(trt, loaded, device, context)
            undo.pop_all()
        self._close = weakref.finalize(self, _close, self._context, self._cache, device, runtime)
        problem = check_engine(loaded, self._context, inputs, outputs, engine.profiles)
        if problem is not None:
            self.close()
            raise InputError(f"{where} is not the engine that its manifest describes: {problem}; build it again")

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
        profile = require_profile(self._engine.profiles, {n: a.shape for n, a in feeds.items()}, self._where)
        with self._lock, self._explained("the engine failed", RaggedRTError):
            outputs = self._context.run(profile, feeds, names)
            if self._cache is not None and profile not in self._served:
                self._cache.save()  # a first call compiles; a process may end without closing anything
            self._served.add(profile)
        return outputs

    def close(self) -> None:
        """Give the GPU's memory back; also done when nobody holds the runner any more."""
        self._close()

    @contextlib.contextmanager
    def _explained(self, what: str, kind: type[RaggedRTError]) -> Any:
        """Errors of the block as one of `kind`, with what TensorRT logged."""
        self._log.errors.clear()
        try:
            yield
        except Exception as error:
            said = "; ".join(dict.fromkeys(text.strip() for text in self._log.errors[:3]))
            raise kind(f"{self._where}: {what} ({error}{': ' if said else ''}{said})") from error


def open_engine(bundle: Bundle, *, trusted: bool) -> EngineRunner:
    """The engine of a bundle, ready to run.

    Raises:
        InputError: the engine is not what the manifest says.
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
    digest = bundle.manifest.files[engine.file].sha256
    libraries = [bundle.path / LIBRARY_FOLDER] if bundle.libraries else []
    return EngineRunner(engine, bundle.path / engine.file, names[0], names[1], digest, libraries)


def make_logger(trt: Any) -> Any:
    """A logger that keeps errors and says nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(text)

    return Log()


def _close(context: EngineContext, cache: RuntimeCache | None, device: Device, _runtime: Any) -> None:
    """The runtime is only held: an engine may not outlive it."""
    with contextlib.suppress(Exception):  # at the end of a process the driver may be gone
        if cache is not None:
            cache.save()
        context.close()
        device.close()
