"""What the library refuses, and that the capability table promises exactly what it serves."""

from __future__ import annotations

import functools
import operator
import pathlib

import numpy as np
import onnx
import pytest

from helpers.op_models import case_model
from raggedrt.plugins.contract.abi import ABI_VERSION, Feature
from raggedrt.plugins.contract.capability import CAPABILITIES
from raggedrt.plugins.ops.arrays import Array
from raggedrt.plugins.ops.case import Case, Group
from raggedrt.plugins.ops.ragged_attention.cases import Problem
from raggedrt.plugins.registry import OPS
from raggedrt.plugins.runtime.library import library_info

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.ort_cpu

PLAIN = Case("plain", Group.CORRECTNESS, Problem(lengths=(3, 4)), {"num_heads": 4})


def load(model: onnx.ModelProto, library: pathlib.Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def plain_model(**attributes: int | float) -> tuple[onnx.ModelProto, dict[str, Array]]:
    inputs = PLAIN.inputs(np.dtype(np.float32))
    model = case_model("RaggedAttention", PLAIN, inputs, 20)
    node = model.graph.node[0]
    for name, value in attributes.items():
        for found in [attribute for attribute in node.attribute if attribute.name == name]:
            node.attribute.remove(found)
        node.attribute.append(onnx.helper.make_attribute(name, value))
    return model, {value.name: inputs[value.name] for value in model.graph.input}


def test_capability_table_is_what_the_library_says(library: pathlib.Path) -> None:
    info = library_info(library)
    assert info.abi == ABI_VERSION
    assert set(info.ops) == {op.name for op in OPS}
    served = functools.reduce(operator.or_, info.features.values())
    assert served == CAPABILITIES["ort-cpu"].features


def test_every_bit_that_is_not_served_is_refused(library: pathlib.Path) -> None:
    served = library_info(library).features["RaggedAttention"]
    for feature in Feature:
        model, feeds = plain_model(features=int(feature))
        if feature in served:
            assert load(model, library).run(None, feeds)[0].shape == feeds["query"].shape
            continue
        with pytest.raises(Exception, match=f"'node'.*{feature.name} .bit.*{library_info(library).version}"):
            load(model, library)


def test_an_unknown_bit_and_another_abi_are_refused(library: pathlib.Path) -> None:
    with pytest.raises(Exception, match=r"'node'.*bit 40"):
        load(plain_model(features=1 << 40)[0], library)
    with pytest.raises(Exception, match=r"'node'.*ABI version 99"):
        load(plain_model(abi=99)[0], library)


@pytest.mark.parametrize("missing", ["abi", "features", "num_heads"])
def test_a_missing_required_attribute_is_refused(missing: str, library: pathlib.Path) -> None:
    model, _ = plain_model()
    node = model.graph.node[0]
    kept = [attribute for attribute in node.attribute if attribute.name != missing]
    del node.attribute[:]
    node.attribute.extend(kept)
    with pytest.raises(Exception, match=f"attribute '{missing}' is missing"):
        load(model, library)


@pytest.mark.parametrize(
    "attributes", [{"softcap": 5.0}, {"window_left": 3}, {"window_right": 0}, {"dilation": 2}, {"block_size": 64}]
)
def test_attributes_without_their_bit_are_refused(attributes: dict[str, int | float], library: pathlib.Path) -> None:
    with pytest.raises(Exception, match=r"'node'.*'features' does not tell"):
        load(plain_model(**attributes)[0], library)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"softcap": -1.0}, "softcap must not be negative"),
        ({"dilation": 0}, "dilation must be at least 1"),
        ({"block_size": 12}, "multiple of 8"),
        ({"block_size": 2048}, "at most 1024"),
        ({"window_left": 2**40}, "32 bits"),
    ],
)
def test_impossible_attributes_are_refused(
    attributes: dict[str, int | float], message: str, library: pathlib.Path
) -> None:
    served = int(library_info(library).features["RaggedAttention"])
    with pytest.raises(Exception, match=f"'node'.*{message}"):
        load(plain_model(**attributes, features=served)[0], library)


def bad_feeds() -> dict[str, tuple[dict[str, Array], str]]:
    def offsets(*values: int) -> Array:
        return np.array(values, np.int32)

    wide = np.zeros((7, 4 * 257), np.float32)
    return {
        "past_the_end": ({"cu_seqlens_q": offsets(0, 3, 9)}, "past the last token"),
        "decreasing": ({"cu_seqlens_q": offsets(0, 5, 3)}, "must not decrease"),
        "not_from_zero": ({"cu_seqlens_q": offsets(1, 3, 7)}, "start with 0"),
        "key_width": ({"key": np.zeros((7, 16), np.float32)}, r"\[Tk, Nkv\*H\]"),
        "key_rows": ({"key": np.zeros((8, 32), np.float32)}, r"\[Tk, Nkv\*H\]"),
        "head_size": ({"query": wide, "key": wide, "value": wide}, "between 1 and 256"),
    }


