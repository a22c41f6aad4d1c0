"""`config.pbtxt`: what the server batches, what it makes itself, and what it scatters to the requests."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.text_proto import parse_text_proto
from helpers.toy_bundles import toy_draft
from raggedrt.errors import InputError
from raggedrt.plugins.bundle.manifest import InputRecord, Manifest, TensorRecord, draft_to_manifest
from raggedrt.plugins.contract.io_roles import Role
from raggedrt.triton import Deployment, config_text

pytestmark = pytest.mark.none


def _deployment(**changes: Any) -> Deployment:
    facts: dict[str, Any] = {
        "name": "toy",
        "backend": "onnxruntime",
        "file": "model.onnx",
        "gpu": False,
        "max_batch_size": 32,
        "queue_delay_microseconds": 500,
    }
    return Deployment(**{**facts, **changes})


def _manifest(io: str, **changes: Any) -> Manifest:
    return draft_to_manifest(toy_draft(io, **changes), {})


def test_ragged_requests_are_batched_without_padding() -> None:
    config = parse_text_proto(config_text(_manifest("ragged"), _deployment(op_library="/models/toy/lib/x.so")))
    assert config["name"] == ["toy"]
    assert config["backend"] == ["onnxruntime"]
    assert config["max_batch_size"] == [32]
    ragged = {"data_type": ["TYPE_INT64"], "dims": [-1], "allow_ragged_batch": [True]}
    assert config["input"] == [{"name": [name], **ragged} for name in ("input_ids", "token_type_ids")]
    assert config["batch_input"] == [
        {
            "kind": ["BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO"],
            "target_name": ["cu_seqlens"],
            "data_type": ["TYPE_INT32"],
            "source_input": ["input_ids"],
        },
        {
            "kind": ["BATCH_MAX_ELEMENT_COUNT_AS_SHAPE"],
            "target_name": ["max_seqlen"],
            "data_type": ["TYPE_FP32"],
            "source_input": ["input_ids"],
        },
    ]
    assert config["output"] == [
        {"name": ["hidden"], "data_type": ["TYPE_FP32"], "dims": [-1, 8]},
        {"name": ["pooled"], "data_type": ["TYPE_FP32"], "dims": [8]},
    ]
    assert config["batch_output"] == [
        {"target_name": ["hidden"], "kind": ["BATCH_SCATTER_WITH_INPUT_SHAPE"], "source_input": ["input_ids"]}
    ]
    assert config["model_operations"] == [{"op_library_filename": ["/models/toy/lib/x.so"]}]
    assert config["instance_group"] == [{"count": [1], "kind": ["KIND_CPU"]}]
    assert config["dynamic_batching"] == [{"max_queue_delay_microseconds": [500]}]


def test_padded_requests_are_given_whole() -> None:
    config = parse_text_proto(config_text(_manifest("padded"), _deployment()))
    assert [field["name"] for field in config["input"]] == [["input_ids"], ["token_type_ids"], ["attention_mask"]]
    assert all(field["dims"] == [-1] and "allow_ragged_batch" not in field for field in config["input"])
    assert not {"batch_input", "batch_output", "model_operations"} & config.keys()


def test_an_engine_is_served_by_tensorrt_with_every_profile() -> None:
    changes = {"backend": "tensorrt", "file": "model.plan", "gpu": True, "profiles": 3}
    config = parse_text_proto(config_text(_manifest("ragged"), _deployment(**changes)))
    assert config["default_model_filename"] == ["model.plan"]
    assert config["instance_group"] == [{"count": [1], "kind": ["KIND_GPU"], "profile": ["0", "1", "2"]}]


def test_an_output_with_one_number_per_sequence_has_no_axes_of_its_own() -> None:
    score = TensorRecord(name="score", role=Role.PER_SEQUENCE, dtype="float16", shape=("batch",))
    config = parse_text_proto(config_text(_manifest("ragged", outputs=(score,)), _deployment()))
    assert config["output"] == [
        {"name": ["score"], "data_type": ["TYPE_FP16"], "dims": [1], "reshape": [{"shape": []}]}
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"role": Role.PER_TOKEN, "shape": ("tokens", 4), "dtype": "float32"}, "one axis only"),
        ({"role": Role.OTHER, "shape": (3,), "dtype": "float32"}, "no batch axis"),
        ({"role": Role.PER_TOKEN, "shape": ("tokens",), "dtype": "complex64"}, "element type complex64"),
    ],
)
def test_what_the_server_has_no_form_for_is_refused(record: dict[str, Any], message: str) -> None:
    inputs = (*toy_draft("ragged").inputs, InputRecord(name="extra", **record))
    with pytest.raises(InputError, match=message):
        config_text(_manifest("ragged", inputs=inputs), _deployment())


def test_names_are_quoted() -> None:
    config = parse_text_proto(config_text(_manifest("ragged"), _deployment(op_library='/a "b"\\c.so')))
    assert config["model_operations"][0]["op_library_filename"] == ['/a "b"\\c.so']


def test_the_tensorrt_provider_has_its_options() -> None:
    options = {"trt_extra_plugin_lib_paths": "/models/toy/lib/x.so", "trt_profile_min_shapes": "input_ids:1x1"}
    changes = {"file": "model.trt.onnx", "gpu": True, "accelerator": options}
    config = parse_text_proto(config_text(_manifest("padded"), _deployment(**changes)))
    assert config["default_model_filename"] == ["model.trt.onnx"]
    (accelerators,) = config["optimization"][0]["execution_accelerators"]
    (accelerator,) = accelerators["gpu_execution_accelerator"]
    assert accelerator["name"] == ["tensorrt"]
    assert {entry["key"][0]: entry["value"][0] for entry in accelerator["parameters"]} == options
