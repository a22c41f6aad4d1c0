"""Calls of an engine: memory, profiles and outputs, on the emulated driver with ONNX Runtime in the engine's place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from helpers.cuda_setup import emulated_driver
from helpers.engine_standin import TRT, Context, Engine
from raggedrt.errors import InputError, RaggedRTError
from raggedrt.plugins.bundle.manifest import ShapeProfile
from raggedrt.plugins.native import emulated
from raggedrt.plugins.runtime.cuda_device import DRIVER_VARIABLE
from raggedrt.plugins.tensorrt.device import Device
from raggedrt.plugins.tensorrt.engine_context import EngineContext, check_engine, element_type

pytestmark = pytest.mark.emulated
OUT_OF_MEMORY = 2
PROFILES = (
    {"x": ((1, 3), (8, 3), (16, 3)), "n": ((1,), (4,), (8,))},
    {"x": ((16, 3), (100, 3), (4096, 3)), "n": ((1,), (4,), (8,))},
)
TEXT = """<ir_version: 10, opset_import: ["" : 20]>
g (float[T,3] x, int64[M] n) => (float[T,3] twice, int64[M] after, float16[T,3] half) {
  twice = Add (x, x)
  after = Add (n, n)
  half = Cast <to = 10> (x)
}"""
NAMES = ("twice", "half", "after")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    emulated_driver()
    monkeypatch.setenv(DRIVER_VARIABLE, str(emulated.build_runtime()))
    held = emulated_driver().allocated()
    made = Device(0)
    yield made
    made.close()
    assert emulated_driver().allocated() == held


def _opened(device: Device, **options: Any) -> tuple[EngineContext, Context]:
    engine = Engine(onnx.parser.parse_model(TEXT), PROFILES, **options)
    context = Context(engine, emulated_driver())
    return EngineContext(TRT, engine, device, context), context


def _feeds(tokens: int, longest: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(tokens)
    return {"x": rng.standard_normal((tokens, 3)).astype(np.float32), "n": np.arange(longest)}


def _check(outputs: list[Any], feeds: dict[str, Any]) -> None:
    np.testing.assert_array_equal(outputs[0], 2 * feeds["x"])
    np.testing.assert_array_equal(outputs[1], feeds["x"].astype(np.float16))
    np.testing.assert_array_equal(outputs[2], 2 * feeds["n"])


@pytest.mark.parametrize("options", [{}, {"on_host": ("n", "after")}, {"unknown": ("twice", "half")}], ids=str)
@pytest.mark.parametrize("seed", [0, 5])
def test_values_over_growing_and_shrinking_calls(options: dict[str, Any], seed: int, device: Device) -> None:
    """Also with copies that are done as late as a stream allows."""
    emulated_driver().seed(seed)
    context, _ = _opened(device, **options)
    try:
        for tokens, profile in ((2, 0), (16, 0), (16, 1), (4000, 1), (1, 0), (17, 1), (3, 0)):
            feeds = _feeds(tokens, 1 + tokens % 8)
            _check(context.run(profile, feeds, NAMES), feeds)
    finally:
        emulated_driver().seed(0)
        context.close()


def test_outputs_are_arrays_of_their_own(device: Device) -> None:
    context, _ = _opened(device)
    first = context.run(0, _feeds(4), NAMES)
    kept = first[0].copy()
    context.run(0, _feeds(5), NAMES)
    np.testing.assert_array_equal(first[0], kept)
    context.close()


def test_the_profile_is_set_when_it_changes_and_memory_is_used_again(device: Device) -> None:
    context, engine = _opened(device)
    for profile, tokens in ((1, 100), (1, 90), (0, 9), (0, 8), (1, 100)):
        context.run(profile, _feeds(tokens), NAMES)
        held = emulated_driver().allocated()
    assert [entry for entry in engine.log if entry != "run"] == ["profile 1", "profile 0", "profile 1"]
    context.run(1, _feeds(99), NAMES)
    assert emulated_driver().allocated() == held
    context.close()


def test_transposed_and_narrower_arrays_are_taken(device: Device) -> None:
    context, _ = _opened(device)
    feeds = {"x": np.arange(12, dtype=np.float64).reshape(3, 4).T, "n": np.arange(3, dtype=np.int32)}
    _check(context.run(0, feeds, NAMES), {"x": feeds["x"].astype(np.float32), "n": feeds["n"].astype(np.int64)})
    context.close()


def test_a_failed_call_leaves_a_context_that_works(device: Device) -> None:
    context, engine = _opened(device)
    context.run(0, _feeds(4), NAMES)
    engine.fail = True
    with pytest.raises(RaggedRTError, match="refuses execution"):
        context.run(0, _feeds(4), NAMES)
    engine.fail = False
    feeds = _feeds(7)
    _check(context.run(0, feeds, NAMES), feeds)
    with pytest.raises(RaggedRTError, match=r"refuses shape \(17, 3\) of 'x'"):
        context.run(0, _feeds(17), NAMES)
    with pytest.raises(RaggedRTError, match="needs the input 'n'"):
        context.run(0, {"x": feeds["x"]}, NAMES)
    _check(context.run(0, feeds, NAMES), feeds)
    context.close()


@pytest.mark.parametrize("skipped", [0, 1, 2])
def test_want_of_device_memory_is_told_and_survived(skipped: int, device: Device) -> None:
    context, _ = _opened(device)
    context.run(0, _feeds(4), NAMES)
    emulated_driver().fail("cuMemAlloc_v2", OUT_OF_MEMORY, skipped=skipped)
    with pytest.raises(RaggedRTError, match="no memory left for this batch"):
        context.run(1, _feeds(4000), NAMES)
    emulated_driver().fail(None)
    feeds = _feeds(5)
    _check(context.run(0, feeds, NAMES), feeds)
    context.close()


def test_the_current_gpu_of_the_thread_stays_what_it_was(device: Device) -> None:
    context, _ = _opened(device)
    emulated_driver().make_current(0)
    context.run(0, _feeds(4), NAMES)
    emulated_driver().free(emulated_driver().allocate(4))  # needs a current context
    context.close()


def test_an_engine_that_is_another_is_noticed(device: Device) -> None:
    context, real = _opened(device)
    profiles = [
        ShapeProfile(
            **{
                bound: {name: shapes[place] for name, shapes in profile.items()}
                for place, bound in enumerate(("minimum", "optimum", "maximum"))
            }
        )
        for profile in PROFILES
    ]
    check = [real.engine, context, ("n", "x"), NAMES, profiles]
    assert check_engine(*check) is None
    assert "has the inputs n, x" in str(check_engine(*check[:2], ("x",), *check[3:]))
    assert "has the outputs" in str(check_engine(*check[:3], ("twice",), profiles))
    assert "has 2 profiles" in str(check_engine(*check[:4], profiles[:1]))
    assert "profile 1 admits" in str(check_engine(*check[:4], [profiles[0], profiles[0]]))
    context.close()


def test_element_types_have_names_of_arrays() -> None:
    assert element_type("BF16", "x").name == "bfloat16"
    with pytest.raises(InputError, match="'x' has the element type FP8"):
        element_type("FP8", "x")
