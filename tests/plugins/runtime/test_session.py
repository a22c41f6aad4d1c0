"""Session.run: every form of feeds over both kinds of bundle, against the reference of each sequence alone."""

from __future__ import annotations

import pathlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from helpers.tolerances import EXACT, Tolerance, assert_close
from helpers.toy_bundles import WIDTH, Array, reference, toy_bundle, toy_draft
from raggedrt.plugins.bundle.manifest import InputRecord, TensorRecord
from raggedrt.plugins.bundle.writer import write_bundle
from raggedrt.plugins.contract.io_roles import Role
from raggedrt.plugins.runtime.feeds import bind_padded
from raggedrt.plugins.runtime.session import Session
from raggedrt.plugins.runtime.signature import make_signature

pytestmark = pytest.mark.ort_cpu

CLOSE = Tolerance(1e-5, 1e-5)
IO = ("padded", "ragged")
LENGTHS = ([5, 2, 7], [1], [4, 4], [0, 3, 0], [3, 0], [0, 0], [16, 1])


@pytest.fixture(scope="module", params=[False, True], ids=["bodies", "native"])
def sessions(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Session]:
    if request.param:
        request.getfixturevalue("op_library")
    folder = tmp_path_factory.mktemp("bundles")
    return {io: toy_bundle(folder / io, io).session(native=request.param, threads=1) for io in IO}


def sequences(lengths: list[int], seed: int = 0) -> tuple[list[Array], list[Array]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 20, n) for n in lengths], [rng.integers(0, 2, n) for n in lengths]


def padded(rows: list[Array], fill: int, slots: int | None = None) -> Array:
    out = np.full((len(rows), slots or max(map(len, rows))), fill, np.int64)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return out


def padded_feeds(lengths: list[int], slots: int | None = None) -> tuple[dict[str, Array], list[tuple[Array, Array]]]:
    ids, types = sequences(lengths)
    feeds = {
        "input_ids": padded(ids, 1, slots),
        "token_type_ids": padded(types, 0, slots),
        "attention_mask": padded([np.ones_like(i) for i in ids], 0, slots),
    }
    return feeds, [reference(i, t, np.arange(len(i))) for i, t in zip(ids, types, strict=True)]


def check_padded(outputs: dict[str, Array], want: list[tuple[Array, Array]], slots: int) -> None:
    hidden = np.zeros((len(want), slots, WIDTH), np.float32)
    for row, (values, _) in zip(hidden, want, strict=True):
        row[: len(values)] = values
    assert_close(outputs["hidden"], hidden, CLOSE, "hidden")
    assert_close(outputs["pooled"], np.stack([p for _, p in want]), CLOSE, "pooled")


@pytest.mark.parametrize("io", IO)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_lists_give_lists(sessions: dict[str, Session], io: str, lengths: list[int]) -> None:
    ids, types = sequences(lengths)
    outputs = sessions[io].run({"input_ids": ids, "token_type_ids": types})
    assert isinstance(outputs["hidden"], list)
    for got, i, t, pooled in zip(outputs["hidden"], ids, types, outputs["pooled"], strict=True):
        want = reference(i, t, np.arange(len(i)))
        assert_close(got, want[0], CLOSE, "hidden")
        assert_close(pooled, want[1], CLOSE, "pooled")


@pytest.mark.parametrize("io", IO)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_padded_arrays_give_padded_arrays(sessions: dict[str, Session], io: str, lengths: list[int]) -> None:
    slots = max(lengths) or 2
    feeds, want = padded_feeds(lengths, slots)
    check_padded(sessions[io].run(feeds), want, slots)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("with_max", [True, False])
def test_packed_arrays_give_packed_arrays(sessions: dict[str, Session], lengths: list[int], with_max: bool) -> None:
    ids, types = sequences(lengths)
    feeds: dict[str, Any] = {
        "input_ids": np.concatenate(ids),
        "token_type_ids": np.concatenate(types),
        "cu_seqlens": np.concatenate([[0], np.cumsum(lengths)]),
    }
    if with_max:
        feeds["max_seqlen"] = np.zeros(max(lengths) + 1, np.float32)
    outputs = sessions["ragged"].run(feeds)
    want = [reference(i, t, np.arange(len(i))) for i, t in zip(ids, types, strict=True)]
    assert_close(outputs["hidden"], np.concatenate([h for h, _ in want]), CLOSE, "hidden")
    assert_close(outputs["pooled"], np.stack([p for _, p in want]), CLOSE, "pooled")


