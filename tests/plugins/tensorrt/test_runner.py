"""An engine behind a session's two calls: profiles, errors, threads and memory, with a stand-in for TensorRT."""

from __future__ import annotations

import concurrent.futures
import gc
import pathlib
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from helpers.cuda_setup import emulated_driver
from helpers.engine_standin import TRT, Context, Engine
from raggedrt.errors import InputError, RaggedRTError, TargetError
from raggedrt.plugins.bundle.manifest import EngineRecord, ShapeProfile
from raggedrt.plugins.native import emulated
from raggedrt.plugins.runtime.cuda_device import DRIVER_VARIABLE, CudaDevice, CudaState
from raggedrt.plugins.tensorrt import runner as runner_module
from raggedrt.plugins.tensorrt.runner import EngineRunner
from raggedrt.plugins.tensorrt.runtime_cache import cache_path

pytestmark = pytest.mark.emulated
TEXT = '<ir_version: 10, opset_import: ["" : 20]> g (float[T,3] x) => (float[T,3] y) { y = Add (x, x) }'
BOUNDS = (((1, 3), (4, 3), (8, 3)), ((8, 3), (64, 3), (512, 3)))
DIGEST = "c" * 64


class Kernels:
    """Grows with every profile that is used for the first time."""

    def __init__(self) -> None:
        self.content = b""

    def serialize(self) -> bytes:
        return self.content

    def deserialize(self, content: bytes) -> bool:
        self.content = content
        return True


class Loaded(Engine):
    def __init__(self) -> None:
        super().__init__(onnx.parser.parse_model(TEXT), [{"x": bounds} for bounds in BOUNDS])
        self.kernels = Kernels()
        self.context = Context(self, emulated_driver())

    def create_runtime_config(self) -> Any:
        return types.SimpleNamespace(create_runtime_cache=lambda: self.kernels, set_runtime_cache=lambda cache: True)

    def create_execution_context(self, config: Any = None) -> Context:
        assert config is not None
        return self.context


class Logger:
    ERROR = 1


class Module(types.SimpleNamespace):
    """TensorRT's module; `refuses`: what it logs instead of loading an engine."""

    def __init__(self) -> None:
        super().__init__(**vars(TRT), ILogger=Logger, loaded=Loaded(), refuses="")

    def Runtime(self, log: Any) -> Any:  # noqa: N802 - TensorRT's name
        def load(content: bytes) -> Loaded | None:
            assert content == b"vtrt engine"
            if self.refuses:
                log.log(0, self.refuses)
                return None
            self.loaded.context.logger = log
            return self.loaded

        return types.SimpleNamespace(deserialize_cuda_engine=load)


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[Module]:
    emulated_driver()
    monkeypatch.setenv(DRIVER_VARIABLE, str(emulated.build_runtime()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "model.plan").write_bytes(b"vtrt engine")
    module = Module()
    gpus = (CudaDevice(0, "GPU", 89, 1, 1, 1),)
    monkeypatch.setattr(runner_module, "require_runnable", lambda engine, where: None)
    monkeypatch.setattr(runner_module, "cuda_state", lambda: CudaState((13, 0), gpus, None))
    monkeypatch.setattr(runner_module.importlib, "import_module", lambda name: module)
    held = emulated_driver().allocated()
    yield module
    assert emulated_driver().allocated() == held


def _record(bounds: Any = BOUNDS) -> EngineRecord:
    names = ("minimum", "optimum", "maximum")
    profiles = tuple(ShapeProfile(**{n: {"x": s} for n, s in zip(names, shapes, strict=True)}) for shapes in bounds)
    return EngineRecord(
        file="model.plan",
        target="tensorrt-rtx",
        builder="TensorRT for RTX",
        builder_version="1.7.1.116",
        compute_capabilities=(89,),
        profiles=profiles,
        graph_sha256="0" * 64,
    )


def _open(folder: pathlib.Path, record: EngineRecord | None = None) -> EngineRunner:
    return EngineRunner(record or _record(), folder / "model.plan", ["x"], ["y"], DIGEST)


def _call(runner: EngineRunner, tokens: int) -> None:
    x = np.random.default_rng(tokens).standard_normal((tokens, 3)).astype(np.float32)
    (y,) = runner.run(["y"], {"x": x})
    np.testing.assert_array_equal(y, x + x)


def test_the_first_profile_that_admits_the_shapes_serves(trt: Module, tmp_path: pathlib.Path) -> None:
    runner = _open(tmp_path)
    assert [tensor.name for tensor in (*runner.get_inputs(), *runner.get_outputs())] == ["x", "y"]
    for tokens in (3, 8, 9, 512, 1):
        _call(runner, tokens)
    assert [entry for entry in trt.loaded.context.log if entry != "run"] == ["profile 0", "profile 1", "profile 0"]
    with pytest.raises(InputError, match=r"not built for these shapes: x 513x3.*profile 0: x 1x3 to 8x3; profile 1"):
        _call(runner, 513)
    runner.close()


def test_kernels_are_kept_after_the_first_call_of_a_profile(trt: Module, tmp_path: pathlib.Path) -> None:
    runner = _open(tmp_path)
    path = cache_path(DIGEST, 89)
    for content, tokens in ((b"one", 3), (b"two", 100)):
        trt.loaded.kernels.content = content
        _call(runner, tokens)
        assert path.read_bytes() == content
    trt.loaded.kernels.content = b"three"
    _call(runner, 3)
    assert path.read_bytes() == b"two"
    runner.close()
    assert path.read_bytes() == b"three"


def test_what_tensorrt_logged_is_told(trt: Module, tmp_path: pathlib.Path) -> None:
    trt.refuses = "the engine is of another version"
    destroyed = emulated_driver().calls("cuStreamDestroy_v2")
    with pytest.raises(TargetError, match=r"cannot load it here \(it is refused; build it again: the engine is of ano"):
        _open(tmp_path)
    assert emulated_driver().calls("cuStreamDestroy_v2") == destroyed + 1
    trt.refuses = ""
    runner = _open(tmp_path)
    trt.loaded.context.fail = True
    with pytest.raises(RaggedRTError, match=r"model\.plan: the engine failed \(TensorRT refuses execution\)"):
        _call(runner, 3)
    trt.loaded.context.fail = False
    _call(runner, 3)
    runner.close()


def test_an_engine_that_is_not_the_recorded_one_is_refused_and_gives_memory_back(
    trt: Module, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(InputError, match=r"not the engine that its manifest describes: .*2 profiles"):
        _open(tmp_path, _record(BOUNDS[:1]))


def test_calls_of_many_threads_wait_for_one_another(trt: Module, tmp_path: pathlib.Path) -> None:
    runner = _open(tmp_path)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: _call(runner, 1 + number * 7 % 500), range(64)))
    runner.close()


def test_memory_goes_with_the_last_reference(trt: Module, tmp_path: pathlib.Path) -> None:
    gc.collect()  # of runners that failed tests, or their tracebacks, still hold
    before = emulated_driver().allocated()
    runner = _open(tmp_path)
    _call(runner, 300)
    assert emulated_driver().allocated() > before
    del runner
    assert emulated_driver().allocated() == before


def test_without_a_gpu_nothing_is_loaded(trt: Module, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "cuda_state", lambda: CudaState((13, 0), (), "none"))
    with pytest.raises(TargetError, match="the driver finds none"):
        _open(tmp_path)
