"""Sessions on a GPU: tensors of the device, streams, CUDA graphs, and nothing read or written too early."""

from __future__ import annotations

import concurrent.futures
import pathlib
from typing import Any

import numpy as np
import pytest

from helpers.tolerances import Tolerance, assert_close
from helpers.toy_bundles import PAD_ID, POSITION_LIMIT, VOCABULARY, reference, toy_bundle
from raggedrt.errors import InputError
from raggedrt.plugins.runtime.session import Session

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("op_library")]

CLOSE = Tolerance(1e-4, 1e-4)
GRAPHS = [{"enable_cuda_graph": "1"}, {}]
A_WHILE = 20_000_000
"""Clock cycles that a stream is kept busy: some ten milliseconds, longer than a session takes to enqueue its work."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    folder = tmp_path_factory.mktemp("cuda")
    return {io: toy_bundle(folder / io, io, target="ort-cuda").path for io in ("padded", "ragged")}


def batch_of(seed: int, rows: int = 5) -> tuple[dict[str, Any], Any]:
    """Padded ids with holes and left padding, each row with a token."""
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, (rows, POSITION_LIMIT))
    mask[np.arange(rows), rng.integers(0, POSITION_LIMIT, rows)] = 1
    ids = np.where(mask, rng.integers(2, VOCABULARY, mask.shape), PAD_ID)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}, mask != 0


def check_padded(outputs: dict[str, Any], feeds: dict[str, Any], valid: Any) -> None:
    for row, kept in enumerate(valid):
        slots = np.flatnonzero(kept)
        hidden, pooled = reference(feeds["input_ids"][row, slots], np.zeros(len(slots), int), slots)
        assert_close(outputs["hidden"][row, slots], hidden, CLOSE)
        assert_close(outputs["pooled"][row], pooled, CLOSE)
        assert not outputs["hidden"][row, ~kept].any()


def packed_of(seed: int, rows: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, POSITION_LIMIT + 1, rows)
    ids = rng.integers(2, VOCABULARY, int(lengths.sum()))
    offsets = np.cumsum([0, *lengths]).astype(np.int32)
    return {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "cu_seqlens": offsets}


def check_packed(hidden: Any, feeds: dict[str, Any]) -> None:
    for start, end in zip(feeds["cu_seqlens"], feeds["cu_seqlens"][1:], strict=False):
        ids = feeds["input_ids"][start:end]
        assert_close(hidden[start:end], reference(ids, np.zeros(len(ids), int), np.arange(len(ids)))[0], CLOSE)


@pytest.mark.parametrize("seed", range(3))
def test_arrays_in_and_out(bundles: dict[str, pathlib.Path], seed: int) -> None:
    session = Session(bundles["padded"])
    assert session.native
    assert session.ort.get_providers()[0] == "CUDAExecutionProvider"
    feeds, valid = batch_of(seed)
    check_padded(session.run(feeds), feeds, valid)
    packed = packed_of(seed)
    check_packed(Session(bundles["ragged"]).run(packed)["hidden"], packed)


def test_tensors_of_the_device_in_and_out(bundles: dict[str, pathlib.Path]) -> None:
    session = Session(bundles["padded"])
    feeds, valid = batch_of(7)
    tensors = {**feeds, "input_ids": torch.from_numpy(feeds["input_ids"]).cuda()}
    outputs = session.run(tensors, on_device=True)
    assert {value.device for value in outputs.values()} == {(2, 0)}
    arrays = {name: torch.from_dlpack(value).cpu().numpy() for name, value in outputs.items()}
    check_padded(arrays, feeds, valid)
    np.testing.assert_array_equal(outputs["hidden"].numpy(), arrays["hidden"])
    masks = {**tensors, "attention_mask": torch.from_numpy(feeds["attention_mask"]).cuda()}
    check_padded(session.run(masks), feeds, valid)


def test_inputs_that_are_still_being_written_are_waited_for(bundles: dict[str, pathlib.Path]) -> None:
    session = Session(bundles["ragged"])
    for seed in range(5):
        feeds = packed_of(seed)
        ids = torch.full((len(feeds["input_ids"]),), PAD_ID, device="cuda")
        ready = torch.from_numpy(feeds["input_ids"]).cuda()
        torch.cuda._sleep(A_WHILE)
        ids.copy_(ready)
        check_packed(session.run({**feeds, "input_ids": ids})["hidden"], feeds)


def test_on_a_stream_of_the_callers_work_keeps_its_order(bundles: dict[str, pathlib.Path]) -> None:
    """Batches follow each other without any wait: plans, workspace and inputs must not be used again too early."""
    stream = torch.cuda.Stream()
    for io, make in (("padded", batch_of), ("ragged", packed_of)):
        session = Session(bundles[io], stream=stream.cuda_stream)
        kept = []
        with torch.cuda.stream(stream):
            session.run(_feeds(make(0)), on_device=True)  # kernels are loaded
            torch.cuda._sleep(A_WHILE)
            for seed in range(30):
                made = make(seed)
                feeds = dict(_feeds(made))
                feeds["input_ids"] = torch.from_numpy(feeds["input_ids"]).to("cuda", non_blocking=True)
                hidden = torch.from_dlpack(session.run(feeds, on_device=True)["hidden"])
                kept.append((made, hidden.clone()))
        stream.synchronize()
        for made, hidden in kept:
            array = hidden.cpu().numpy()
            if io == "ragged":
                check_packed(array, made)
            else:
                feeds, valid = made
                expected = Session(bundles[io]).run(feeds)["hidden"]
                assert_close(array, expected, CLOSE)
                assert not array[~valid].any()


def _feeds(made: Any) -> dict[str, Any]:
    return made[0] if isinstance(made, tuple) else made  # type: ignore[no-any-return]


def test_many_threads_and_sessions_at_once(bundles: dict[str, pathlib.Path]) -> None:
    shared = Session(bundles["padded"])
    sessions = [
        shared,
        shared,
        Session(bundles["padded"]),
        Session(bundles["padded"], stream=torch.cuda.Stream().cuda_stream),
    ]

    def work(number: int) -> None:
        session = sessions[number % len(sessions)]
        for seed in range(25):
            feeds, valid = batch_of(100 * number + seed, rows=1 + (number + seed) % 9)
            check_padded(session.run(feeds), feeds, valid)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, number) for number in range(8)]:
            done.result()


def test_cuda_graphs_replay_every_bucket(bundles: dict[str, pathlib.Path]) -> None:
    session = Session(bundles["ragged"], capacity=32, provider_options=GRAPHS)
    for seed in [*range(12), *range(12)]:
        feeds = packed_of(seed)
        check_packed(session.run(feeds)["hidden"], feeds)
    feeds = packed_of(3)
    count = session.bucket_tokens(np.diff(feeds["cu_seqlens"]).tolist())
    ids = torch.full((count,), PAD_ID, device="cuda")
    ids[: len(feeds["input_ids"])] = torch.from_numpy(feeds["input_ids"]).cuda()
    kinds = torch.zeros_like(ids)
    outputs = session.run({**feeds, "input_ids": ids, "token_type_ids": kinds}, on_device=True)
    check_packed(torch.from_dlpack(outputs["hidden"]).cpu().numpy(), feeds)


def test_padded_inputs_are_not_captured(bundles: dict[str, pathlib.Path]) -> None:
    with pytest.raises(InputError, match="--io ragged"):
        Session(bundles["padded"], provider_options=GRAPHS)