def test_left_padding_and_holes_keep_their_slots_in_a_padded_bundle(sessions: dict[str, Session]) -> None:
    mask = np.array([[0, 0, 1, 1], [1, 0, 1, 0]])
    ids, types = np.arange(2, 10).reshape(2, 4), np.array([[1, 0, 1, 0], [0, 1, 1, 0]])
    outputs = sessions["padded"].run({"input_ids": ids, "token_type_ids": types, "attention_mask": mask})
    for row in range(2):
        slots = np.flatnonzero(mask[row])
        hidden, pooled = reference(ids[row, slots], types[row, slots], slots)
        assert_close(outputs["hidden"][row, slots], hidden, CLOSE, "hidden")
        assert_close(outputs["pooled"][row], pooled, CLOSE, "pooled")
        assert not outputs["hidden"][row, mask[row] == 0].any()


@pytest.mark.parametrize("io", IO)
@pytest.mark.parametrize(("rows", "slots"), [(0, 3), (2, 0), (0, 0)])
def test_batches_without_tokens_keep_shape_and_dtype(
    sessions: dict[str, Session], io: str, rows: int, slots: int
) -> None:
    empty = np.zeros((rows, slots), np.int64)
    outputs = sessions[io].run({"input_ids": empty, "attention_mask": empty})
    assert_close(outputs["hidden"], np.zeros((rows, slots, WIDTH), np.float32), EXACT)
    assert_close(outputs["pooled"], np.zeros((rows, WIDTH), np.float32), EXACT)


def test_packed_batch_of_zero(sessions: dict[str, Session]) -> None:
    outputs = sessions["ragged"].run({"input_ids": np.zeros(0, np.int64), "cu_seqlens": np.zeros(1, np.int32)})
    assert_close(outputs["hidden"], np.zeros((0, WIDTH), np.float32), EXACT)
    assert_close(outputs["pooled"], np.zeros((0, WIDTH), np.float32), EXACT)


@pytest.mark.parametrize("io", IO)
def test_an_input_with_a_default_may_be_left_out(sessions: dict[str, Session], io: str) -> None:
    feeds, _ = padded_feeds([3, 5])
    feeds["token_type_ids"][:] = 0
    with_it = sessions[io].run(feeds)
    del feeds["token_type_ids"]
    assert_close(sessions[io].run(feeds)["hidden"], with_it["hidden"], EXACT)
    full = {"input_ids": feeds["input_ids"], "attention_mask": np.ones((2, 5), np.int64)}
    no_mask = sessions[io].run({"input_ids": feeds["input_ids"]})
    assert_close(no_mask["hidden"], sessions[io].run(full)["hidden"], EXACT)
    ids, _ = sequences([3, 5])
    rows = sessions[io].run({"input_ids": ids})["hidden"]
    assert_close(rows[1], with_it["hidden"][1], CLOSE)


@pytest.mark.parametrize("io", IO)
@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.dtype(">i8")])
def test_integers_are_converted_where_they_fit(sessions: dict[str, Session], io: str, dtype: Any) -> None:
    feeds, want = padded_feeds([3, 5])
    feeds = {name: array.astype(dtype) for name, array in feeds.items()}
    feeds["attention_mask"] = feeds["attention_mask"].astype(bool)
    check_padded(sessions[io].run(feeds), want, 5)


@pytest.mark.parametrize("io", IO)
def test_python_lists_and_strided_arrays_are_read(sessions: dict[str, Session], io: str) -> None:
    feeds, want = padded_feeds([3, 5])
    check_padded(sessions[io].run({n: np.asfortranarray(a) for n, a in feeds.items()}), want, 5)
    ids, types = sequences([3, 0, 5])
    lists = {
        "input_ids": [i.tolist() for i in ids],
        "token_type_ids": [t.tolist() for t in types],
        "attention_mask": [[1] * len(i) for i in ids],
    }
    outputs = sessions[io].run(lists)
    for got, i, t in zip(outputs["hidden"], ids, types, strict=True):
        assert_close(got, reference(i, t, np.arange(len(i)))[0], CLOSE)


