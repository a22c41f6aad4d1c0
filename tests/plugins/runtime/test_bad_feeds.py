"""What Session.run refuses, and that the one paragraph names the input and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.toy_bundles import toy_bundle, toy_draft
from raggedrt.errors import InputError
from raggedrt.plugins.bundle.manifest import InputRecord
from raggedrt.plugins.contract.io_roles import Role
from raggedrt.plugins.runtime.session import Session

pytestmark = pytest.mark.ort_cpu

IDS = np.full((2, 3), 5)
ONES = np.ones((2, 3), np.int64)
GOOD = {"input_ids": IDS, "attention_mask": ONES}


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Session]:
    folder = tmp_path_factory.mktemp("bundles")
    return {io: toy_bundle(folder / io, io).session(native=False, threads=1) for io in ("padded", "ragged")}


BOTH: list[tuple[Any, str]] = [
    ([IDS], "mapping of input names"),
    ({**GOOD, "tokens": IDS}, "no input 'tokens'; it takes input_ids"),
    ({}, "'input_ids' is missing"),
    ({"attention_mask": ONES}, "'input_ids' is missing"),
    ({**GOOD, "input_ids": IDS.astype(np.float32)}, "dtype float32, expected int64"),
    ({**GOOD, "input_ids": IDS.astype(object)}, "dtype object, expected int64"),
    ({**GOOD, "input_ids": IDS.astype(str)}, "expected int64"),
    ({**GOOD, "input_ids": np.full((2, 3), 2**63, np.uint64)}, "values outside int64"),
    ({**GOOD, "input_ids": IDS[0]}, r"'input_ids' has shape \[3\], expected \[batch, sequence\]"),
    ({**GOOD, "input_ids": IDS[:, :2]}, "batch and sequence length must agree"),
    ({**GOOD, "token_type_ids": IDS[:1]}, "batch and sequence length must agree"),
    ({"input_ids": np.full((1, 17), 5), "attention_mask": np.ones((1, 17), int)}, "17 tokens, and the model has 16"),
    ({"input_ids": np.full((1, 3), 99), "attention_mask": np.ones((1, 3), int)}, "out of data bounds"),
    ({"input_ids": []}, "empty list"),
    ({"input_ids": [1, 2, 3]}, r"one sequence; give a list of sequences"),
    ({"input_ids": [[1, 2], [[1], [2]]]}, "different shapes per token"),
    ({"input_ids": [[[1, 2]], [[1], [2, 3]]]}, "cannot be read as an array"),
    ({"input_ids": [[1.5, 2.0]]}, "dtype float64, expected int64"),
    ({"input_ids": [["a"]]}, "expected int64"),
    ({"input_ids": [[5] * 17]}, "17 tokens, and the model has 16"),
    ({"input_ids": [[5, 5], [5]], "token_type_ids": [[0, 0]]}, "not as many or as long"),
    ({"input_ids": [[5, 5], [5]], "token_type_ids": [[0, 0], [0, 0]]}, "not as many or as long"),
    ({"input_ids": [[5, 5]], "token_type_ids": np.zeros((1, 2), int)}, "while others are lists"),
    ({"input_ids": [[5, 5]], "attention_mask": [[1, 0]]}, "'attention_mask' has zeros"),
    ({"token_type_ids": [[0, 0]]}, "'input_ids' is missing"),
    ({"input_ids": [[5, 5]], "cu": [[1]]}, "no input 'cu'"),
]


@pytest.mark.parametrize("io", ["padded", "ragged"])
@pytest.mark.parametrize(("feeds", "message"), BOTH, ids=[str(n) for n in range(len(BOTH))])
def test_refused_by_both(sessions: dict[str, Session], io: str, feeds: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        sessions[io].run(feeds)
    assert "\n" not in str(caught.value)


SIX = np.full(6, 5)
RAGGED: list[tuple[dict[str, Any], str]] = [
    ({"input_ids": SIX, "cu_seqlens": [1, 6]}, "cu_seqlens must start at 0"),
    ({"input_ids": SIX, "cu_seqlens": [0, 4, 3, 6]}, "cu_seqlens must start at 0"),
    ({"input_ids": SIX, "cu_seqlens": [0, 4]}, "end with the token count"),
    ({"input_ids": SIX, "cu_seqlens": np.zeros(0, np.int32)}, "cu_seqlens must start at 0"),
    ({"input_ids": SIX, "cu_seqlens": np.array([0.0, 6.0])}, "dtype float64, expected int32"),
    ({"input_ids": SIX, "cu_seqlens": np.array([0, 2**40])}, "values outside int32"),
    ({"input_ids": SIX, "cu_seqlens": 6}, r"'cu_seqlens' has shape \[\]"),
    ({"input_ids": SIX, "cu_seqlens": [0, 6], "max_seqlen": np.zeros(5, np.float32)}, "length must not be smaller"),
    ({"input_ids": IDS, "cu_seqlens": [0, 6]}, r"'input_ids' has shape \[2, 3\], expected \[tokens\]"),
    ({"input_ids": np.full(17, 5), "cu_seqlens": [0, 17]}, "17 tokens, and the model has 16"),
    ({"input_ids": SIX, "cu_seqlens": [0, 6], "attention_mask": ONES}, "no input 'attention_mask'"),
    ({"input_ids": IDS, "attention_mask": np.array([[0, 1, 1], [1, 1, 1]])}, "left padding or holes"),
    ({"input_ids": IDS, "attention_mask": np.array([[1, 0, 1], [1, 1, 1]])}, "left padding or holes"),
]


@pytest.mark.parametrize(("feeds", "message"), RAGGED, ids=[str(n) for n in range(len(RAGGED))])
def test_refused_by_ragged_bundles(sessions: dict[str, Session], feeds: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sessions["ragged"].run(feeds)


def test_a_padded_bundle_takes_no_packed_tokens(sessions: dict[str, Session]) -> None:
    with pytest.raises(InputError, match="no input 'cu_seqlens'"):
        sessions["padded"].run({"input_ids": SIX, "cu_seqlens": np.array([0, 6], np.int32)})


def test_a_manifest_that_does_not_fit_its_model_is_refused(tmp_path: Any) -> None:
    wrong = (InputRecord(name="input_ids", role=Role.PER_TOKEN, dtype="int64", shape=("batch", "sequence")),)
    with pytest.raises(InputError, match="lists inputs"):
        toy_bundle(tmp_path / "out", inputs=wrong).session(native=False)
    odd = (InputRecord(name="input_ids", role=Role.PER_TOKEN, dtype="int65", shape=("batch", "sequence")),)
    with pytest.raises(InputError, match="unknown dtype 'int65'"):
        toy_bundle(tmp_path / "odd", inputs=odd).session(native=False)
    flat = (InputRecord(name="input_ids", role=Role.PER_TOKEN, dtype="int64", shape=("batch",)),)
    with pytest.raises(InputError, match="role per_token but shape"):
        toy_bundle(tmp_path / "flat", inputs=flat).session(native=False)


def test_a_mask_without_default_is_required(tmp_path: Any) -> None:
    draft = toy_draft("padded")
    inputs = tuple(record.model_copy(update={"default": None}) for record in draft.inputs)
    session = toy_bundle(tmp_path / "out", inputs=inputs).session(native=False)
    with pytest.raises(InputError, match="'token_type_ids' is missing"):
        session.run({"input_ids": IDS, "attention_mask": ONES})
    with pytest.raises(InputError, match="'attention_mask' is missing"):
        session.run({"input_ids": IDS, "token_type_ids": IDS})