@pytest.mark.parametrize("name", bad_feeds())
def test_bad_tensors_are_an_error_not_a_crash(name: str, library: pathlib.Path) -> None:
    model, feeds = plain_model()
    changed, message = bad_feeds()[name]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    with pytest.raises(Exception, match=f"RaggedAttention: .*{message}"):
        load(model, library).run(None, {**feeds, **changed})


def test_token_index_out_of_range_is_an_error(library: pathlib.Path) -> None:
    inputs = {"x": np.zeros((2, 3, 4), np.float32), "token_index": np.array([0, 6], np.int32)}
    case = Case("bad", Group.CORNER, lambda _rng, _dtype: inputs)
    with pytest.raises(Exception, match=r"token_index\[1\] is 6"):
        load(case_model("PackTokens", case, inputs, 20), library).run(None, inputs)


TERMS = ("bias", "distance_bias", "rel_query", "rel_key", "head_sink", "alibi_slopes")
SPARSE = Case(
    "sparse",
    Group.CORRECTNESS,
    Problem("left", 3, 21, positions=True, tiles=(1, 4), extra=(*TERMS, "rel_bucket", "head_group")),
    {"num_heads": 4, "block_size": 8, "window_left": 9},
)


def bad_masks() -> dict[str, tuple[dict[str, Array | None], str]]:
    inputs = SPARSE.inputs(np.dtype(np.float32))
    late, early = inputs["tile_ptr"].copy(), inputs["tile_ptr"].copy()
    late[0, 0, 1], early[0, 0, 0] = 10**6, -1
    column, tag = inputs["tile_col"].copy(), inputs["tile_tag"].copy()
    column[0], tag[0] = -1, len(inputs["tile_bits"])
    return {
        "one_side_of_positions": ({"positions_k": None}, "positions_q and positions_k, or neither"),
        "no_tile_bits": ({"tile_bits": None}, "all or none"),
        "row_past_the_end": ({"tile_ptr": late}, "tile_ptr must"),
        "row_before_the_start": ({"tile_ptr": early}, "tile_ptr must point"),
        "negative_column": ({"tile_col": column}, "tile_col must not be negative"),
        "unsorted_columns": ({"tile_col": np.zeros_like(column)}, "tile_col must ascend"),
        "no_such_bitmap": ({"tile_tag": tag}, "tile_tag must be"),
        "no_such_group": ({"head_group": np.full(4, 4, np.int32)}, "head_group must be a group"),
        "words": ({"tile_bits": inputs["tile_bits"][:, :1]}, r"\[P, block_size\^2 / 32\]"),
        "sequences": ({"tile_ptr": np.zeros((2, 4, 4), np.int32)}, r"\[B\|1, G, R\+1\]"),
        "short_bias": ({"bias": inputs["bias"][..., :20, :20]}, "outside of the bias"),
        "bias_of_other_heads": ({"bias": inputs["bias"][:, :3]}, r"bias must be \[1\|B, 1\|N, S, S\]"),
        "even_table": ({"distance_bias": inputs["distance_bias"][:, 1:]}, "distance_bias must be"),
        "table_of_other_heads": ({"distance_bias": inputs["distance_bias"][:2]}, "distance_bias must be"),
        "sink": ({"head_sink": np.zeros(3, np.float32)}, r"head_sink and alibi_slopes must be \[N\]"),
        "no_such_bucket": ({"rel_bucket": inputs["rel_bucket"] + 5}, "rel_bucket must hold"),
        "buckets_alone": ({"rel_query": None, "rel_key": None}, "disentangled terms are"),
        "rel_rows": ({"rel_query": inputs["rel_query"][1:]}, "rel_query, rel_key and rel_bucket must be"),
    }


@pytest.mark.parametrize("name", bad_masks())
def test_impossible_masks_and_terms_are_an_error_not_a_crash(name: str, library: pathlib.Path) -> None:
    inputs = SPARSE.inputs(np.dtype(np.float32))
    model = case_model("RaggedAttention", SPARSE, inputs, 20)
    del model.functions[:]
    changed, message = bad_masks()[name]
    node = next(node for node in model.graph.node if node.op_type == "RaggedAttention")
    for place, given in enumerate(node.input):
        if given in changed and changed[given] is None:
            node.input[place] = ""
    for value in [value for value in model.graph.input if value.name not in node.input]:
        model.graph.input.remove(value)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    session = load(model, library)
    feeds = {value.name: {**inputs, **changed}[value.name] for value in session.get_inputs()}
    with pytest.raises(Exception, match=f"RaggedAttention: .*{message}"):
        session.run(None, feeds)
