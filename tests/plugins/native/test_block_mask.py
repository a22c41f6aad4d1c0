"""The native BlockMask makes exactly the tiles that numpy makes; what is no mask is refused."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.mask_strategies import CLAUSES
from helpers.op_models import case_model
from raggedrt.plugins.contract.mask_rules import Rule, columns, encode, rows, window
from raggedrt.plugins.layout.from_rules import from_rules
from raggedrt.plugins.layout.tile_layout import TENSORS
from raggedrt.plugins.ops.arrays import Array
from raggedrt.plugins.ops.case import Case, Group

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort_cpu

_RULE = (0, 1, 0, 9, 1, 0, 9, 1, -3, 3, 1)


def built(
    library: pathlib.Path, inputs: dict[str, Array], block_size: int, numbers: tuple[int, ...]
) -> dict[str, Array]:
    case = Case("mask", Group.CORRECTNESS, lambda _rng, _dtype: inputs, {"block_size": 8, "rules": _RULE})
    model = case_model("BlockMask", case, inputs, 20)
    del model.functions[:]
    node = next(node for node in model.graph.node if node.op_type == "BlockMask")
    changed = {"block_size": block_size, "rules": numbers}
    kept = [attribute for attribute in node.attribute if attribute.name not in changed]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(
        onnx.helper.make_attribute(name, value, attr_type=onnx.AttributeProto.INTS if name == "rules" else None)
        for name, value in changed.items()
    )
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(TENSORS, session.run(list(TENSORS), inputs), strict=True))


@settings(derandomize=True, max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    clauses=CLAUSES,
    block_size=st.sampled_from([8, 16, 24, 40, 64]),
    length=st.integers(0, 150),
    seed=st.integers(0, 2**32 - 1),
    listed=st.booleans(),
    own=st.booleans(),
)
def test_tiles_are_those_of_numpy(
    clauses: list[list[Rule]],
    block_size: int,
    length: int,
    seed: int,
    listed: bool,
    own: bool,
    library: pathlib.Path,
) -> None:
    rng = np.random.default_rng(seed)
    inputs: dict[str, Array] = {"max_seqlen": np.zeros(length, np.float32)}
    blocks = rng.integers(-2, 8, (2, 6, 3)).astype(np.int32) if listed else None
    lengths = rng.integers(0, length + 9, 3) if own else None
    if blocks is not None:
        inputs["blocks"] = blocks
    if lengths is not None:
        inputs["cu_seqlens"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    expected = from_rules(clauses, length, block_size, blocks=blocks, own_lengths=lengths)
    for name, tensor in built(library, inputs, block_size, encode(clauses)).items():
        np.testing.assert_array_equal(tensor, getattr(expected, name), name)
        assert tensor.dtype == np.int32


def test_a_long_bigbird_mask(library: pathlib.Path) -> None:
    clauses = [[window(1, 1, unit=64), rows(0, 1, unit=64), columns(0, 1, unit=64), window(5, 9)]]
    expected = from_rules(clauses, 4000, 64)
    tiles = built(library, {"max_seqlen": np.zeros(4000, np.float32)}, 64, encode(clauses))
    for name, tensor in tiles.items():
        np.testing.assert_array_equal(tensor, getattr(expected, name), name)


@pytest.mark.parametrize(
    ("numbers", "block_size", "message"),
    [
        (_RULE[:-1], 8, "11 integers"),
        ((0, 0, *_RULE[2:]), 8, "at least 1"),
        ((2, *_RULE[1:]), 8, "in order"),
        ((*_RULE[:3], 2**40, *_RULE[4:]), 8, "32 bits"),
        (_RULE, 12, "multiple of 8"),
        (_RULE, 2048, "multiple of 8"),
    ],
)
def test_what_is_no_mask_is_refused(
    numbers: tuple[int, ...], block_size: int, message: str, library: pathlib.Path
) -> None:
    with pytest.raises(Exception, match=f"'node'.*BlockMask.*{message}"):
        built(library, {"max_seqlen": np.zeros(9, np.float32)}, block_size, numbers)