@pytest.mark.parametrize("io", IO)
def test_feeds_are_left_as_they_were(sessions: dict[str, Session], io: str) -> None:
    feeds, _ = padded_feeds([3, 0, 5])
    before = {name: array.copy() for name, array in feeds.items()}
    sessions[io].run(feeds)
    assert set(feeds) == set(before)
    for name, array in feeds.items():
        assert_close(array, before[name], EXACT, name)


@pytest.mark.parametrize("io", IO)
def test_many_threads_get_their_own_values(sessions: dict[str, Session], io: str) -> None:
    barrier = threading.Barrier(8)

    def work(seed: int) -> list[tuple[Array, Array]]:
        barrier.wait()
        pairs = []
        for round_number in range(10):
            ids, types = sequences([seed + 1, 3, round_number], seed * 100 + round_number)
            hidden = sessions[io].run({"input_ids": ids, "token_type_ids": types})["hidden"]
            pairs += [(h, reference(i, t, np.arange(len(i)))[0]) for h, i, t in zip(hidden, ids, types, strict=True)]
        return pairs

    with ThreadPoolExecutor(8) as pool:
        results = [pair for pairs in pool.map(work, range(8)) for pair in pairs]
    assert len(results) == 8 * 10 * 3
    for got, want in results:
        assert_close(got, want, CLOSE)


def test_arrays_of_the_right_dtype_are_not_copied(sessions: dict[str, Session]) -> None:
    feeds, _ = padded_feeds([3, 5])
    bound = bind_padded(make_signature(sessions["padded"].bundle.manifest), feeds)
    assert bound.arrays.keys() == feeds.keys()
    assert all(bound.arrays[name] is array for name, array in feeds.items())


def test_introspection(sessions: dict[str, Session]) -> None:
    session = sessions["padded"]
    assert [t.name for t in session.inputs] == ["input_ids", "token_type_ids", "attention_mask"]
    assert {t.name: t.shape for t in session.outputs}["hidden"] == ("batch", "sequence", WIDTH)
    assert session.native in (False, True)
    assert session.native == ("native=True" in repr(session))
    assert session.ort.get_session_options().intra_op_num_threads == 1


def test_session_takes_a_path_as_well_as_a_bundle(tmp_path: pathlib.Path) -> None:
    toy_bundle(tmp_path / "out")
    feeds, want = padded_feeds([2, 4])
    check_padded(Session(str(tmp_path / "out"), native=False, verify=True).run(feeds), want, 4)


def test_bfloat16_goes_in_and_out(tmp_path: pathlib.Path) -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
    g (bfloat16[B,S] x, int64[B,S] attention_mask) => (bfloat16[B,S] y, float[B,S] z) {
      z = Cast <to = 1> (x)
      y = Cast <to = 16> (z)
    }""")
    shape = ("batch", "sequence")
    draft = toy_draft(
        "padded",
        inputs=(
            InputRecord(name="x", role=Role.PER_TOKEN, dtype="bfloat16", shape=shape),
            InputRecord(name="attention_mask", role=Role.ATTENTION_MASK, dtype="int64", shape=shape),
        ),
        outputs=(
            TensorRecord(name="y", role=Role.PER_TOKEN, dtype="bfloat16", shape=shape),
            TensorRecord(name="z", role=Role.PER_TOKEN, dtype="float32", shape=shape),
        ),
    )
    session = write_bundle(tmp_path / "out", draft, {"model.onnx": model.SerializeToString()}).session(native=False)
    x = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
    outputs = session.run({"x": x, "attention_mask": np.array([[1, 1, 1], [0, 0, 0]])})
    want = np.where([[True], [False]], x, x * 0)
    assert_close(outputs["y"], want, EXACT)
    assert_close(outputs["z"], want.astype(np.float32), EXACT)
    assert_close(session.run({"x": [x[0], x[1, :0]]})["y"][0], x[0], EXACT)
