"""Tensors of other libraries in and out of sessions without copies, on the CPU; buffers that stay."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from helpers.tolerances import Tolerance, assert_close
from helpers.toy_bundles import reference, toy_bundle
from raggedrt.errors import InputError
from raggedrt.plugins.runtime.calls import Caller, FixedBuffers, Place
from raggedrt.plugins.runtime.device_tensors import DeviceTensor, is_tensor, take
from raggedrt.plugins.runtime.session import Session

torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort_cpu

CLOSE = Tolerance(1e-5, 1e-5)
ROWS = ([4, 5, 6, 7, 8], [9], [3, 2, 12])
OFFSETS = np.cumsum([0, *map(len, ROWS)]).astype(np.int32)


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(toy_bundle(tmp_path_factory.mktemp("toy") / "padded"), native=False)


@pytest.fixture(scope="module")
def ragged_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return toy_bundle(tmp_path_factory.mktemp("toy") / "ragged", "ragged").path


def _expected(row: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return reference(np.array(row), np.zeros(len(row), int), np.arange(len(row)))


def _packed() -> dict[str, np.ndarray]:
    return {"input_ids": np.concatenate(ROWS), "token_type_ids": np.zeros(OFFSETS[-1], np.int64), "cu_seqlens": OFFSETS}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "int32", "bool"])
def test_a_tensor_is_taken_and_given_without_a_copy(dtype: str) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    taken = take("x", tensor)
    assert (taken.dtype.name, taken.shape, taken.on_cpu) == (dtype, (2, 3), True)
    assert taken.value.data_ptr() == tensor.data_ptr()
    np.testing.assert_array_equal(taken.numpy().astype(np.float64), tensor.to(torch.float64).numpy())
    back = torch.from_dlpack(taken)
    assert back.data_ptr() == tensor.data_ptr()
    assert back.tolist() == tensor.to(back.dtype).tolist()


def test_memory_lives_as_long_as_who_shares_it() -> None:
    tensor = torch.full((1000,), 3.5)
    taken = take("x", tensor)
    del tensor
    torch.full((1000,), -1.0)
    assert (taken.numpy() == 3.5).all()


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2, 3).T, "not contiguous"),
        (torch.ones(2, requires_grad=True), "gradient"),
        (torch.ones(2, dtype=torch.complex64), "cannot be read"),
    ],
)
def test_tensors_that_cannot_be_taken(tensor: object, message: str) -> None:
    with pytest.raises(InputError, match=f"'x'.*{message}"):
        take("x", tensor)


def test_plain_arrays_and_host_tensors_keep_to_numpy() -> None:
    assert not is_tensor(np.zeros(3))
    assert not is_tensor([1, 2])
    assert not is_tensor(torch.zeros(3))
    assert is_tensor(torch.zeros(3, dtype=torch.bfloat16))
    assert is_tensor(take("x", torch.zeros(3)))


def test_padded_tensors_in_and_tensors_out(padded: Session) -> None:
    ids = torch.tensor([[4, 5, 6], [9, 8, 1]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    feeds = {"input_ids": take("input_ids", ids), "attention_mask": mask}
    outputs = padded.run(feeds, on_device=True)
    assert all(isinstance(value, DeviceTensor) for value in outputs.values())
    hidden = torch.from_dlpack(outputs["hidden"])
    assert_close(hidden[0].numpy(), _expected([4, 5, 6])[0], CLOSE)
    assert_close(hidden[1, :2].numpy(), _expected([9, 8])[0], CLOSE)
    assert not hidden[1, 2].any()
    host = padded.run(feeds)
    np.testing.assert_array_equal(host["hidden"], hidden.numpy())
    assert isinstance(host["pooled"], np.ndarray)


def test_host_tensors_of_torch_are_arrays_like_any_other(padded: Session) -> None:
    ids = torch.tensor([[4, 5, 6]])
    assert_close(padded.run({"input_ids": ids})["hidden"][0], _expected([4, 5, 6])[0], CLOSE)


def test_what_cannot_stay_on_the_device_says_why(padded: Session, ragged_folder: pathlib.Path) -> None:
    ids = np.array([[4, 5], [1, 1]])
    with pytest.raises(InputError, match="a sequence has no token"):
        padded.run({"input_ids": ids, "attention_mask": [[1, 1], [0, 0]]}, on_device=True)
    with pytest.raises(InputError, match=r"on_device needs .* padded arrays"):
        padded.run({"input_ids": [[4, 5]]}, on_device=True)
    ragged = Session(ragged_folder, native=False)
    with pytest.raises(InputError, match="packed arrays with cu_seqlens"):
        ragged.run({"input_ids": ids}, on_device=True)
    with pytest.raises(InputError, match="given packed"):
        ragged.run({"input_ids": take("input_ids", torch.from_numpy(ids)), "attention_mask": [[1, 1], [1, 0]]})
    with pytest.raises(InputError, match="int32 on its device, expected int64"):
        ragged.run({**_packed(), "input_ids": take("input_ids", torch.zeros(9, dtype=torch.int32))})


@pytest.mark.parametrize("capacity", [None, 1, 4, 16, 64])
def test_buckets_change_no_value(capacity: int | None, ragged_folder: pathlib.Path) -> None:
    session = Session(ragged_folder, native=False, capacity=capacity)
    outputs = session.run(_packed())
    assert outputs["hidden"].shape == (9, 8)
    for number, row in enumerate(ROWS):
        hidden, pooled = _expected(row)
        assert_close(outputs["hidden"][OFFSETS[number] : OFFSETS[number + 1]], hidden, CLOSE)
        assert_close(outputs["pooled"][number], pooled, CLOSE)
    lists = session.run({"input_ids": [np.array(row) for row in (*ROWS, [])]})
    assert [len(rows) for rows in lists["hidden"]] == [5, 1, 3, 0]
    assert not lists["pooled"][3].any()


def test_device_tokens_have_the_size_of_the_bucket(ragged_folder: pathlib.Path) -> None:
    session = Session(ragged_folder, native=False, capacity=16)
    count = session.bucket_tokens([len(row) for row in ROWS])
    assert count == 16
    ids = torch.full((count,), 1)
    ids[:9] = torch.from_numpy(np.concatenate(ROWS))
    outputs = session.run({"input_ids": take("input_ids", ids), "cu_seqlens": OFFSETS}, on_device=True)
    hidden = torch.from_dlpack(outputs["hidden"])
    assert hidden.shape == (16, 8)
    assert_close(hidden[6:9].numpy(), _expected(ROWS[2])[0], CLOSE)
    short = take("input_ids", ids[:12].clone())
    with pytest.raises(InputError, match="has 12 tokens on its device, and the bucket 16"):
        session.run({"input_ids": short, "cu_seqlens": OFFSETS})
    with pytest.raises(InputError, match="open it with capacity"):
        Session(ragged_folder, native=False).bucket_tokens([3])


def test_buffers_that_stay_give_what_a_plain_run_gives(ragged_folder: pathlib.Path) -> None:
    session = Session(ragged_folder, native=False)
    fixed = FixedBuffers(session.ort, ["hidden", "pooled"], Place())
    rng = np.random.default_rng(0)
    addresses = set()
    for tokens in (6, 9, 6, 6, 9):
        offsets = np.array([0, 2, tokens], np.int32)
        feeds = {
            "input_ids": rng.integers(2, 15, tokens),
            "token_type_ids": np.zeros(tokens, np.int64),
            "cu_seqlens": offsets,
            "max_seqlen": np.zeros(8, np.float32),
        }
        expected = session.ort.run(["hidden", "pooled"], feeds)
        given = fixed.run(feeds, copy=False)
        addresses.add((tokens, given[0].value.data_ptr()))
        for got, want in zip(given, expected, strict=True):
            np.testing.assert_array_equal(got.numpy(), want)
    assert len(addresses) == 2


def test_copies_of_fixed_buffers_are_the_callers(ragged_folder: pathlib.Path) -> None:
    session = Session(ragged_folder, native=False)
    fixed = FixedBuffers(session.ort, ["hidden", "pooled"], Place())
    feeds = {**_packed(), "max_seqlen": np.zeros(8, np.float32)}
    first = fixed.run(feeds, copy=True)[0].numpy()
    before = first.copy()
    fixed.run({**feeds, "input_ids": feeds["input_ids"][::-1].copy()}, copy=True)
    np.testing.assert_array_equal(first, before)


def test_the_default_stream_is_no_stream_to_name(ragged_folder: pathlib.Path) -> None:
    with pytest.raises(InputError, match="has no handle"):
        Session(ragged_folder, native=False, stream=0)


def test_engines_take_arrays() -> None:
    class Engine:
        def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [feeds["x"] + 1 for _ in names]

    call = Caller(Engine(), ["y"], Place(), beyond_numpy=False)
    assert call({"x": np.zeros(2)})["y"].tolist() == [1, 1]
    with pytest.raises(InputError, match="engines take and give arrays"):
        call({"x": np.zeros(2)}, on_device=True)
    with pytest.raises(InputError, match="engines take and give arrays"):
        call({"x": take("x", torch.zeros(2))})


def test_graphs_need_packed_inputs_and_few_shapes(padded: Session, ragged_folder: pathlib.Path) -> None:
    graphs = [("CPUExecutionProvider", {"enable_cuda_graph": "1"})]
    with pytest.raises(InputError, match="--io ragged"):
        Session(padded.bundle, providers=graphs, native=False)
    with pytest.raises(InputError, match="--io ragged"):
        Session(padded.bundle, native=False, capacity=64)
    with pytest.raises(InputError, match="give capacity"):
        Session(ragged_folder, providers=graphs, native=False)
