from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from raggedrt.errors import InputError
from raggedrt.export.input_specs import graph_input_specs
from raggedrt.export.padding_cases import LAYOUTS, InputSpec, padding_cases

pytestmark = pytest.mark.none
INT64 = np.dtype(np.int64)
SPECS = [
    InputSpec("input_ids", INT64, ("batch", "sequence"), "ids", 0, 100),
    InputSpec("attention_mask", INT64, ("batch", "sequence"), "mask"),
    InputSpec("token_type_ids", INT64, ("batch", "sequence"), "values", 0, 2),
]


def by_name(**options: int) -> dict[str, np.ndarray]:
    return {case.name: case.valid for case in padding_cases(SPECS, **options)}


def test_every_kind_of_padding_is_there() -> None:
    valid = by_name()
    assert list(valid) == [name for name, *_ in LAYOUTS]
    assert valid["full"].all()
    assert (np.diff(valid["right padding"].astype(int)) <= 0).all()
    assert (np.diff(valid["left padding"].astype(int)) >= 0).all()
    assert valid["right padding"].sum(1).tolist()[0] == 17
    assert valid["right padding"].sum(1).tolist()[-1] == 1
    assert not valid["holes"][-1, 0]
    assert valid["holes"].any(1).all()
    assert (np.abs(np.diff(valid["holes"].astype(int))).sum(1) > 2).all()
    assert valid["empty row"].any(1).tolist() == [True, True, False]
    assert valid["one token"].shape == (2, 1)
    assert valid["one long row"].shape == (1, 72)


def test_feeds_vary_where_it_matters() -> None:
    for case in padding_cases(SPECS, pad_token_id=1):
        ids, types = case.feeds["input_ids"], case.feeds["token_type_ids"]
        assert (case.feeds["attention_mask"] == case.valid).all()
        assert (ids[~case.valid] == 1).all()
        assert (ids[case.valid] != 1).all()
        assert ids.min() >= 0
        assert ids.max() < 100
        if ids.size > 10:
            assert len(np.unique(ids[case.valid])) > 5
            assert set(np.unique(types)) == {0, 1}


def test_seed_and_limit() -> None:
    first, again, other = (padding_cases(SPECS, seed=seed)[1].feeds["input_ids"] for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    assert max(valid.shape[1] for valid in by_name(position_limit=10).values()) == 10


def test_fixed_sizes() -> None:
    specs = [InputSpec("input_ids", INT64, (2, 8), "ids", 0, 9), InputSpec("attention_mask", INT64, (2, 8), "mask")]
    cases = padding_cases(specs)
    assert {case.valid.shape for case in cases} == {(2, 8)}
    assert "one token" not in [case.name for case in cases]


def test_without_a_mask_only_full_rows() -> None:
    specs = [InputSpec("pixels", np.dtype(np.float32), ("batch", 3, 4))]
    cases = padding_cases(specs)
    assert {case.name for case in cases} == {"full", "one token", "one long row"}
    assert cases[0].feeds["pixels"].shape == (3, 3, 4)
    assert cases[0].feeds["pixels"].dtype == np.float32


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match="expected a mask"):
        padding_cases([InputSpec("attention_mask", INT64, ("batch", 1, "sequence"), "mask")])


def graph_with_table(dims: list[object]) -> ir.Model:
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, dims)
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["b", "s"])
    other = helper.make_tensor_value_info("other", TensorProto.INT32, ["b", 4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    table = helper.make_tensor("table", TensorProto.FLOAT, [37, 2], np.zeros(74))
    nodes = [
        helper.make_node("Unsqueeze", ["input_ids", "one"], ["wide"]),
        helper.make_node("Gather", ["table", "wide"], ["y"]),
    ]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    return ir.from_proto(helper.make_model(helper.make_graph(nodes, "g", [ids, mask, other], [out], [table, one])))


def test_specs_of_a_graph_follow_ids_to_their_table() -> None:
    ids, mask, other = graph_input_specs(graph_with_table(["b", "s"]))
    assert (ids.role, ids.high, ids.axes, ids.dtype) == ("ids", 37, ("batch", "sequence"), INT64)
    assert mask.role == "mask"
    assert (other.role, other.high, other.axes) == ("values", 2, ("batch", 4))


def test_specs_of_a_graph_refuse_what_they_cannot_tell() -> None:
    with pytest.raises(InputError, match="dynamic axis 2"):
        graph_input_specs(graph_with_table(["b", "s", "more"]))
