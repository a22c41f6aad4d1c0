"""Engines of TensorRT for RTX on the machine's GPU against their graph on the CPU."""

from __future__ import annotations

import concurrent.futures
import pathlib
from typing import Any

import numpy as np
import pytest

import raggedrt
from raggedrt.errors import InputError
from raggedrt.plugins.bundle.manifest import EngineRecord
from raggedrt.plugins.bundle.reader import Bundle
from raggedrt.plugins.tensorrt.flavour import FLAVOURS, gpu_capabilities, installed_version
from raggedrt.plugins.tensorrt.runtime_cache import FOLDER_NAME

pytestmark = pytest.mark.cuda
RTX = FLAVOURS["tensorrt-rtx"]
TOLERANCES = {"fp32": 2e-3, "fp16": 2e-2, "bf16": 8e-2}
"""Greatest difference of outputs of order 1; float32 products may be rounded to TF32."""
BATCHES = ((1,), (5, 1, 7), (64,) * 8, (1,) * 8, (3, 64, 2), (33, 40, 31, 9, 1, 64))


@pytest.fixture(scope="module")
def capability() -> int:
    if installed_version(RTX) is None:
        pytest.skip("TensorRT for RTX or Polygraphy is not installed")
    fitting = [found for found in gpu_capabilities() if found in RTX.capabilities]
    if not fitting:
        pytest.skip(f"TensorRT for RTX does not serve the GPU here ({gpu_capabilities()})")
    return fitting[0]


@pytest.fixture(scope="module", params=list(TOLERANCES))
def bundle(request: pytest.FixtureRequest, capability: int, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from raggedrt.models.factories import save_tiny_directory

    folder = tmp_path_factory.mktemp("device")
    return raggedrt.convert(
        save_tiny_directory(folder / "bert", "bert", task="feature-extraction"),
        folder / "bundle",
        target="tensorrt-rtx",
        dtype=request.param,
        lengths="uniform(1,64)",
        batch_sizes="1,8",
        buckets=3,
        compute_capability=str(capability),
    )


@pytest.fixture(scope="module")
def session(bundle: Bundle) -> raggedrt.Session:
    return raggedrt.Session(bundle, trust_bundle=True)


def _rows(lengths: tuple[int, ...], seed: int = 0) -> list[Any]:
    rng = np.random.default_rng([seed, *lengths])
    return [rng.integers(5, 90, length) for length in lengths]


def _assert_same(got: dict[str, Any], want: dict[str, Any], dtype: str) -> None:
    assert got.keys() == want.keys()
    for name in want:
        for row, right in zip(got[name], want[name], strict=True):
            np.testing.assert_allclose(
                np.asarray(row, np.float32), np.asarray(right, np.float32), 0, TOLERANCES[dtype], err_msg=name
            )


@pytest.mark.parametrize("lengths", BATCHES, ids=str)
def test_values_are_those_of_the_graph_on_the_cpu(
    lengths: tuple[int, ...], bundle: Bundle, session: raggedrt.Session
) -> None:
    """Over every profile, back and forth; bfloat16 has no kernels on the CPU, so there sequences are taken alone."""
    dtype = bundle.manifest.dtype
    rows = _rows(lengths)
    got = session.run({"input_ids": rows})
    if dtype == "bf16":
        alone = [session.run({"input_ids": [row]}) for row in rows]
        want = {name: [one[name][0] for one in alone] for name in got}
    else:
        want = raggedrt.Session(bundle, providers=["CPUExecutionProvider"]).run({"input_ids": rows})
    _assert_same(got, want, dtype)


def test_empty_rows_and_padded_arrays(bundle: Bundle, session: raggedrt.Session) -> None:
    rows = [*_rows((5,)), np.zeros(0, np.int64), *_rows((9,))]
    lists = session.run({"input_ids": rows})
    ids, mask = np.zeros((3, 9), np.int64), np.zeros((3, 9), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)], mask[place, : len(row)] = row, 1
    padded = session.run({"input_ids": ids, "attention_mask": mask})
    for place, row in enumerate(rows):
        found = padded["last_hidden_state"][place, : len(row)]
        np.testing.assert_array_equal(np.asarray(found), np.asarray(lists["last_hidden_state"][place]))


def test_calls_from_many_threads(bundle: Bundle, session: raggedrt.Session) -> None:
    calls = [_rows(BATCHES[number % len(BATCHES)], number) for number in range(40)]
    alone = [session.run({"input_ids": rows}) for rows in calls]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda rows: session.run({"input_ids": rows}), calls))
    for got, want in zip(together, alone, strict=True):
        _assert_same(got, want, bundle.manifest.dtype)


def test_shapes_outside_every_profile_are_told(session: raggedrt.Session) -> None:
    with pytest.raises(InputError, match=r"profile 0: .*profile 2: "):
        session.run({"input_ids": _rows((1,) * 9)})


def test_a_second_start_finds_compiled_kernels(
    bundle: Bundle, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    results = []
    for _ in range(2):
        opened = raggedrt.Session(bundle, trust_bundle=True)
        results.append(opened.run({"input_ids": _rows((5, 9))}))
        opened.ort.close()
        (kept,) = (tmp_path / "raggedrt" / FOLDER_NAME).iterdir()
        assert kept.stat().st_size > 0
    _assert_same(results[1], results[0], bundle.manifest.dtype)


def test_the_engine_agrees_with_its_record(bundle: Bundle, session: raggedrt.Session) -> None:
    """Opening compared names, types and profiles; another record is refused."""
    from raggedrt.plugins.tensorrt.runner import EngineRunner

    record: EngineRecord = bundle.manifest.engines[0]
    names = [[r.name for r in records] for records in (bundle.manifest.inputs, bundle.manifest.outputs)]
    fewer = record.model_copy(update={"profiles": record.profiles[:1]})
    with pytest.raises(InputError, match="has 3 profiles, and the manifest lists 1"):
        EngineRunner(fewer, bundle.path / record.file, names[0], names[1])
    assert session.run({"input_ids": _rows((3,))})
